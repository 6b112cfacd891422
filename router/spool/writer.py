"""The one writer: a thread that owns the only read-write connection and puts whatever waits into one commit.

Each job runs in a savepoint of its own, so that one that fails takes nobody with it. Its result is given out only
after the commit, which on SQLite means after the sync of the log (WAL, synchronous=FULL).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa

from router.spool.errors import SpoolError

T = TypeVar("T")
Job = Callable[[sa.Connection], Any]
MOST = 256
"""Jobs in one commit."""


class Writer:
    """Runs jobs on one connection, several to a commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[sa.Connection], T]) -> Future[T]:
        """Queue a job; its future is set after the commit that holds it."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise SpoolError("the spool is closed")
            self._waiting.put((job, future))
        return future

    def run(self, job: Callable[[sa.Connection], T]) -> T:
        """Run a job and wait for its commit. Raises SpoolError."""
        return self.submit(job).result()

    def close(self) -> None:
        """Finish what waits, then end."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        with self._engine.connect() as connection:
            while True:
                batch = self._take()
                jobs = [entry for entry in batch if entry is not None]
                if jobs:
                    self._commit(connection, jobs)
                if len(jobs) < len(batch):
                    return

    def _take(self) -> list[tuple[Job, Future[Any]] | None]:
        batch = [self._waiting.get()]
        while len(batch) < MOST and batch[-1] is not None:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _commit(self, connection: sa.Connection, jobs: list[tuple[Job, Future[Any]]]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with connection.begin():
                for job, future in jobs:
                    try:
                        with connection.begin_nested():
                            outcomes.append((future, job(connection), None))
                    except sa.exc.OperationalError:  # the disk's or the database's failure is everybody's
                        raise
                    except Exception as error:  # the job's own failure: only its caller hears of it
                        outcomes.append((future, None, error))
        except Exception as error:  # disk full, locked, corrupt: nobody's job has happened
            failure = SpoolError(f"the spool's database did not take the change: {describe(error)}")
            failure.__cause__ = error
            outcomes = [(future, None, failure) for _, future in jobs]
            if connection.in_transaction():
                connection.rollback()
        for future, result, reason in outcomes:
            if reason is not None:
                future.set_exception(reason)
            else:
                future.set_result(result)


def describe(error: BaseException) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters (they hold received values)."""
    original = getattr(error, "orig", None) or error
    return f"{type(original).__name__}: {original}".splitlines()[0][:200]
