"""Which version a database's schema has, and whether this program may work with it.

A migration that only adds what older programs do not need leaves `oldest` as it is. So they go on beside the newer one,
and a group of nodes is updated one node after the other. A migration that older programs cannot live with sets `oldest`
to its own version.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import sqlalchemy as sa

from router.spool.errors import ForeignDatabaseError, SpoolError
from router.spool.schema import metadata

compatibility = sa.Table(
    "compatibility",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("oldest", sa.String(32), nullable=False),
)
"""One row: the oldest version that a program must know to work with this database."""


class NewerError(SpoolError):
    """A newer program has changed the database so that this one cannot work with it."""


OURS = re.compile(r"\d{4}")
ALEMBICS = "alembic_version"
SHOWN = 3
LOCK = 0x6469636F6D
"""The number of the advisory lock that one migrator at a time holds. Locks belong to one database."""


def current(connection: sa.Connection) -> str | None:
    """The version of the schema; None for an empty database. Raises ForeignDatabaseError if it is another program's."""
    from alembic.runtime.migration import MigrationContext

    there = MigrationContext.configure(connection).get_current_revision()
    if there is not None and OURS.fullmatch(there):
        return there
    others = sorted(set(sa.inspect(connection).get_table_names()) - {ALEMBICS})
    if there is None and not others:
        return None
    few = ", ".join(others[:SHOWN]) + (" …" if len(others) > SHOWN else "")
    raise ForeignDatabaseError(
        f"spool.database is the database of another program (its tables: {few}); give the node a database of its own "
        "(nothing was changed)"
    )


def is_newer(connection: sa.Connection, there: str, known: Collection[str]) -> bool:
    """Whether a newer program has changed the schema, in a way that this one can work with.

    Raises NewerError if it cannot.
    """
    if there in known:
        return False
    oldest = "nothing"
    if sa.inspect(connection).has_table(compatibility.name):
        oldest = connection.execute(sa.select(compatibility.c.oldest)).scalar() or oldest
    if oldest not in known:
        raise NewerError(
            f"the spool's database has version {there}, which is newer than this program; "
            "install the newer dicom-router again (nothing was changed)"
        )
    return True


def wait_for_others(connection: sa.Connection) -> None:
    """One migrator at a time (PostgreSQL). The lock ends with the transaction, also if its process is killed."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
