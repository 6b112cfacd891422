"""Bulk jobs: something is done with all that a filter finds, a batch at a time, each row once.

A job is a row. Its cursor moves in the transaction of each batch, so what a crash leaves is gone on with. Newest first:
what comes later has greater ids and is not met. Between two batches everybody else gets to write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from router.spool import bulk_acts, clock
from router.spool.bulk_choice import Bounds, Chosen, Page, choose, narrowed
from router.spool.bulk_rows import (
    UNDONE_BY_CANCEL,
    WORKING,
    Act,
    Job,
    JobState,
    bulk_change,
    bulk_job,
    job_of,
    text_of,
)
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.find import FIRST_PAGE, Filter, kept
from router.spool.keyed import Key
from router.spool.schema import delivery, instance
from router.spool.signals import BULK, INSTANCES
from router.spool.states import InstanceState

BACK = 10
"""Changes that one batch takes back: one by one, each with several questions, while every other commit waits."""
BITE = 100
"""Instances in one batch: what arrives shares its commit, and must not wait."""
LOOK = 2000
"""Instances in one page of a count."""
UNDECIDED, FEW_DECISIONS = 64, 16
"""A job of new decisions waits while so many instances are undecided, and orders so many at a time: its instances are
older than what arrives, and would go first."""
LOOK_AGAIN = 0.5
"""Seconds until it looks whether fewer are."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Part of what a job would take: deliveries of one destination and state, or instances (destination "")."""

    destination: str
    state: str
    n: int
    gone: int
    """Of them, those whose blob was removed: they can be neither sent nor decided again."""
    oldest: float
    """Unix time since when the oldest is owed."""


class Bulk:
    """What `node` and the command line ask of the spool about many at once."""

    def __init__(self, database: Database, key: Callable[[], Key | None]) -> None:
        self._database, self._key = database, key

    # -- orders ----------------------------------------------------------------------------------------------------

    def plan(self, act: Act, wanted: Filter) -> list[Planned]:
        """What a job would take now. Raises ChoiceError for a filter that does not go with the act."""
        return self.plan_within(act, wanted, float("inf"))[0]

    def plan_within(self, act: Act, wanted: Filter, seconds: float) -> tuple[list[Planned], bool]:
        """The same, as far as it is counted after so many seconds; and whether that is all."""
        wanted, until = narrowed(act, wanted), time.monotonic() + seconds
        found: dict[tuple[str, str], Planned] = {}
        bounds = self._database.ask(_bounds)
        before = bounds.first
        while before:
            page = self._page(act, wanted, bounds, before, LOOK)
            for one in page.chosen:
                so_far = found.get((one.destination, one.state)) or Planned(
                    one.destination, one.state, 0, 0, one.owed_since
                )
                found[one.destination, one.state] = replace(
                    so_far, n=so_far.n + 1, gone=so_far.gone + one.is_gone, oldest=min(so_far.oldest, one.owed_since)
                )
            before = page.last
            if time.monotonic() > until:
                break
        return [found[key] for key in sorted(found)], not before

    def begin(self, act: Act, wanted: Filter, destination: str, who: str, reason: str) -> int:
        """Note a job, to be worked off by `step`; returns its number. Raises ChoiceError, SpoolError."""
        wanted, key = narrowed(act, wanted), self._key()

        def job(connection: sa.Connection) -> int:
            bounds = _bounds(connection)
            row = {
                "ordered_at": bounds.at, "who": who, "reason": reason, "act": act, "destination": destination,
                "filter": text_of(kept(connection, wanted, key)), "last_delivery": bounds.last_delivery,
                "state": JobState.RUNNING, "cursor": bounds.first,
            }  # fmt: skip
            number = connection.execute(bulk_job.insert().values(row).returning(bulk_job.c.id)).scalar_one()
            add_event(connection, "bulk job ordered", to=destination or wanted.to or None, who=who, job=number, act=act,
                      **({"reason": reason} if reason else {}))  # fmt: skip
            return int(number)

        number = self._database.run(job, lambda _: (BULK,))
        self._database.signals.set(BULK)
        return number

    def cancel(self, number: int, who: str) -> bool:
        """End a job; what a move or a resend did and was not tried yet is taken back, also after it has ended.

        False where there is nothing to cancel.
        """

        def job(connection: sa.Connection) -> bool:
            found = _locked(connection, number)
            if found is None or found.state not in (JobState.RUNNING, JobState.DONE):
                return False
            undo = found.act in UNDONE_BY_CANCEL
            if found.state is JobState.DONE and not undo:
                return False
            values = {"state": JobState.UNDOING, "cursor": "0"} if undo else _end(connection, JobState.CANCELLED)
            connection.execute(bulk_job.update().where(bulk_job.c.id == number).values(values))
            add_event(connection, "bulk job cancelled", who=who, job=number)
            return True

        cancelled = self._database.run(job, lambda _: (BULK,))
        self._database.signals.set(BULK)
        return cancelled

    # -- views -----------------------------------------------------------------------------------------------------

    def job(self, number: int) -> Job | None:
        query = sa.select(bulk_job).where(bulk_job.c.id == number)
        row = self._database.ask(lambda c: c.execute(query).one_or_none())
        return None if row is None else job_of(row)

    def jobs(self, *, before: int = 1 << 62, limit: int = 20) -> list[Job]:
        """The latest first."""
        query = sa.select(bulk_job).where(bulk_job.c.id < before).order_by(bulk_job.c.id.desc()).limit(limit)
        return [job_of(row) for row in self._database.ask(lambda c: c.execute(query).all())]

    def working(self, limit: int = 20) -> list[Job]:
        """Those under way, the latest first."""
        query = sa.select(bulk_job).where(bulk_job.c.state.in_(WORKING)).order_by(bulk_job.c.id.desc()).limit(limit)
        return [job_of(row) for row in self._database.ask(lambda c: c.execute(query).all())]

    # -- work ------------------------------------------------------------------------------------------------------

    def step(self) -> float | None:
        """Do a batch of each job; returns the seconds after which the next is due, None where no job is under way.

        The seconds are at least as many as the database was busy with the batches, so that others get half of it.
        Raises SpoolError.
        """
        query = sa.select(bulk_job).where(bulk_job.c.state.in_(WORKING)).order_by(bulk_job.c.id)
        due: list[float] = []
        for row in self._database.ask(lambda c: c.execute(query).all()):
            begin = time.monotonic()
            waits = self._work(job_of(row))
            due.append(max(waits, time.monotonic() - begin))
        return min(due) if due else None

    def _work(self, job: Job) -> float:
        if job.state is JobState.UNDOING:
            self._database.run(lambda c: _undo_some(c, job.id), lambda topics: topics)
            self._database.signals.set_many(_concerned(job))
            return 0.0
        if job.total is None:
            total = sum(1 for _ in self._all(job.act, job.filter, _bounds_of(job)))
            self._database.run(lambda c: c.execute(
                bulk_job.update().where(bulk_job.c.id == job.id).values(total=total)
            ) and None)  # fmt: skip
            return 0.0
        limit = BITE
        if job.act is Act.DECIDE_AGAIN:
            limit = FEW_DECISIONS
            if self._database.ask(_undecided) >= UNDECIDED:
                return LOOK_AGAIN
        page = self._page(job.act, job.filter, _bounds_of(job), job.cursor, limit)
        topics = self._database.run(lambda c: _do_some(c, job, page), lambda topics: topics)
        self._database.signals.set_many(topics)
        return 0.0

    def _page(self, act: Act, wanted: Filter, bounds: Bounds, before: str, limit: int) -> Page:
        key = self._key() if wanted.text else None
        return self._database.ask(lambda c: choose(c, act, wanted, bounds, key, before=before, limit=limit))

    def _all(self, act: Act, wanted: Filter, bounds: Bounds) -> Iterator[Chosen]:
        before = bounds.first
        while before:
            page = self._page(act, wanted, bounds, before, LOOK)
            yield from page.chosen
            before = page.last


def forget(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove some rows of jobs that ended before a time; returns how many."""
    old = sa.select(bulk_job.c.id).where(bulk_job.c.ended_at < before)
    some = sa.select(bulk_change.c.id).where(bulk_change.c.job_id.in_(old)).limit(limit)
    removed = connection.execute(bulk_change.delete().where(bulk_change.c.id.in_(some))).rowcount
    if not removed:
        removed = connection.execute(bulk_job.delete().where(bulk_job.c.id.in_(old.limit(limit)))).rowcount
    return int(removed)


def _bounds(connection: sa.Connection) -> Bounds:
    newest = connection.execute(sa.select(sa.func.max(instance.c.id))).scalar()
    last = connection.execute(sa.select(sa.func.max(delivery.c.id))).scalar()
    return Bounds((newest or "") + FIRST_PAGE, last or 0, clock.now(connection))


def _bounds_of(job: Job) -> Bounds:
    return Bounds(job.cursor, job.last_delivery, job.ordered_at)


def _concerned(job: Job) -> tuple[str, ...]:
    """The topics that wake who works on what the job makes."""
    return (INSTANCES,) if job.act is Act.DECIDE_AGAIN else tuple({job.destination, job.filter.to} - {""})


def _undecided(connection: sa.Connection) -> int:
    some: sa.Select[Any] = sa.select(instance.c.id).where(instance.c.state == InstanceState.NEW).limit(UNDECIDED)
    return int(connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())


def _locked(connection: sa.Connection, number: int) -> Job | None:
    row = connection.execute(sa.select(bulk_job).where(bulk_job.c.id == number).with_for_update()).one_or_none()
    return None if row is None else job_of(row)


def _end(connection: sa.Connection, state: JobState) -> dict[str, Any]:
    return {"state": state, "ended_at": clock.now(connection)}


def _do_some(connection: sa.Connection, seen: Job, page: Page) -> set[str]:
    """One batch, and the cursor behind it. Returns the topics to wake; none where the job has moved on without this."""
    job = _locked(connection, seen.id)
    if job is None or job.state is not JobState.RUNNING or job.cursor != seen.cursor:
        return set()
    changed = bulk_acts.act(connection, job, page.chosen)
    values: dict[str, Any] = {"chosen": job.chosen + len(page.chosen), "changed": job.changed + changed}
    values |= {"cursor": page.last} if page.last else _end(connection, JobState.DONE)
    connection.execute(bulk_job.update().where(bulk_job.c.id == job.id).values(values))
    if not page.last:
        add_event(connection, "bulk job ended", job=job.id, act=job.act, chosen=values["chosen"],
                  changed=values["changed"])  # fmt: skip
    return {*_concerned(job), *(one.destination for one in page.chosen)} - {""}


def _undo_some(connection: sa.Connection, number: int) -> tuple[str, ...]:
    """Take back one batch of changes. Returns the topics to wake."""
    job = _locked(connection, number)
    if job is None or job.state is not JobState.UNDOING:
        return ()
    bite = min(BITE, BACK)
    query = sa.select(bulk_change).where(bulk_change.c.job_id == number, bulk_change.c.id > int(job.cursor))
    changes = connection.execute(query.order_by(bulk_change.c.id).limit(bite)).all()
    values: dict[str, Any] = {"undone": job.undone + bulk_acts.take_back(connection, job, changes)}
    values |= {"cursor": str(changes[-1].id)} if len(changes) == bite else _end(connection, JobState.CANCELLED)
    connection.execute(bulk_job.update().where(bulk_job.c.id == number).values(values))
    if len(changes) < bite:
        add_event(connection, "bulk job ended", job=number, act=job.act, undone=values["undone"])
    return _concerned(job)
