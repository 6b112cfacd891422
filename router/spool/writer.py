"""The one writer: a thread that owns the only read-write connection and puts all waiting jobs into one commit.

Each job runs in its own savepoint, so a failure concerns only this job. Its result is given out only after the commit.
On SQLite that is after the sync of the log (WAL, synchronous=FULL). If a PostgreSQL server does not answer within
`patience.CHANGES` seconds, its connection is given up.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from router.spool import patience
from router.spool.errors import (
    DatabaseError,
    SpoolError,
    UncertainCommitError,
    is_of_database,
    is_own_fault,
    refusal,
)
from router.spool.server_errors import READ_ONLY, code_of

T = TypeVar("T")
Job = Callable[[sa.Connection], Any]
MOST = 256
"""The most jobs in one commit."""
AGAIN_AFTER = 0.5
"""Seconds until a change that must happen is tried again after the database did not take it."""
CONFLICTS = ("40P01", "40001")
"""SQLSTATE of a deadlock and of a serialization failure."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A job and the future of its caller. A job that insists is tried until the database takes it, or the spool closes.

    `wakes` returns the topics with new work from the job's result. Other processes must hear of them.
    """

    job: Job
    future: Future[Any]
    insists: bool
    wakes: Callable[[Any], Iterable[str]]
    since: float


Outcome = tuple[Waiting, Any, BaseException | None]
BeforeCommit = Callable[[sa.Connection, set[str]], int | None]
"""The last step of a transaction on PostgreSQL. It takes the topics to wake, and returns the transaction's number."""


class Writer:
    """Runs jobs on one connection, several to a commit."""

    def __init__(self, engine: sa.Engine, before_commit: BeforeCommit | None = None) -> None:
        self._engine = engine
        self._before_commit = before_commit
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._again: list[Waiting] = []
        self._closed = False
        self._begun: float | None = None
        self._failed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def submit(
        self, job: Callable[[sa.Connection], T], *, insist: bool = False,
        wakes: Callable[[T], Iterable[str]] = lambda _: (),
    ) -> Future[T]:  # fmt: skip
        """Queue a job. Its future is set after the commit."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise SpoolError("the spool is closed")
            self._queue.put(Waiting(job, future, insist, wakes, time.monotonic()))
        return future

    def run(self, job: Callable[[sa.Connection], T], *, wakes: Callable[[T], Iterable[str]] = lambda _: ()) -> T:
        """Run a job and wait for its commit. Raises SpoolError."""
        return self.submit(job, wakes=wakes).result()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def answers(self, within: float) -> bool:
        """Whether the database took the last changes, and the current ones are not late."""
        begun = self._begun
        return self.is_alive and not self._failed and (begun is None or time.monotonic() - begun < within)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return self._begun is None and self._queue.empty()

    @property
    def has_failed(self) -> bool:
        """Whether the database did not take the last changes."""
        return self._failed

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits, then end. Returns False if that takes longer (another process locks the database)."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        connection: sa.Connection | None = None
        ending = False
        while not ending:
            batch, ending = self._take()
            if batch:
                self._begun = time.monotonic()
                with patience.within(patience.CHANGES):
                    connection = self._commit(connection, self._in_time(batch), last_chance=ending)
                self._begun = None
        if connection is not None:
            connection.close()

    def _take(self) -> tuple[list[Waiting], bool]:
        """The waiting jobs, at most MOST, and whether the writer must end after them."""
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

    def _in_time(self, batch: list[Waiting]) -> list[Waiting]:
        """The jobs to try. Jobs that have waited too long on a failing database are refused."""
        if not self._failed:
            return batch
        late = [one for one in batch if not one.insists and time.monotonic() - one.since > patience.CHANGES]
        failure = DatabaseError("the spool's database did not take the change: it has not answered in time")
        _give_out([(one, None, failure) for one in late])
        return [one for one in batch if one not in late]

    def _commit(
        self, connection: sa.Connection | None, batch: list[Waiting], *, last_chance: bool
    ) -> sa.Connection | None:
        """Run and commit a batch. Returns the connection for the next batch."""
        transaction: int | None = None
        try:
            connection = connection or self._engine.connect()
            with connection.begin():
                outcomes = [self._try(connection, waiting) for waiting in batch]
                if self._before_commit:  # COMMIT follows, and may get no answer
                    done = [(waiting, result) for waiting, result, problem in outcomes if problem is None]
                    topics = {topic for waiting, result in done for topic in waiting.wakes(result)}
                    transaction = self._before_commit(connection, topics)
            self._failed = False
        except Exception as error:  # disk full, locked, corrupt or gone: as far as is known, no job has happened
            lost = connection is None or connection.invalidated or _is_broken(connection) or not code_of(error)
            if connection is not None:
                _undo(connection)
                if code_of(error) == READ_ONLY:  # it has become a standby: the next connection finds the new server
                    connection.invalidate()
            self._failed = not _is_conflict(error)
            failure = refusal(error, self._engine.url.render_as_string(hide_password=False))
            if lost and transaction is not None:
                failure = UncertainCommitError(str(failure), transaction)
            if not last_chance:
                self._again = [waiting for waiting in batch if waiting.insists or _is_conflict(error)]
            outcomes = [(waiting, None, failure) for waiting in batch if waiting not in self._again]
        _give_out(outcomes)
        return connection

    def _try(self, connection: sa.Connection, waiting: Waiting) -> Outcome:
        # By the driver itself: SQLAlchemy's savepoints cost more than the row that they guard.
        driver: Any = connection.connection.driver_connection
        driver.execute("SAVEPOINT job")
        result: Any = None
        problem: Exception | None = None
        try:
            result = waiting.job(connection)
        except Exception as error:
            if is_own_fault(error):
                problem = refusal(error, "")
            elif is_of_database(error):  # a failure of the disk or the database concerns every job
                raise
            else:
                problem = error  # a failure of the job itself: only its caller hears of it
        if problem is not None:
            driver.execute("ROLLBACK TO SAVEPOINT job")
        driver.execute("RELEASE SAVEPOINT job")
        return waiting, result, problem


def _give_out(outcomes: Iterable[Outcome]) -> None:
    for waiting, result, reason in outcomes:
        if not waiting.future.set_running_or_notify_cancel():  # the caller has cancelled
            continue
        if reason is not None:
            waiting.future.set_exception(reason)
        else:
            waiting.future.set_result(result)


def _is_broken(connection: sa.Connection) -> bool:
    """Whether the driver's connection is gone, even if SQLAlchemy has not noticed."""
    try:
        return bool(getattr(connection.connection.driver_connection, "closed", False))
    except Exception:  # there is none any more
        return True


def _is_conflict(error: BaseException) -> bool:
    """Whether two nodes on PostgreSQL waited for each other, and the server chose this one to begin again."""
    return code_of(error) in CONFLICTS


def _undo(connection: sa.Connection) -> None:
    """End the transaction, also after a failed commit. For SQLAlchemy that was its end, for SQLite perhaps not."""
    try:
        if connection.in_transaction():
            connection.rollback()
        if not connection.invalidated:
            connection.connection.rollback()
    except Exception:  # the next transaction begins on a new connection
        connection.invalidate()
