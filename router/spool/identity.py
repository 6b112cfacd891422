"""Keeps a PostgreSQL database and the folder with its blobs together, by an id that both have.

A node with another folder would not find the blobs of other nodes' rows, and would give up on their deliveries.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import sqlalchemy as sa

from router.spool.blobs import sync_folder
from router.spool.errors import SpoolError
from router.spool.schema import identity

FILE = "spool-id"
LONGEST = 64


def keep_together(write: sa.Engine, folder: Path) -> None:
    """Make the id at the first start, and refuse a folder that is not the database's. Raises SpoolError, OSError."""
    path = folder / FILE
    here = _read(path)
    with write.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE spool IN EXCLUSIVE MODE")  # two nodes may make it at once
        there = connection.execute(sa.select(identity.c.id)).scalar()
        if there is None:
            if here is None:
                here = secrets.token_hex(16)
                _write(path, here)
            connection.execute(identity.insert().values(id=here))
        elif here is None:
            raise SpoolError(
                f"{folder} is not the folder that belongs to spool.database; give this node the spool.path of the "
                f"others, or a database of its own (if it is that folder, write {there} into {path})"
            )
        elif here != there:
            raise SpoolError(
                f"{folder} belongs to another database than spool.database; put the right one back, or start with a "
                "new folder and a new database (nothing was changed)"
            )


def _read(path: Path) -> str | None:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(LONGEST).strip() or None
    except FileNotFoundError:
        return None


def _write(path: Path, value: str) -> None:
    """Write the id durably, whole or not at all. It comes before the row, so no folder is refused after a crash."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)
