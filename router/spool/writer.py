"""The one writer: a thread that owns the only read-write connection and puts whatever waits into one commit.

Each job runs in a savepoint of its own, so that one that fails takes nobody with it. Its result is given out only
after the commit, which on SQLite means after the sync of the log (WAL, synchronous=FULL).
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from router.spool.errors import SpoolError

T = TypeVar("T")
Job = Callable[[sa.Connection], Any]
MOST = 256
"""Jobs in one commit."""
AGAIN_AFTER = 0.5
"""Seconds until a change that must happen is tried again after the database did not take it."""
OWN_FAULTS = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError)
"""What a statement is refused for by itself, with the database in good health."""

PRIMARY = 0xFF
"""The part of SQLite's result codes that says the kind of failure."""
CONFLICTS = ("40P01", "40001")
"""SQLSTATE of a deadlock and of a serialization failure."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A job and whoever waits for it. One that insists is tried until the database takes it, or the spool closes."""

    job: Job
    future: Future[Any]
    insists: bool


class Writer:
    """Runs jobs on one connection, several to a commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._again: list[Waiting] = []
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[sa.Connection], T], *, insist: bool = False) -> Future[T]:
        """Queue a job; its future is set after the commit that holds it."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise SpoolError("the spool is closed")
            self._queue.put(Waiting(job, future, insist))
        return future

    def run(self, job: Callable[[sa.Connection], T]) -> T:
        """Run a job and wait for its commit. Raises SpoolError."""
        return self.submit(job).result()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits, then end; False where that takes longer (somebody else locks the database)."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ending = False
        with self._engine.connect() as connection:
            while not ending:
                batch, ending = self._take()
                if batch:
                    self._commit(connection, batch, last_chance=ending)

    def _take(self) -> tuple[list[Waiting], bool]:
        """What waits, at most MOST; and whether that was the last."""
        batch, self._again = self._again, []
        try:
            first = self._queue.get(timeout=AGAIN_AFTER if batch else None)
            while first is not None:
                batch.append(first)
                if len(batch) >= MOST:
                    return batch, False
                first = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _commit(self, connection: sa.Connection, batch: list[Waiting], *, last_chance: bool) -> None:
        try:
            with connection.begin():
                outcomes = [self._try(connection, waiting) for waiting in batch]
        except Exception as error:  # disk full, locked, corrupt: nobody's job has happened
            _undo(connection)
            failure = _refusal(error)
            if not last_chance:
                self._again = [waiting for waiting in batch if waiting.insists or _is_conflict(error)]
            outcomes = [(waiting, None, failure) for waiting in batch if waiting not in self._again]
        for waiting, result, reason in outcomes:
            if not waiting.future.set_running_or_notify_cancel():  # whoever asked has gone
                continue
            if reason is not None:
                waiting.future.set_exception(reason)
            else:
                waiting.future.set_result(result)

    def _try(self, connection: sa.Connection, waiting: Waiting) -> tuple[Waiting, Any, BaseException | None]:
        # Said to the driver itself: SQLAlchemy's own savepoints cost more than the row that they guard.
        driver: Any = connection.connection.driver_connection
        driver.execute("SAVEPOINT job")
        result: Any = None
        problem: Exception | None = None
        try:
            result = waiting.job(connection)
        except OWN_FAULTS as error:
            problem = _refusal(error)
        except sa.exc.DBAPIError:  # the disk's or the database's failure is everybody's
            raise
        except Exception as error:  # the job's own failure: only its caller hears of it
            problem = error
        if problem is not None:
            driver.execute("ROLLBACK TO SAVEPOINT job")
        driver.execute("RELEASE SAVEPOINT job")
        return waiting, result, problem


def _is_conflict(error: BaseException) -> bool:
    """Two nodes on PostgreSQL waited for each other, and the server chose this one to begin again."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) in CONFLICTS


def _undo(connection: sa.Connection) -> None:
    """End the transaction, also after a commit that failed: SQLAlchemy takes that for its end, SQLite may not."""
    try:
        if connection.in_transaction():
            connection.rollback()
        if not connection.invalidated:
            connection.connection.rollback()
    except Exception:  # whatever is left of it, the next transaction begins on a new one
        connection.invalidate()


def _refusal(error: BaseException) -> SpoolError:
    """Without the error itself as its cause: a traceback would show the statement's parameters."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & PRIMARY
    fix = "; free some space there, and let spool.reserve keep more of it" if code == sqlite3.SQLITE_FULL else ""
    return SpoolError(
        f"the spool's database did not take the change: {describe(error)}{fix}",
        may_come_back=code == sqlite3.SQLITE_IOERR,
    )


def describe(error: BaseException) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters (they hold received values)."""
    original = getattr(error, "orig", error)
    return f"{type(original).__name__}: {original}".splitlines()[0][:200]
