"""The spool's face: what the stages call. Blobs by `blobs`, changes by `transactions`, questions by `queries`."""

from __future__ import annotations

import errno
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.flow import Decision, Delivery, Instance, Seen
from router.observe import log
from router.observe.metrics import BURIED as BURIED_COUNT
from router.spool import engine, limits, postgresql, queries, schema, steady, transactions, watch
from router.spool.blobs import Blob, BlobStore, same_bytes
from router.spool.commitments import Commitments
from router.spool.copies import CopySizes, native_size
from router.spool.doubts import Doubts
from router.spool.errors import SpoolError, UncertainCommitError, is_of_database
from router.spool.keyed import Key, make_key
from router.spool.leases import Leases
from router.spool.orphans import SET_ASIDE, count_in
from router.spool.room import Ballast, Room, fold_log, relieve
from router.spool.rows import Accepted, Claim, Counts, DestinationState, Finished, instance_of
from router.spool.schema import BATCH, parts
from router.spool.signals import Signal, Signals
from router.spool.taking_in import TakingIn
from router.spool.uncertain import UncertainCommits
from router.spool.watch import Watch
from router.spool.writer import Writer

T = TypeVar("T")
NOTHING: Mapping[tuple[str, str], int] = {}
UNLIMITED = 1 << 30
INSTANCES = "instances"
"""The topic that is signalled when an instance waits for its decision."""
EARLY = 64
"""Finished blobs that are removed at a time when there is no room."""
FULL = "the disk is full"
"""The topic that is signalled when finished blobs should go before their time."""
BITE = 50
"""Records, and blobs, that one change of retention removes: what arrives shares its commit, and shall not wait."""


class Spool:
    """Blobs and rows of one node. Open it with `open_spool` (to work) or `read_spool` (to look), in `opening`."""

    def __init__(self, settings: SpoolSettings, blobs: BlobStore, read: sa.Engine) -> None:
        self.settings = settings
        self.signals = Signals(self._longest_wait, own=(FULL,))
        self._blobs = blobs
        self._read_engine = read
        self._writer: Writer | None = None
        self._write_engine: sa.Engine | None = None
        self._lock: IO[str] | None = None
        self._leases: Leases | None = None
        self._watch: Watch | None = None
        self._patience = limits.LOOK
        self._tokens = itertools.count(1)
        self._after = transactions.FIRST_CALLER
        self._bytes = 0
        self._key: Key | None = None
        self._bytes_lock = threading.Lock()
        self._copies = CopySizes()
        self._copying = threading.Lock()
        self._pressure = threading.Lock()
        self._ballast = Ballast(settings.path, settings.reserve)
        self._room = Room(settings, blobs, self._ballast, lambda: self._held, lambda: self._copies.unwritten)
        self._doubts = Doubts(self._existing, lambda job: self._writing().submit(job, insist=True))
        self._uncertain = UncertainCommits(self._ask, self._existing, self.event)
        self.commitments = Commitments(self._run, self._ask, self.signals, self._token)

    # -- receive ---------------------------------------------------------------------------------------------------

    def begin(self, header: bytes) -> Blob:
        """A new blob that starts with `header`. Raises SpoolError without room, OSError when the disk fails."""
        if not self.room():
            raise SpoolError(f"the spool is full: {self._room.lack()}")
        return self._blobs.begin(header)

    def room(self, more: int = 0) -> bool:
        """Whether there is room for `more` bytes, after finished blobs have made way. Logs what is lacking."""
        lack = self._room.lack(more)
        if lack:
            with self._pressure:
                while (lack := self._room.lack(more)) and self.sweep_early():
                    pass
        if not more:
            self._room.tell(lack)
        return not lack

    def make_room(self) -> None:
        """The disk is full, whatever was reckoned: ask whoever sweeps that finished blobs go before their time.

        Not at once: the blob that found no room still lies there, and the database needs some to write, too.
        """
        self.signals.set(FULL)

    def sweep_early(self) -> int:
        """Remove some finished blobs, whatever `keep` says; returns how many."""
        try:
            return self._drop_finished(None, EARLY)
        except SpoolError:
            self._free_finished()
            return self._drop_finished(None, EARLY)

    def _free_finished(self) -> None:
        """Remove blobs of finished instances before their rows say so: a full disk may have no room for that record."""
        for instance_id in self._ask(lambda c: queries.finished_ids(c, EARLY)):
            self._blobs.remove(instance_id)

    def _is_full(self) -> None:
        """The database found no room. Make some: to record the end of a delivery frees a blob."""
        self._ballast.throw_off()
        self.make_room()

    @property
    def _held(self) -> int:
        """Bytes of blobs and of what forwarding put beside them."""
        return self._bytes + self._copies.total

    def accept(self, blob: Blob, new: Instance) -> Accepted:
        """A sealed blob becomes an instance; returns after the commit. Raises SpoolError; the blob is then removed."""
        try:
            known = self._ask(lambda c: queries.same_uid(c, new.sop_instance))
        except BaseException:
            blob.discard()  # no row was asked for
            raise
        equal = next((row.id for row in known if self._is_equal(row, blob, new)), None)
        first = known[0].id if known else None
        try:
            merged_into = self._run(
                lambda c: transactions.accept(c, new, first, equal), lambda merged: () if merged else (INSTANCES,)
            )
        except Exception as error:
            self._drop_refused(blob, error)
            raise
        if merged_into is not None:
            blob.discard()
            return Accepted(merged_into, merged=True)
        with self._bytes_lock:
            self._bytes += new.size
        self.signals.set(INSTANCES)
        return Accepted(new.id, merged=False)

    def _drop_refused(self, blob: Blob, error: Exception) -> None:
        """The row was refused. Remove the blob, unless the row may exist all the same, or may yet come."""
        if isinstance(error, UncertainCommitError):
            self._uncertain.add(blob, error.transaction)
            if self._watch and self._watch.answers(watch.PULSE + 0.5):
                self._uncertain.settle()
        elif self._is_sqlite:
            self._doubts.discard(blob, error)
        else:  # COMMIT was not sent, or the server itself said no
            blob.discard()

    def _is_equal(self, row: Any, blob: Blob, new: Instance) -> bool:
        """Whether a row holds the same bytes from the same caller (whether its work is still open is asked later)."""
        old = instance_of(row)
        if row.state == schema.GONE or replace(old, id=new.id, received_at=new.received_at, offset=new.offset) != new:
            return False
        try:
            return same_bytes(self._blobs.path(old.id), blob.path, old.offset, new.offset)
        except OSError:  # the blob went in the meantime, or cannot be read: then it cannot stand for the new one
            return False

    # -- classify --------------------------------------------------------------------------------------------------

    def claim_instances(
        self, limit: int, taken: Mapping[tuple[str, str], int] = NOTHING, most: int = UNLIMITED
    ) -> list[Claim]:
        """Up to `limit` instances that wait for their decision, in order of arrival.

        What was asked about before is among them first, then new work, evenly among callers (AE title and peer):
        `taken` says how many each has under way already, of at most `most`.
        """
        token = self._token()
        rows, self._after = self._run(lambda c: transactions.claim_instances(c, limit, token, taken, most, self._after))
        self._hold(schema.instance, (row.id for row in rows), token)
        return [
            Claim(instance_of(row), self._blobs.path(row.id), token, row.tries - 1, row.decided_at is not None)
            for row in rows
        ]

    def record(self, claim: Claim, seen: Seen, decision: Decision, limits: Mapping[str, int | None]) -> Future[bool]:
        """Prediction, decision and deliveries in one transaction; False when the claim is no longer ours."""
        instance, token = claim.instance, claim.token
        buried: dict[str, str] = {}

        def job(connection: sa.Connection) -> bool:
            changed, now_buried = transactions.record(connection, instance, token, seen, decision, limits, self._key)
            buried.clear()  # a job may run again
            buried.update(now_buried)
            return changed

        future = self._end(
            schema.instance, instance.id, token, job, lambda changed: decision.destinations if changed else ()
        )
        future.add_done_callback(lambda done: self._recorded(done, instance.id, decision, buried))
        return future

    def _recorded(self, done: Future[bool], instance_id: str, decision: Decision, buried: Mapping[str, str]) -> None:
        self.signals.set_many(decision.destinations)
        for name, reason in buried.items() if done.exception() is None else ():
            BURIED_COUNT.labels(name).inc()
            log.error("buried", instance=instance_id, destination=name, reason=reason, tries=0)

    def release_instance(self, claim: Claim, *, after: float = 0.0, forget_try: bool = False) -> Future[None]:
        """Give a claim back, to be claimed again after so many seconds."""
        instance_id, token = claim.instance.id, claim.token
        future = self._end(
            schema.instance, instance_id, token,
            lambda c: transactions.release_instance(c, instance_id, token, after, forget_try=forget_try),
        )  # fmt: skip
        future.add_done_callback(lambda _: self.signals.set(INSTANCES))
        return future

    # -- forward ---------------------------------------------------------------------------------------------------

    def claim_deliveries(self, destination: str, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries that are due, oldest first."""
        return self._claim(destination, limit)

    def claim_untried(self, destination: str) -> list[Delivery]:
        """The newest delivery that was not tried yet, if any: what came with those that failed is older."""
        return self._claim(destination, 1, newest_untried=True)

    def _claim(self, destination: str, limit: int, *, newest_untried: bool = False) -> list[Delivery]:
        token = self._token()
        rows = self._run(
            lambda c: transactions.claim_deliveries(c, destination, limit, token, newest_untried=newest_untried)
        )
        self._hold(schema.delivery, (row.delivery_id for row in rows), token)
        return [
            Delivery(
                id=row.delivery_id, instance=instance_of(row), destination=destination, path=self._blobs.path(row.id),
                token=token, tries=row.delivery_tries, buriable_tries=row.buriable_tries, owed_for=row.owed_for,
            )
            for row in rows
        ]  # fmt: skip

    def close_delivery(self, one: Delivery, state: str, reason: str = "", status: int | None = None) -> Future[bool]:
        """End a delivery as DONE, BURIED or SKIPPED; False when the claim is no longer ours."""
        return self._end(
            schema.delivery, one.id, one.token,
            lambda c: transactions.close_delivery(c, one.id, one.token, state, reason, status),
        )  # fmt: skip

    def retry_delivery(
        self, one: Delivery, after: float, reason: str, status: int | None = None, *, tried: bool = True,
        buriable: bool = False,
    ) -> Future[bool]:  # fmt: skip
        """Owe it again after so many seconds."""
        return self._end(
            schema.delivery, one.id, one.token,
            lambda c: transactions.retry_delivery(
                c, one.id, one.token, after, reason, status, tried=tried, buriable=buriable
            ),
        )  # fmt: skip

    @contextmanager
    def room_for_copy(self, instance: Instance, target: Path) -> Iterator[None]:
        """While a native copy is made as `target`: what it may take counts at once, afterwards what it takes.

        Raises OSError (ENOSPC) where there is no room, after finished blobs have made way.
        """
        size = self._ask(lambda c: native_size(c, instance))
        with self._copying:
            # One that could never fit drives no finished blob out.
            if size >= self.settings.limit or not self.room(size):
                words = "no room for a native copy: spool.limit or spool.reserve would be reached"
                raise OSError(errno.ENOSPC, words)
            self._copies.begin(instance.id, size)
        try:
            yield
        finally:
            self._copies.end(instance.id, size, target.stat().st_size if target.exists() else 0)

    def next_due(self, destination: str) -> float | None:
        """Seconds until a delivery may be claimed."""
        return self._ask(lambda c: queries.next_due(c, destination))

    def next_instance_due(self) -> float | None:
        return self._ask(queries.next_instance_due)

    def known_digests(self, destination: str, sop_instance: str) -> frozenset[str]:
        return self._ask(lambda c: queries.known_digests(c, destination, sop_instance))

    def destination_state(self, name: str) -> DestinationState:
        return self._ask(lambda c: queries.destination_state(c, name))

    def destination_states(self) -> dict[str, DestinationState]:
        return self._ask(queries.destination_states)

    def finished(self) -> Finished:
        """What `wipe` would take."""
        return self._ask(queries.finished)

    def set_circuit(self, name: str, seconds: float | None, failures: int, reason: str) -> None:
        """Open a destination's circuit for so many seconds, or close it (None)."""
        self._run(lambda c: transactions.set_circuit(c, name, seconds, failures, reason))

    # -- people ----------------------------------------------------------------------------------------------------

    def pause(self, name: str, who: str) -> None:
        self._set_paused(name, who, paused=True)

    def resume(self, name: str, who: str) -> None:
        """No longer paused; and an open circuit is probed at once."""
        self._set_paused(name, who, paused=False)

    def _set_paused(self, name: str, who: str, *, paused: bool) -> None:
        def change(connection: sa.Connection) -> None:
            transactions.set_destination(connection, name, paused=paused)
            if not paused:
                transactions.order_try(connection, [name])
            transactions.add_event(connection, "paused" if paused else "resumed", to=name, who=who)

        self._run(change, lambda _: (name,))
        self.signals.set(name)

    def retry_now(self, deliveries: Sequence[int], who: str) -> int:
        """Buried or waiting deliveries are owed at once, and their destinations tried; returns how many."""
        changed = 0
        for part in parts(deliveries):
            destinations = self._run(partial(transactions.retry_now, deliveries=part, who=who), set)
            self.signals.set_many(set(destinations))
            changed += len(destinations)
        return changed

    def discard(self, deliveries: Sequence[int], who: str) -> int:
        """Drop deliveries that nobody holds; returns how many."""
        return sum(self._run(partial(transactions.discard, deliveries=part, who=who)) for part in parts(deliveries))

    def redecide(self, instance_id: str, who: str) -> bool:
        ordered = self._run(lambda c: transactions.redecide(c, instance_id, who), lambda _: (INSTANCES,))
        self.signals.set(INSTANCES)
        return ordered

    def event(self, kind: str, instance_id: str | None = None, destination: str | None = None, **detail: Any) -> None:
        """Append to the record of who did what when; `detail` never holds a patient or study value."""
        self._writing().submit(lambda c: transactions.add_event(c, kind, instance_id, destination, **detail))

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

    @property
    def uncertain_commits(self) -> int:
        """How many blobs wait to learn whether their rows were committed."""
        return len(self._uncertain)

    # -- questions -------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        set_aside = count_in(self.settings.path / SET_ASIDE)
        return replace(self._ask(queries.counts), bytes=self._held, set_aside=set_aside)

    def deliveries(self, **choice: Any) -> list[dict[str, Any]]:
        """See `queries.deliveries`."""
        return self._ask(lambda c: queries.deliveries(c, **choice))

    def instances(self, **choice: Any) -> list[dict[str, Any]]:
        return self._ask(lambda c: queries.instances(c, **choice))

    def instance(self, instance_id: str) -> dict[str, Any] | None:
        return self._ask(lambda c: queries.one_instance(c, instance_id))

    def events(self, **choice: Any) -> list[dict[str, Any]]:
        return self._ask(lambda c: queries.events(c, **choice))

    def blob(self, instance_id: str) -> Path:
        return self._blobs.path(instance_id)

    def signal(self, topic: str) -> Signal:
        return self.signals.of(topic)

    # -- housekeeping ----------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Remove some of what has expired. Returns the number of blobs and records removed; 0 when nothing is left."""
        removed = self._drop_finished(self.settings.keep, BITE)
        keep = self.settings.keep_records
        return removed + self._run(lambda c: transactions.forget_records(c, steady.cutoff(c, keep), BITE))

    def tidy_up(self) -> None:
        """Lay the ballast again, settle what is in doubt; on PostgreSQL, where others add and remove blobs, count."""
        self._doubts.ask_again()
        self._ballast.lay()
        if not self._is_sqlite:
            self._bytes = self._ask(queries.bytes_kept)
            self._copies.forget(one for one in self._copies.instances() if not self._blobs.path(one).exists())

    def wipe(self, who: str = "") -> int:
        """Remove every blob that no open or buried delivery needs, whatever `keep` says; returns how many."""
        removed = 0
        while count := self._drop_finished(None, BATCH):
            removed += count
        self.event("wiped", removed=removed, who=who)
        return removed

    def _drop_finished(self, keep: float | None, limit: int) -> int:
        """Those that were finished more than `keep` seconds ago; None: all."""
        rows = self._run(
            lambda c: transactions.blobs_gone(c, math.inf if keep is None else steady.cutoff(c, keep), limit)
        )
        for row in rows:
            self._blobs.remove(row.id)
        with self._bytes_lock:
            self._bytes -= sum(row.size for row in rows)
        self._copies.forget(row.id for row in rows)
        return len(rows)

    def renew(self) -> None:
        """Hold on to what is claimed (PostgreSQL; happens by itself as well). Raises SpoolError."""
        if self._leases:
            self._leases.renew()

    def take_in_orphans(self) -> None:
        """Make blobs and rows agree after a crash, or after an older database was put back. Only before anything is
        received. Raises OSError, SpoolError."""
        TakingIn(self._blobs, self._ask, self._run).look_through()

    def _existing(self, ids: Sequence[str]) -> set[str]:
        return self._ask(lambda c: queries.existing(c, ids))

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits for the writer, then let the folder go. False where the database did not take it in time:

        then both end with the process, and what was claimed is free again at the next start.
        """
        if self._watch:
            self._watch.stop(limits.CONNECT)
        if self._writer and self.is_working:
            with suppress(SpoolError):  # closed already
                if self._leases:
                    self._leases.stop()
                self._writer.submit(lambda c: steady.look(c, last=True) and None)
        if self._writer and not self._writer.close(seconds):
            return False
        self._read_engine.dispose()
        if self._write_engine:  # the last to close, so that SQLite folds its log into the database
            self._write_engine.dispose()
        if self._lock:
            self._lock.close()
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    def start_working(self, write: sa.Engine, lock: IO[str], *, alone: bool) -> None:
        """Become the node that works on this spool; or, on PostgreSQL, one of several."""
        self._lock, self._write_engine = lock, write
        relieve(write, self.settings.path, self._is_full)
        if self._is_sqlite:
            with write.connect() as connection:
                fold_log(connection)
        start = 0
        self._writer = Writer(write, None if self._is_sqlite else watch.before_commit(lambda: start))
        try:
            start = self._run(partial(transactions.new_start, alone=alone))
        except SpoolError:
            self._free_finished()
            start = self._run(partial(transactions.new_start, alone=alone))
        for words in self._ask(lambda c: list(postgresql.dangers(c))):
            log.warning("database", about=words)
        self._tokens = itertools.count((start << 32) + 1)
        self._key = _key_to_find_by(self.settings.path)
        if alone:
            self.take_in_orphans()
        self._bytes = self._ask(queries.bytes_kept)
        self._ballast.lay()
        if not self._is_sqlite:
            engine.share(lock)
            self._leases = Leases(self._writer.submit)
            self._leases.start()
            self._watch = Watch(write, start, self.signals, self._uncertain.settle)
            self._watch.start()
            self._patience = limits.QUESTION

    @property
    def _is_sqlite(self) -> bool:
        return self.settings.database == "sqlite"

    def _token(self) -> int:
        return next(self._tokens)

    def _hold(self, table: sa.Table, ids: Iterable[int | str], token: int) -> None:
        if self._leases:
            self._leases.hold(table, ids, token)

    def _end(
        self, table: sa.Table, which: int | str, token: int, job: Callable[[sa.Connection], T],
        wakes: Callable[[T], Iterable[str]] = lambda _: (),
    ) -> Future[T]:  # fmt: skip
        """A job that ends a claim, and must happen; the claim is renewed until it has."""
        future = self._writing().submit(job, insist=True, wakes=wakes)
        leases = self._leases
        if leases:
            future.add_done_callback(lambda _: leases.let_go(table, which, token))
        return future

    def _writing(self) -> Writer:
        if self._writer is None:
            raise SpoolError("this spool is open for reading only")
        return self._writer

    def _longest_wait(self) -> float | None:
        return None if self._watch is None else self._watch.longest_wait()

    def _run(
        self, job: Callable[[sa.Connection], T], wakes: Callable[[T], Iterable[str]] = lambda _: ()
    ) -> T:  # fmt: skip
        return self._writing().run(job, wakes=wakes)

    def _ask(self, question: Callable[[sa.Connection], T]) -> T:
        try:
            with limits.within(self._patience), self._read_engine.connect() as connection:
                return question(connection)
        except Exception as error:
            if not is_of_database(error):
                raise
            raise engine.trouble(self._read_engine, error) from error


def _key_to_find_by(folder: Path) -> Key | None:
    """The spool's key. A disk without room for a new one must not keep the node from starting."""
    try:
        return make_key(folder)
    except (SpoolError, OSError) as error:
        reason = str(error) if isinstance(error, SpoolError) else error.strerror
        log.warning("nothing new is found by study or accession number", reason=reason)
        return None
