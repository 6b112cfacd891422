"""Results: instances that answer deliveries. What was found out is a row; what is waited for is a time in the delivery.

A result may be quicker than the note that its delivery is done, and several nodes may work at once. So a delivery looks
for its result when it is done, a result for its deliveries when it is decided, and both are looked at again before a
result counts as missing: by then all that happened is committed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.flow import Instance
from router.observe import log
from router.observe.metrics import RESULT_SECONDS, RESULTS_CAME, RESULTS_MISSING
from router.spool import clock, owing, steady
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.finishing import look_alone
from router.spool.gathering import NOTHING_GATHERED, Gathers
from router.spool.matching import ALONE, NO_GIVERS, STUDY, Givers, Match, match, named_callers, origins_of
from router.spool.rows import MISSING_WITHIN, instance_of
from router.spool.schema import delivery, instance, parts, result
from router.spool.states import InstanceState

MISSING = "result missing"
"""The kind of the event that says so."""
Expects = Mapping[str, tuple[float, str | None]]
"""By destination that must give results: within how many seconds, and where an instance goes if none comes."""
BITE = 50
"""Results that are looked at in one transaction."""
LOOK_EVERY, LOOK_AGAIN = 30.0, 15.0
"""Seconds after which is looked for missing results at the latest; and again, if a result may wait for its decision."""
OPEN_ENDED = 60.0
"""Seconds before the end of a delivery in which its result may have come: programs answer while they are sent to."""
MOST_SHOWN = 100
MOST_ROWS = 20_000
"""Of the latest results, of which a median is taken."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A result, and a delivery that it answers."""

    result_id: str
    instance_id: str
    destination: str
    how: str
    at: float
    """Unix time in seconds at which it came."""
    seconds: float | None
    """Since the delivery was done; None while it is not."""


@dataclass(frozen=True, slots=True)
class Lately:
    """Results of one destination."""

    came: int
    seconds: float | None
    """The median of the time since the last delivery that each answers."""


class Results:
    """What classify, forward and people ask of the spool about results."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def match(
        self, one: Instance, study: str | None, references: Sequence[str], givers: Givers,
        others: frozenset[str] = frozenset(),
    ) -> Match:  # fmt: skip
        """Whose result an instance is, before it is decided. `study`: its keyed hash; None: as receiving found it."""

        def ask(connection: sa.Connection) -> Match:
            known = study or connection.execute(_STUDY_OF, {"which": one.id}).scalar()
            return match(connection, one, known, references, givers, others)

        return self._database.ask(ask)

    def step(
        self, expects: Expects, limits: Mapping[str, int | None], gathers: Gathers = NOTHING_GATHERED,
        givers: Givers = NO_GIVERS,
    ) -> float | None:  # fmt: skip
        """Note some results that have not come in time, and owe their instances to the fallback. Returns the seconds
        until the next step; None where no result is waited for.

        `limits`: the enabled destinations, each with how many open deliveries it may have.
        """
        begin = time.monotonic()
        first, now = self._database.ask(lambda c: (c.execute(_FIRST_DUE).scalar(), clock.now(c)))
        if first is None and not expects:
            return None
        if first is None or first > now:
            soonest = min((seconds / 10 for seconds, _ in expects.values()), default=LOOK_EVERY)
            return max(0.05, min(first - now if first else LOOK_EVERY, soonest, LOOK_EVERY))
        # Read apart: many may wait for their decision, and nobody else could write meanwhile.
        titles = sorted({title for name in expects if name in givers for title in givers[name].titles})
        waiting = self._database.ask(lambda c: {row[0]: row[1] for row in c.execute(_WAITING, {"titles": titles})})
        missing: list[tuple[str, str, str]] = []
        buried: dict[tuple[str, str], str] = {}
        to = self._database.run(
            lambda c: _note_missing(c, expects, limits, gathers, givers, waiting, missing, buried), lambda names: names
        )
        self._database.signals.set_many(to)
        for which, name, fallback in missing:
            RESULTS_MISSING.labels(name).inc()
            log.warning("result missing", instance=which, destination=name, fallback=fallback or None)
        for (which, name), reason in buried.items():
            owing.tell_buried(which, name, reason)
        return time.monotonic() - begin

    # -- views -----------------------------------------------------------------------------------------------------

    def answering(self, instance_id: str) -> list[ResultRow]:
        """The results of an instance, the first first."""
        return self._database.ask(lambda c: _rows(c, result.c.instance_id == instance_id))

    def answered_by(self, instance_id: str) -> list[ResultRow]:
        """What an instance is a result of."""
        return self._database.ask(lambda c: _rows(c, result.c.result_id == instance_id))

    def lately(self, seconds: float = MISSING_WITHIN) -> dict[str, Lately]:
        """By destination: the results of the last seconds."""
        return self._database.ask(lambda c: _lately(c, clock.now(c) - seconds))


_STUDY_OF = sa.select(instance.c.study).where(instance.c.id == sa.bindparam("which"))
_FIRST_DUE = sa.select(sa.func.min(delivery.c.result_due)).where(sa.text("delivery.result_due IS NOT NULL"))
_WAITING = (
    sa.select(instance.c.calling_ae, sa.func.min(instance.c.received_at))
    .where(instance.c.state == InstanceState.NEW, instance.c.calling_ae.in_(sa.bindparam("titles", expanding=True)))
    .group_by(instance.c.calling_ae)
)
"""When the first came that has no decision yet, by AE title."""
_IS_RESULT = sa.select(result.c.result_id).where(result.c.result_id == sa.bindparam("which")).limit(1)
_HAS_RESULT = (
    sa.select(result.c.result_id).where(result.c.delivery_id == sa.bindparam("of"), result.c.how != ALONE).limit(1)
)
_OF_STUDY = (
    sa.select(result.c.result_id, result.c.at)
    .where(
        result.c.destination == sa.bindparam("to"), result.c.study == sa.bindparam("study"),
        result.c.at >= sa.bindparam("since"), result.c.how != ALONE,
    )
    .order_by(result.c.at)
    .limit(1)
)  # fmt: skip


def note(connection: sa.Connection, one: Instance, study: str | None, found: Match) -> None:
    """Write down what a result answers, in the transaction of its decision; its row is locked.

    What only refers to an instance ends no wait: a workstation refers to images, too, and would hide that the AI is
    silent.
    """
    ids = sorted(row.delivery_id for row in found.answered)
    if connection.dialect.name != "sqlite":  # the end of one of these deliveries waits, and then sees the rows
        for some in parts(ids):
            locked = sa.select(delivery.c.id).where(delivery.c.id.in_(some)).order_by(delivery.c.id)
            connection.execute(locked.with_for_update())
    connection.execute(result.delete().where(result.c.result_id == one.id))
    connection.execute(result.insert(), [
        {"result_id": one.id, "delivery_id": row.delivery_id, "instance_id": row.instance_id,
         "destination": row.destination, "study": study, "how": row.how, "at": one.received_at}
        for row in found.answered
    ])  # fmt: skip
    waits = delivery.c.result_due.is_not(None) | delivery.c.result_missing_at.is_not(None)
    for some in parts(sorted(row.delivery_id for row in found.answered if row.how != ALONE)):
        answered = delivery.update().where(delivery.c.id.in_(some), waits)
        connection.execute(answered.values(result_due=None, result_missing_at=None))


def tell(one: Instance, found: Match) -> None:
    """Count and log a result, once it is written down."""
    for name in found.names:
        rows = [row for row in found.answered if row.destination == name]
        done = [row.done_at for row in rows if row.done_at is not None]
        seconds = max(0.0, one.received_at - max(done)) if done else 0.0
        RESULTS_CAME.labels(name, rows[0].how).inc()
        RESULT_SECONDS.labels(name).observe(seconds)
        log.info("result", instance=one.id, destination=name, how=rows[0].how, answers=len(rows), s=round(seconds, 1))


def expect(connection: sa.Connection, delivery_id: int, which: str, to: str, within: float, took: float) -> None:
    """A delivery is done: wait for its result, unless it has come. A result itself is waited for by nobody.

    `took`: seconds of the try; what came meanwhile may answer it.
    """
    if connection.execute(_IS_RESULT, {"which": which}).first() is not None:
        return
    now = steady.look(connection).now  # if the clock has just jumped, before the wait begins
    if not _has_come(connection, delivery_id, which, to, now - took):
        due = delivery.update().where(delivery.c.id == delivery_id)
        connection.execute(due.values(result_due=now + within))


def _has_come(connection: sa.Connection, delivery_id: int, which: str, to: str, since: float) -> bool:
    """Whether there is a result of a delivery, or one of its study that came since a time; that one is noted."""
    if connection.execute(_HAS_RESULT, {"of": delivery_id}).first() is not None:
        return True
    study = connection.execute(_STUDY_OF, {"which": which}).scalar()
    asked = {"to": to, "study": study, "since": since}
    found = connection.execute(_OF_STUDY, asked).one_or_none() if study is not None else None
    if found is None:
        return False
    connection.execute(result.insert().values(
        result_id=found.result_id, delivery_id=delivery_id, instance_id=which, destination=to, study=study, how=STUDY,
        at=found.at,
    ))  # fmt: skip
    return True


def _note_missing(
    connection: sa.Connection, expects: Expects, limits: Mapping[str, int | None], gathers: Gathers, givers: Givers,
    waiting: Mapping[str, float], missing: list[tuple[str, str, str]], buried: dict[tuple[str, str], str],
) -> set[str]:  # fmt: skip
    """One batch. Returns the destinations with new deliveries; fills `missing` and `buried`."""
    missing.clear()  # a job may run again
    buried.clear()
    moment = steady.look(connection)
    due = (sa.text("delivery.result_due IS NOT NULL"), delivery.c.result_due <= moment.now)
    some = sa.select(delivery.c.id, delivery.c.instance_id).where(*due).order_by(delivery.c.result_due).limit(BITE)
    rows = connection.execute(some).all()
    look_alone(connection, lambda: instance.c.id.in_([row.instance_id for row in rows]))
    mine = sa.select(delivery).where(delivery.c.id.in_([row.id for row in rows]), *due).order_by(delivery.c.id)
    owed: set[str] = set()
    for row in connection.execute(mine.with_for_update()).all():
        values: dict[str, Any] = {"result_due": None}
        since = (row.closed_at or moment.now) - OPEN_ENDED
        wanted = expects.get(row.destination)
        if wanted is None and row.destination not in limits:  # it was removed, and nobody said that none is expected
            wanted = 0.0, None
        if wanted is not None and not _has_come(connection, row.id, row.instance_id, row.destination, since):
            in_time = min(row.result_due, (row.closed_at or moment.now) + wanted[0])
            if _may_wait(row.destination, in_time, givers, waiting):
                values = {"result_due": moment.now + LOOK_AGAIN}
            else:
                values |= {"result_missing_at": moment.now}
                fallback = _to_fallback(connection, row, wanted[1], limits, gathers, givers, moment, buried)
                add_event(connection, MISSING, row.instance_id, row.destination, fallback=fallback or None)
                missing.append((row.instance_id, row.destination, fallback))
                owed |= {fallback} - {""}
        connection.execute(delivery.update().where(delivery.c.id == row.id).values(values))
    return owed


def _may_wait(name: str, in_time: float, givers: Givers, waiting: Mapping[str, float]) -> bool:
    """Whether something that came from there in time has no decision yet: it may be the result.

    `in_time` never moves on, or else an AI that sends without a pause would never miss one.
    """
    titles = givers[name].titles if name in givers else ()
    return any(waiting.get(title, math.inf) <= in_time for title in titles)


def _to_fallback(
    connection: sa.Connection, row: Any, name: str | None, limits: Mapping[str, int | None], gathers: Gathers,
    givers: Givers, moment: steady.Moment, buried: dict[tuple[str, str], str],
) -> str:  # fmt: skip
    """Owe an instance to the fallback, unless it ever was owed there, came from there, or its blob is gone.

    Returns the destination; empty if nothing is owed.
    """
    if name is None or name not in limits:
        return ""
    one = connection.execute(sa.select(instance).where(instance.c.id == row.instance_id)).one()
    had = sa.select(delivery.c.id).where(delivery.c.instance_id == one.id, delivery.c.destination == name).limit(1)
    if one.state == InstanceState.GONE or connection.execute(had).first() is not None:
        return ""
    if name in came_from(connection, [one], givers)[one.id]:
        return ""
    reasons = owing.owe(connection, instance_of(one), [name], limits, moment, study=one.study, gathers=gathers)
    if name in reasons:
        buried[one.id, name] = reasons[name]
    if one.state == InstanceState.FINISHED:
        decided = {"state": InstanceState.DECIDED, "finished_at": None}
        connection.execute(instance.update().where(instance.c.id == one.id).values(decided))
    return name


def came_from(connection: sa.Connection, rows: Sequence[Any], givers: Givers) -> dict[str, set[str]]:
    """By instance, the destinations that it came from, as `matching.Match` says it. `rows` are of `instance`."""
    ids = [row.id for row in rows]
    results = set(connection.execute(sa.select(result.c.result_id).where(result.c.result_id.in_(ids))).scalars())
    return {
        row.id: named_callers(row.calling_ae, givers)
        | (origins_of(connection, [row.id]) if row.id in results else set())
        for row in rows
    }


def forget(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Remove what is known of results with their instances."""
    connection.execute(result.delete().where(result.c.result_id.in_(ids) | result.c.instance_id.in_(ids)))


def not_awaited() -> sa.ColumnElement[bool]:
    """The condition for instances that no result is waited for: they may have to go to the fallback."""
    awaited = (delivery.c.instance_id == instance.c.id) & delivery.c.result_due.is_not(None)
    return ~sa.exists().where(awaited)


def _rows(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[ResultRow]:
    query = (
        sa.select(result, delivery.c.closed_at, delivery.c.state)
        .join(delivery, delivery.c.id == result.c.delivery_id)
        .where(which)
        .order_by(result.c.at, result.c.result_id, result.c.delivery_id)
        .limit(MOST_SHOWN)
    )
    return [
        ResultRow(row.result_id, row.instance_id, row.destination, row.how, row.at, _seconds(row.at, row.closed_at))
        for row in connection.execute(query)
    ]


def _seconds(at: float, done_at: float | None) -> float | None:
    return None if done_at is None else max(0.0, at - done_at)


def _lately(connection: sa.Connection, since: float) -> dict[str, Lately]:
    query = (
        sa.select(result.c.destination, result.c.result_id, result.c.at, delivery.c.closed_at)
        .join(delivery, delivery.c.id == result.c.delivery_id)
        .where(result.c.at >= since)
        .order_by(result.c.at.desc())
        .limit(MOST_ROWS)
    )
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in connection.execute(query):
        each = taken[row.destination][row.result_id]
        if row.closed_at is not None:
            each.append(max(0.0, row.at - row.closed_at))
    return {name: Lately(len(of), _median([min(each) for each in of.values() if each])) for name, of in taken.items()}


def _median(times: Sequence[float]) -> float | None:
    return statistics.median(times) if times else None
