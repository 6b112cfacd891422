"""How much room the spool's file system has left, and a ballast that is removed when it has none.

On a full disk a node must still start and record deliveries, since that is what makes room. Both need a few
new blocks and files (SQLite's log and its index, the control socket), so some are kept in hand.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from router.config.settings import GB, SpoolSettings
from router.observe import log
from router.spool.blobs import BlobStore

LEAST_INODES = 64
"""Files that the file system must still be able to take; with fewer there is no room."""
BALLAST = "ballast"
PIECES, PIECE_BYTES = 8, 2 << 20
"""Files of the ballast, and bytes of each: together twice what SQLite's log grows to before it is folded."""
SHARE = 64
"""A ballast file takes at most one part in this many of the file system."""
LOG, SMALL_LOG = 2000, 32
"""Pages of SQLite's log after which it is folded into the database: as `engine` says, and while room is short."""
SHORT = PIECES * PIECE_BYTES
"""Free bytes below which SQLite's log is kept small."""
BLOCK = 4096
TELL_EVERY = 60.0
"""Seconds between lines of the log while there is no room."""
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN)
"""SQLite's errors if it finds no block or file, as for its log."""


class Room:
    """Says what is lacking, in words.

    `held`: bytes of blobs; `promised`: those that are still to be written.
    """

    def __init__(
        self, settings: SpoolSettings, blobs: BlobStore, ballast: Ballast, held: Callable[[], int],
        promised: Callable[[], int],
    ) -> None:  # fmt: skip
        self._settings, self._blobs, self._ballast = settings, blobs, ballast
        self._held, self._promised = held, promised
        self._told: float | None = None
        self._telling = threading.Lock()

    def lack(self, more: int = 0) -> str:
        """Why there is no room for so many bytes more; empty where there is. Raises OSError."""
        limit, reserve = self._settings.limit, self._settings.reserve
        free = self._blobs.free() - self._promised() - more
        if self._held() + more >= limit:
            return f"limit: the spool holds {self._held() / GB:.1f} GB, and spool.limit is {limit / GB:.1f} GB"
        if free <= reserve:
            return f"disk: {max(0, free) / GB:.1f} GB are free, and spool.reserve is {reserve / GB:.1f} GB"
        if self._ballast.is_in_use and not self._ballast.lay():
            return "disk: it is full, and what is left of it is kept for the database"
        inodes = self._blobs.free_inodes()
        if inodes < LEAST_INODES:
            return f"inodes: the file system can take {inodes} files more, and {LEAST_INODES} are kept (df -i)"
        return ""

    def tell(self, lack: str) -> None:
        """Log that there is no room and why, when that begins and once a minute; and when it ends."""
        with self._telling:
            if lack and (self._told is None or time.monotonic() - self._told > TELL_EVERY):
                self._told = time.monotonic()
                log.warning("no room", why=lack)
            elif not lack and self._told is not None:
                self._told = None
                log.info("room again")


class Ballast:
    """Files that only hold blocks and inodes in reserve."""

    def __init__(self, spool: Path, reserve: int) -> None:
        self._spool, self._reserve = spool, reserve
        self._folder = spool / BALLAST
        self.is_in_use = False
        """Whether it was removed and is not laid again yet."""

    def lay(self) -> bool:
        """Make its missing files, if there is room to spare. Returns whether it is complete."""
        with suppress(OSError):  # the next time
            missing = [path for path in self._pieces() if not path.exists()]
            space = os.statvfs(self._spool)
            size = min(PIECE_BYTES, space.f_blocks * space.f_frsize // SHARE // BLOCK * BLOCK)
            spare = space.f_bavail * space.f_frsize - self._reserve - 2 * len(missing) * size
            if missing and (spare < 0 or (space.f_files and space.f_favail < LEAST_INODES + PIECES)):
                return False
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in missing:
                _fill(path, size)
            self.is_in_use = False
            return True
        return False

    def throw_off(self) -> None:
        """Give its blocks and inodes back."""
        self.is_in_use = True
        for path in self._pieces():
            path.unlink(missing_ok=True)

    def throw_off_if_short(self) -> None:
        """Remove it if a start may find no room otherwise."""
        space = os.statvfs(self._spool)
        if is_short(self._spool) or (space.f_files and space.f_favail < LEAST_INODES):
            self.throw_off()

    def _pieces(self) -> list[Path]:
        return [self._folder / str(number) for number in range(PIECES)]


def _fill(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def is_short(folder: Path) -> bool:
    """Whether the file system has few bytes left."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize < SHORT


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
    with suppress(sqlite3.Error):  # the change that follows says what is wrong
        _driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection
