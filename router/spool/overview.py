"""What people see at a glance: rates by minute, failures by cause, rules and senders, and what waits for their eyes.

Each question reads by an index, and looks at a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.flow import UNCERTAIN
from router.spool import clock
from router.spool.database import Database
from router.spool.devices import Taken, taken_of
from router.spool.find import id_at
from router.spool.orders import LABELLED
from router.spool.schema import delivery, event, instance
from router.spool.states import DeliveryState, InstanceState

MINUTE, DAY = 60, 86400.0
MOST_CAUSES = 200
REVIEW_WITHIN = 30 * DAY
"""Seconds. What is older is not offered for review."""
MOST_LABELS = 100_000
MOST_GIVEN = 2_000
"""Labels that are looked at for the agreement of people with themselves."""
BACK = 200_000
"""Events that are looked through for those that name a person."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened in the minute that begins at `at` (Unix time in seconds)."""

    at: float
    received: int
    delivered: int


@dataclass(frozen=True, slots=True)
class Cause:
    """Buried deliveries to one destination that failed for one reason. Times are Unix seconds."""

    destination: str
    reason: str
    n: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Hits:
    """How often a rule decided. Times are Unix seconds."""

    day: int
    week: int
    last_at: float | None


@dataclass(frozen=True, slots=True)
class ToReview:
    """An instance that waits for a person's eyes."""

    id: str
    received_at: float
    calling_ae: str
    top: str | None
    class_name: str | None
    confidence: float | None
    probabilities: str | None
    rule: str | None
    reason: str | None
    model: str | None
    novel: bool | None


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a person said that an instance shows."""

    at: float
    instance_id: str
    detail: str


class Overview:
    """Answers as frozen rows; nothing here changes the spool. Raises SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def minutes(self, destinations: Sequence[str], count: int = 60) -> tuple[Minute, ...]:
        """The last `count` minutes, the oldest first; the last one is not over."""
        return self._database.ask(lambda c: _minutes(c, destinations, count))

    def causes(self) -> list[Cause]:
        """What was given up on, the most frequent cause first."""
        return self._database.ask(_causes)

    def buried(self, destination: str, reason: str, *, after: int = 0, limit: int = 1000) -> list[tuple[int, str]]:
        """Deliveries of one cause: their numbers, ascending, and their instances."""
        query = (
            sa.select(delivery.c.id, delivery.c.instance_id)
            .where(
                delivery.c.destination == destination, delivery.c.state == DeliveryState.BURIED,
                sa.func.coalesce(delivery.c.reason, "") == reason, delivery.c.id + 0 > after,
            )
            .order_by(delivery.c.id + 0)
            .limit(limit)
        )  # fmt: skip
        return self._database.ask(lambda c: [(row.id, row.instance_id) for row in c.execute(query)])

    def hits(self, rules: Sequence[str]) -> dict[str, Hits]:
        """Of each rule."""
        return self._database.ask(lambda c: _hits(c, rules))

    def taken(self, senders: Sequence[str]) -> list[Taken]:
        """Some of what each sender sent lately."""
        return self._database.ask(lambda c: taken_of(c, senders))

    def to_review(self, rules: Sequence[str], *, before: str, limit: int) -> list[ToReview]:
        """Instances with a picture that no person has labelled, the latest first: those of an uncertain class, or,
        where rules are named, those that they decided."""
        return self._database.ask(lambda c: _to_review(c, rules, before, limit))

    def review_again(self, instance_id: str) -> ToReview | None:
        """One instance, labelled or not; None where there is no picture of it any more."""
        query = _reviewable().where(instance.c.id == instance_id)
        row = self._database.ask(lambda c: c.execute(query).one_or_none())
        return None if row is None else ToReview(*row)

    def labels(self) -> list[Labelled]:
        """The latest label of each instance, in order of time; the latest MOST_LABELS of all."""
        query = sa.select(event.c.at, event.c.instance_id, event.c.detail).where(event.c.kind == LABELLED)
        latest = query.order_by(event.c.id.desc()).limit(MOST_LABELS)
        rows = self._database.ask(lambda c: c.execute(latest).all())
        found = {row.instance_id: Labelled(row.at, row.instance_id, row.detail) for row in reversed(rows)}
        return list(found.values())

    def given(self) -> list[Labelled]:
        """The latest MOST_GIVEN labels in order of time; of one instance there may be several."""
        query = sa.select(event.c.at, event.c.instance_id, event.c.detail).where(event.c.kind == LABELLED)
        rows = self._database.ask(lambda c: c.execute(query.order_by(event.c.id.desc()).limit(MOST_GIVEN)).all())
        return [Labelled(*row) for row in reversed(rows)]

    def record(
        self, *, kind: str = "", instance_id: str = "", destination: str = "", who: bool = False, before: int | None,
        limit: int,
    ) -> list[Any]:  # fmt: skip
        """Events, the latest first; `who`: only those that name a person. `before` a number pages on."""
        query = sa.select(event).order_by(event.c.id.desc()).limit(limit)
        for column, value in (
            (event.c.kind, kind), (event.c.instance_id, instance_id), (event.c.destination, destination),
        ):  # fmt: skip
            if value:
                query = query.where(column == value)
        if who:
            query = query.where(event.c.detail.like('%"who": "%'))
            if not instance_id:  # few may name one: so far back and no further
                newest = sa.select(sa.func.max(event.c.id)).scalar_subquery() if before is None else before
                query = query.where(event.c.id > newest - BACK)
        if before is not None:
            query = query.where(event.c.id < before)
        return self._database.ask(lambda c: list(c.execute(query).all()))

    def kinds(self) -> list[str]:
        """The kinds of events that there are: one step in an index for each."""
        return self._database.ask(lambda c: [row[0] for row in c.execute(_KINDS) if row[0]])


_KINDS = sa.text("""
    WITH RECURSIVE kinds(kind) AS (
        SELECT min(kind) FROM event
        UNION ALL
        SELECT (SELECT min(kind) FROM event WHERE kind > kinds.kind) FROM kinds WHERE kinds.kind IS NOT NULL
    )
    SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT 200
""")


def _minutes(connection: sa.Connection, destinations: Sequence[str], count: int) -> tuple[Minute, ...]:
    begin = (int(clock.now(connection)) // MINUTE - count + 1) * MINUTE
    received = _by_minute(connection, begin, [sa.select(instance.c.received_at).where(instance.c.id >= id_at(begin))])
    done = delivery.c.state == sa.literal_column(f"'{DeliveryState.DONE}'")
    here = [  # each by its index: of several destinations at once, a planner reads them all
        sa.select(delivery.c.closed_at).where(delivery.c.destination == name, done, delivery.c.closed_at >= begin)
        for name in destinations
    ]
    delivered = _by_minute(connection, begin, here)
    return tuple(
        Minute(begin + MINUTE * place, received.get(place, 0), delivered.get(place, 0)) for place in range(count)
    )


def _by_minute(connection: sa.Connection, begin: int, times: Sequence[sa.Select[Any]]) -> dict[int, int]:
    """How many of these times lie in each minute after `begin`."""
    if not times:
        return {}
    at = sa.union_all(*times).subquery().c[0]
    seconds = sa.cast(at - begin - 0.5, sa.Integer) if _rounds(connection) else sa.cast(at - begin, sa.Integer)
    minute = (seconds // MINUTE).label("minute")
    rows = connection.execute(sa.select(minute, sa.func.count()).group_by(minute))
    return {int(row[0]): int(row[1]) for row in rows}


def _rounds(connection: sa.Connection) -> bool:
    """Whether a cast to a whole number rounds (PostgreSQL), and does not cut off (SQLite)."""
    return connection.dialect.name != "sqlite"


def _causes(connection: sa.Connection) -> list[Cause]:
    reason = sa.func.coalesce(delivery.c.reason, "")
    n = sa.func.count()
    query = (
        sa.select(
            delivery.c.destination, reason, n, sa.func.min(delivery.c.closed_at), sa.func.max(delivery.c.closed_at)
        )
        .where(delivery.c.state == DeliveryState.BURIED)
        .group_by(delivery.c.destination, reason)
        .order_by(n.desc(), delivery.c.destination, reason)
        .limit(MOST_CAUSES)
    )
    return [
        Cause(to, why, count, first or 0.0, last or 0.0) for to, why, count, first, last in connection.execute(query)
    ]


def _hits(connection: sa.Connection, rules: Sequence[str]) -> dict[str, Hits]:
    """In one statement: each of many would wait for its turn at the interpreter while others receive."""
    now = clock.now(connection)
    named = sa.union_all(*(sa.select(sa.literal(rule, sa.String).label("rule")) for rule in rules)).subquery()

    def since(seconds: float) -> sa.ScalarSelect[Any]:
        lately = (instance.c.rule == named.c.rule) & (instance.c.id >= id_at(now - seconds))
        return sa.select(sa.func.count()).select_from(instance).where(lately).scalar_subquery()

    last = sa.select(sa.func.max(instance.c.id)).where(instance.c.rule == named.c.rule).scalar_subquery()
    rows = connection.execute(sa.select(named.c.rule, since(DAY), since(7 * DAY), last))
    return {rule: Hits(day, week, int(latest[:16], 16) / 1e9 if latest else None) for rule, day, week, latest in rows}


def _to_review(connection: sa.Connection, rules: Sequence[str], before: str, limit: int) -> list[ToReview]:
    now = clock.now(connection)
    unlabelled = ~sa.exists().where(event.c.instance_id == instance.c.id, event.c.kind == LABELLED)
    wanted = instance.c.rule.in_(rules) if rules else instance.c["class"] == UNCERTAIN
    query = (
        _reviewable()
        .where(wanted, instance.c.id < before, instance.c.id >= id_at(now - REVIEW_WITHIN), unlabelled)
        .order_by(instance.c.id.desc())
        .limit(limit)
    )
    return [ToReview(*row) for row in connection.execute(query)]


def _reviewable() -> sa.Select[Any]:
    """Instances of which there is a picture and a decision, as ToReview has them."""
    return sa.select(
        instance.c.id, instance.c.received_at, instance.c.calling_ae, instance.c.top, instance.c["class"],
        instance.c.confidence, instance.c.probabilities, instance.c.rule, instance.c.reason, instance.c.model,
        instance.c.novel,
    ).where(
        instance.c.pixels == "decoded", instance.c.state.in_((InstanceState.DECIDED, InstanceState.FINISHED))
    )  # fmt: skip
