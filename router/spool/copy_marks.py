"""The note in a database that its spool is being copied to it, or was copied away: no node starts on either.

So of two databases with the same rows never both are worked on. `moving` copies the rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from router.spool.engine import begun
from router.spool.errors import SpoolError
from router.spool.schema import metadata

spool_copy = sa.Table(
    "spool_copy",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("other", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("stamp", sa.String(64), nullable=False),
    sa.Column("progress", sa.String, nullable=False, server_default=""),
)
"""At most one row. `other` is the other database, without a password. `stamp` says how the old one was when the copy
began. `progress` is how far each table is copied, in JSON. `at` is in Unix seconds."""


class MarkState(StrEnum):
    """Which of the two databases this is."""

    ARRIVING = "arriving"
    """Rows are being copied to it."""
    LEFT = "left"
    """Its rows were copied away."""


class MovedError(SpoolError):
    """The spool is not in this database, or not wholly."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """The row of `spool_copy`."""

    state: MarkState
    other: str
    at: float
    stamp: str
    progress: str


def read(connection: sa.Connection) -> Mark | None:
    row = connection.execute(sa.select(spool_copy).where(spool_copy.c.id == 1)).one_or_none()
    return None if row is None else Mark(MarkState(row.state), row.other, row.at, row.stamp, row.progress)


def lock(connection: sa.Connection) -> None:
    """Let no other connection read or write the mark until the transaction ends (PostgreSQL; SQLite has none)."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE spool_copy IN ACCESS EXCLUSIVE MODE")


def write(connection: sa.Connection, state: MarkState, other: str, stamp: str) -> None:
    """Put this mark in place of any other."""
    remove(connection)
    values = {"id": 1, "state": state, "other": other, "at": time.time(), "stamp": stamp}
    connection.execute(spool_copy.insert().values(values))


def set_progress(connection: sa.Connection, progress: str) -> None:
    connection.execute(spool_copy.update().values(progress=progress))


def remove(connection: sa.Connection) -> None:
    connection.execute(spool_copy.delete())


def refuse_marked(one: sa.Engine) -> None:
    """Raises MovedError if no node may start on this database."""
    with begun(one) as connection:
        mark = read(connection)
    if mark is None:
        return
    if mark.state == MarkState.ARRIVING:
        raise MovedError(
            f"spool.database holds a part of the spool that is copied from {mark.other}; set spool.database to that "
            "again, and run once more: dicom-router spool copy"
        )
    raise MovedError(
        f"the spool was copied from spool.database to {mark.other} on {day(mark.at)}; set spool.database to that, or "
        f"go back: dicom-router spool copy --undo --to {mark.other}"
    )


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def shown(url: Any) -> str:
    """A database's URL without its password."""
    return str(url.render_as_string(hide_password=True))
