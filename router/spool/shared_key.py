"""The key of the hashes that people find by: a file in the folder, and on PostgreSQL a row, since all nodes need one.

A folder keeps the file beside the row, because nodes of an earlier version know only the file.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from router.observe import log
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.keyed import KEY_FILE, Key, key_of, make_key
from router.spool.node_rows import shared_key


class OtherKeyError(SpoolError):
    """Folder and database have different keys."""

    exit_code = 2


class Keys:
    """The key of one spool."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder

    def key(self) -> Key | None:
        """The key; None if no node has made one yet. Raises SpoolError."""
        if self._database.is_sqlite:
            return key_of(self._folder)
        return self._database.ask(_there) or key_of(self._folder)

    def made(self) -> Key | None:
        """The key, made if there is none. A disk without room for it must not keep a node from starting.

        Raises OtherKeyError; on PostgreSQL SpoolError too, because there a node without the key would keep no study
        together, while the others do.
        """
        try:
            return make_key(self._folder) if self._database.is_sqlite else self._agreed()
        except OtherKeyError:
            raise
        except (SpoolError, OSError) as error:
            if isinstance(error, SpoolError) and not self._database.is_sqlite:
                raise
            reason = str(error) if isinstance(error, SpoolError) else error.strerror
            log.warning("no key to find by", reason=reason)
            return None

    def _agreed(self) -> Key:
        """The database's key. The first node makes it, or gives its folder's."""
        known = self._database.run(self._enter)
        if key_of(self._folder) is None:
            with suppress(OSError):  # the row is enough
                make_key(self._folder, known.secret)
        return known

    def _enter(self, connection: sa.Connection) -> Key:
        connection.exec_driver_sql("LOCK TABLE shared_key IN EXCLUSIVE MODE")  # two nodes may make it at once
        there, here = _there(connection), key_of(self._folder)
        if there is None:
            there = here or make_key(self._folder)
            connection.execute(shared_key.insert().values(id=1, secret=there.secret.hex()))
        elif here is not None and here != there:
            raise OtherKeyError(
                f"{self._folder / KEY_FILE} is not the key of spool.database, so what one node writes down another "
                "would not find; move the file away, if no other database needs it"
            )
        return there


def _there(connection: sa.Connection) -> Key | None:
    secret = connection.execute(sa.select(shared_key.c.secret)).scalar()
    return None if secret is None else Key(bytes.fromhex(secret))
