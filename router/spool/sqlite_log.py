"""SQLite's log on a nearly full disk: keeps it small, and reports when it finds no room."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from router.spool.ballast import is_short

LOG, SMALL_LOG = 2000, 32
"""Pages of SQLite's log after which it is folded into the database: usually (see `engine`), and while room is short."""
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN)
"""SQLite's errors if it finds no block or file, as for its log."""


def relieve(engine: sa.Engine, folder: Path, on_full: Callable[[], object]) -> None:
    """Call `on_full` when SQLite finds no room for a change, and keep its log small while room is short.

    A log that is folded into the database often begins again at its start and needs no room to grow. On PostgreSQL the
    disk is the server's.
    """
    if engine.dialect.name != "sqlite":
        return
    pages = 0

    @sa.event.listens_for(engine, "handle_error")
    def _failed(context: sa.engine.ExceptionContext) -> None:
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        if code in NO_ROOM or code & 0xFF in NO_ROOM[:2]:
            on_full()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        nonlocal pages
        wanted = SMALL_LOG if is_short(folder) else LOG
        if wanted != pages:
            pages = wanted
            _driver(connection).execute(f"PRAGMA wal_autocheckpoint={pages}")


def fold_log(connection: sa.Connection) -> None:
    """Write SQLite's log into the database and cut it to nothing, as far as readers and the disk allow. Not within a
    transaction."""
    with suppress(sqlite3.Error):  # the next change says what is wrong
        _driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection
