"""What became of each file of a long run, in a file of its own: the run goes on there after any end.

It is an SQLite database, so that neither its size nor a kill matters: one row for each path, found by an index. A row
outlives the process as soon as it is noted, and the machine a second later.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from router.errors import RouterError

APPLICATION = 0x44524A31
"""`PRAGMA application_id` of a journal: "DRJ1"."""
SYNC_EVERY = 1.0
"""Seconds between two rows that are written through to the disk, and with them all before."""
START_AGAIN = "use --restart to delete its rows and start again, or name another file"

Run = Mapping[str, str]
"""What made the rows, each part under a name for people: program, model, rules, options."""


class JournalError(RouterError):
    """A journal that this run cannot use."""

    exit_code = 2


class FullError(RouterError):
    """A journal that cannot be written any more."""


class Journal:
    """One row for each file. Any thread may call it."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._lock = threading.Lock()
        self._synced = time.monotonic()

    def failed(self, path: Path) -> bool | None:
        """None if something is left to do with this file; else whether it failed for good."""
        with self._asking() as ask:
            row = ask.execute("SELECT failed FROM file WHERE path = ? AND done", (os.fsencode(path),)).fetchone()
        return bool(row[0]) if row else None

    def note(self, path: Path, row: Mapping[str, Any], *, done: bool, failed: bool) -> None:
        """Keep what became of a file, in place of what was noted before."""
        values = (os.fsencode(path), done, failed, json.dumps(row))
        with self._asking() as ask:
            sync = time.monotonic() - self._synced > SYNC_EVERY
            ask.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            ask.execute("INSERT OR REPLACE INTO file (path, done, failed, row) VALUES (?, ?, ?, ?)", values)
            if sync:
                self._synced = time.monotonic()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, in the order of their paths: the same after any number of interruptions."""
        after = b""
        while True:
            with self._asking() as ask:
                some = ask.execute("SELECT path, row FROM file WHERE path > ? ORDER BY path LIMIT 1000", (after,))
                found = some.fetchall()
            if not found:
                return
            for _, row in found:
                yield json.loads(row)
            after = found[-1][0]

    def close(self) -> None:
        """Write all of it through to the disk, into the one file."""
        with self._asking() as ask:
            ask.close()

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise FullError(
                    f"{self.path}: {error} (when it can be written again, the same command goes on)"
                ) from None


def open_journal(path: Path, run: Run, *, restart: bool) -> Journal:
    """The journal of a run like this one, new or to go on with. Raises JournalError, OSError."""
    if path.exists() and not path.is_file():
        raise JournalError(f"{path} is not a regular file; name another")
    path.open("ab").close()  # an error of the file system in its own words
    database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        _begin(database, path, run, restart=restart)
    except sqlite3.OperationalError as error:
        database.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise JournalError(
                f"{path}: another command writes to it; wait for its end, or name another file"
            ) from None
        raise JournalError(f"{path}: {error}; name another file") from None
    except sqlite3.DatabaseError:
        database.close()
        raise JournalError(f"{path} is no journal of this program; name another file") from None
    except BaseException:
        database.close()
        raise
    return Journal(path, database)


def _begin(database: sqlite3.Connection, path: Path, run: Run, *, restart: bool) -> None:
    (made_by,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if made_by != APPLICATION and tables:
        raise JournalError(f"{path} is no journal of this program; name another file")
    # One command at a time, also where there is no shared memory between machines.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("BEGIN EXCLUSIVE")
    if restart and tables:
        database.execute("DROP TABLE file")
        database.execute("DROP TABLE run")
    if restart or not tables:
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute(
            "CREATE TABLE file (path BLOB PRIMARY KEY, done INTEGER NOT NULL, failed INTEGER NOT NULL,"
            " row TEXT NOT NULL) WITHOUT ROWID"
        )
        database.executemany("INSERT INTO run VALUES (?, ?)", run.items())
    before = dict(database.execute("SELECT name, value FROM run").fetchall())
    database.execute("COMMIT")
    names = sorted(name for name in {*before, *run} if before.get(name) != run.get(name))
    if names:
        differ = "; ".join(f"{name} was {before.get(name, 'none')}, now {run.get(name, 'none')}" for name in names)
        raise JournalError(f"{path} was made by another run: {differ} ({START_AGAIN})")
