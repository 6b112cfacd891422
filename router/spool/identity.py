"""Keeps a PostgreSQL database and the place with its blobs together, by an id that both have.

A node with another folder or bucket would not find the blobs of other nodes' rows, and would give up on their
deliveries.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from router.spool.blobs import sync_folder
from router.spool.engine import begun
from router.spool.errors import SpoolError
from router.spool.schema import identity

FILE = "spool-id"
LONGEST = 64


class Place(Protocol):
    """Where the blobs lie."""

    @property
    def place(self) -> str: ...

    def read_id(self) -> str | None: ...

    def write_id(self, value: str) -> None: ...


class Folder:
    """A spool's folder as a place."""

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._path = folder / FILE

    def read_id(self) -> str | None:
        return _read(self._path)

    def write_id(self, value: str) -> None:
        _write(self._path, value)


def keep_together(write: sa.Engine, blobs: Place) -> None:
    """Make the id at the first start, and refuse a place that is not the database's. Raises SpoolError, OSError."""
    with begun(write) as connection:
        connection.exec_driver_sql("LOCK TABLE spool IN EXCLUSIVE MODE")  # two nodes may make it at once
        here = blobs.read_id()
        there = connection.execute(sa.select(identity.c.id)).scalar()
        if there is None:
            if here is None:
                here = secrets.token_hex(16)
                blobs.write_id(here)
            connection.execute(identity.insert().values(id=here))
        elif here is None:
            raise SpoolError(
                f"{blobs.place} is not the place that belongs to spool.database; give this node the spool.path or "
                f"spool.blobs of the others, or a database of its own (if it is that place, write {there} into "
                f"{blobs.place}/{FILE})"
            )
        elif here != there:
            raise SpoolError(
                f"{blobs.place} belongs to another database than spool.database; put the right one back, or start with "
                "a new place for blobs and a new database (nothing was changed)"
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
