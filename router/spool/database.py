"""The database of one spool: reading connections for questions, the one writer for changes, and the claims."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import IO, TypeVar

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.spool import claims, engine, patience, steady, watch
from router.spool.errors import SpoolError, is_of_database
from router.spool.leases import Leases
from router.spool.signals import FULL, Signals
from router.spool.sqlite_log import fold_log
from router.spool.watch import Watch
from router.spool.writer import Writer

T = TypeVar("T")


class Database:
    """Only the parts of the spool have it. All methods raise SpoolError."""

    def __init__(self, settings: SpoolSettings, read: sa.Engine) -> None:
        self.is_sqlite = settings.database == "sqlite"
        self._shares_folder = settings.blobs is None
        self.signals = Signals(lambda: self._watch.longest_wait() if self._watch else None, own=(FULL,))
        self.write_engine: sa.Engine | None = None
        self._read_engine = read
        self._lock: IO[str] | None = None
        self._writer: Writer | None = None
        self._leases: Leases | None = None
        self._watch: Watch | None = None
        self._patience = patience.LOOK
        self._start = 0
        self._tokens = itertools.count(1)

    def ask(self, question: Callable[[sa.Connection], T], seconds: float | None = None) -> T:
        """Answer a question that changes nothing. `seconds`: how long it may take, if not as long as all others."""
        try:
            with patience.within(seconds or self._patience), self._read_engine.connect() as connection:
                return question(connection)
        except Exception as error:
            if not is_of_database(error):
                raise
            raise engine.trouble(self._read_engine, error) from error

    def run(self, job: Callable[[sa.Connection], T], wakes: Callable[[T], Iterable[str]] = lambda _: ()) -> T:
        """Make a change, and wait for its commit. `wakes`: the topics with new work, for other processes."""
        return self.writer.run(job, wakes=wakes)

    @property
    def writer(self) -> Writer:
        """The writer, which makes the changes."""
        if self._writer is None:
            raise SpoolError("this spool is open for reading only")
        return self._writer

    @property
    def start(self) -> int:
        """The number of this start of a node; no other has it."""
        return self._start

    # -- claims ----------------------------------------------------------------------------------------------------

    def new_token(self) -> int:
        """A number that no other claim has: the number of this start is its high half."""
        return next(self._tokens)

    def hold(self, table: sa.Table, ids: Iterable[int | str], token: int) -> None:
        """Renew these claims until they end (PostgreSQL; on SQLite a claim lasts as long as the start)."""
        if self._leases:
            self._leases.hold(table, ids, token)

    def end_claim(
        self, table: sa.Table, which: int | str, token: int, job: Callable[[sa.Connection], T],
        wakes: Callable[[T], Iterable[str]] = lambda _: (),
    ) -> Future[T]:  # fmt: skip
        """Do a job that ends a claim. It must happen, and the claim is renewed until then."""
        future = self.writer.submit(job, insist=True, wakes=wakes)
        leases = self._leases
        if leases:
            future.add_done_callback(lambda _: leases.let_go(table, which, token))
        return future

    def renew(self) -> None:
        """Renew the held claims now. It also happens by itself."""
        if self._leases:
            self._leases.renew()

    # -- from start to end -----------------------------------------------------------------------------------------

    def begin_writing(self, write: sa.Engine, lock: IO[str]) -> None:
        """Start the writer; `lock` is that of the spool's folder, which this keeps until the end."""
        self.write_engine, self._lock = write, lock
        if self.is_sqlite:
            with write.connect() as connection:
                fold_log(connection)
        self._writer = Writer(write, None if self.is_sqlite else watch.before_commit(lambda: self._start))

    def number_start(self, *, alone: bool) -> None:
        """Note that a node has started. If it is alone, free what earlier starts had claimed."""
        self._start = self.run(partial(claims.number_start, alone=alone))
        self._tokens = itertools.count((self._start << 32) + 1)

    def work_with_others(self, on_answer: Callable[[], None]) -> None:
        """On PostgreSQL: renew claims, hear of others' work, and call `on_answer` after each answer of the server."""
        assert self.write_engine is not None
        assert self._lock is not None
        if self._shares_folder:
            engine.share(self._lock)
        self._leases = Leases(self.writer.submit)
        self._leases.start()
        self._watch = Watch(self.write_engine, self._start, self.signals, on_answer)
        self._watch.start()
        self._patience = patience.QUESTION

    @property
    def is_working(self) -> bool:
        """Whether changes can be written."""
        return self._writer is not None and self._writer.is_alive

    def answers(self, within: float) -> bool:
        """Whether the database took changes within the last `within` seconds. Asks nothing, never waits."""
        if self._writer is None:
            return False
        if self._writer.has_failed and self._writer.is_idle:
            with suppress(SpoolError):
                self._writer.submit(lambda _: None)
        return self._writer.answers(within) and (self._watch is None or self._watch.answers(within))

    def server_answers(self) -> bool:
        """Whether PostgreSQL answered the last check. False for SQLite, which has no server."""
        return self._watch is not None and self._watch.answers(watch.SILENT_AFTER)

    def close(self, seconds: float | None) -> bool:
        """Finish what waits for the writer, then unlock the folder. False if the database did not take it in time."""
        if self._watch:
            self._watch.stop(patience.CONNECT)
        if self._writer and self.is_working:
            with suppress(SpoolError):  # closed already
                if self._leases:
                    self._leases.stop()
                self._writer.submit(lambda c: steady.look(c, last=True) and None)
        if self._writer and not self._writer.close(seconds):
            return False
        self._read_engine.dispose()
        if self.write_engine:  # the last to close, so that SQLite folds its log into the database
            self.write_engine.dispose()
        if self._lock:
            self._lock.close()
        return True
