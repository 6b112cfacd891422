"""The filters of `find`, in SQL: each names its latest instances, and says of one instance whether it holds.

Each filter has an index that ends with the id, and ids are in order of time. So the latest rows of one filter are read
from its index, and no planner may choose another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.spool import schema
from router.spool.states import DeliveryState

instance, delivery, result = schema.instance, schema.delivery, schema.result
BEHIND_ALL = "g"
"""Sorts behind every id."""
FOR_EVER = 1e300
"""Seconds; more than any `ready_at`."""


@dataclass(frozen=True, slots=True)
class Span:
    """Ids from `low` on, below `high`."""

    low: str
    high: str

    def holds(self, column: sa.Column[Any]) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
        return column >= self.low, column < self.high


@dataclass(frozen=True, slots=True)
class InColumn:
    """Instances with one value in a column that has an index with the id."""

    column: sa.Column[Any]
    value: str

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        return _along((self.column, instance.c.id), (self.value,), span, most)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.func.coalesce(self.column, "") == self.value  # so that no planner takes the column's index


@dataclass(frozen=True, slots=True)
class ByName(InColumn):
    """Instances with one value that hardly any others have; not every row is in the column's index."""

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        return sa.select(instance.c.id).where(self.column == self.value, *span.holds(instance.c.id)).limit(most)


@dataclass(frozen=True, slots=True)
class InState:
    """Instances in one state. Their index has `ready_at` before the id: it is 0 for all but some that are new."""

    state: str

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        columns = (instance.c.state, instance.c.ready_at, instance.c.id)
        asked_about = sa.select(instance.c.id).where(
            sa.tuple_(*columns) > sa.tuple_(sa.literal(self.state), sa.literal(0.0), sa.literal(BEHIND_ALL)),
            sa.tuple_(*columns) < sa.tuple_(sa.literal(self.state), sa.literal(FOR_EVER), sa.literal("")),
            *span.holds(instance.c.id),
        )
        return _together([_along(columns, (self.state, 0.0), span, most), asked_about], most)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.func.coalesce(instance.c.state, "") == self.state


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Instances for which one of several filters holds."""

    filters: tuple[AnyFilter, ...]

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        if not self.filters:
            return sa.select(instance.c.id).where(sa.false())
        return _together([one.latest(span, most) for one in self.filters], most)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.or_(sa.false(), *(one.holds() for one in self.filters))


@dataclass(frozen=True, slots=True)
class BeginsWith:
    """Instances whose id begins with these digits."""

    digits: str

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        own = Span(max(span.low, self.digits), min(span.high, self.digits + BEHIND_ALL))
        return sa.select(instance.c.id).where(*own.holds(instance.c.id)).order_by(instance.c.id.desc()).limit(most)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.and_(instance.c.id >= self.digits, instance.c.id < self.digits + BEHIND_ALL)


@dataclass(frozen=True, slots=True)
class HasDelivery:
    """Instances with a delivery in a state, to a destination, or both."""

    to: str
    state: str

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        if not self.state:  # the index has the state before the instance
            return _together([HasDelivery(self.to, one.value).latest(span, most) for one in DeliveryState], most)
        # With `=` here PostgreSQL ends where the state does. Of columns that are compared together it only ends where
        # the first one does, behind all deliveries of the destination.
        there = [delivery.c.destination == self.to] if self.to else []
        return _along((delivery.c.state, delivery.c.instance_id), (self.state,), span, most, *there)

    def holds(self) -> sa.ColumnElement[bool]:
        asked = [sa.func.coalesce(column, "") == value for column, value in self._asked()]
        return sa.exists().where(delivery.c.instance_id == instance.c.id, *asked)

    def _asked(self) -> Iterator[tuple[sa.Column[Any], str]]:
        """In the order of the index."""
        if self.to:
            yield delivery.c.destination, self.to
        if self.state:
            yield delivery.c.state, self.state


@dataclass(frozen=True, slots=True)
class LacksResult:
    """Instances with a delivery whose result is missing, or waited for. There are few, in an index of their own."""

    to: str
    missing: bool

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        # The index of what is missing ends with the instance. What is awaited has another order, and is soon over.
        which = delivery.c.instance_id if self.missing else sa.func.coalesce(delivery.c.instance_id, "")
        ids = sa.select(which.label("id")).where(*self._asked(), which >= span.low, which < span.high)
        return latest_first(ids, most, once=True)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.exists().where(delivery.c.instance_id == instance.c.id, *self._asked())

    def _asked(self) -> Iterator[sa.ColumnElement[bool]]:
        """In a way that leaves a planner the index of few alone."""
        yield (delivery.c.result_missing_at if self.missing else delivery.c.result_due).is_not(None)
        if not self.missing:
            yield delivery.c.result_due > -FOR_EVER
        if self.to:
            yield sa.func.coalesce(delivery.c.destination, "") == self.to


@dataclass(frozen=True, slots=True)
class HasResult:
    """Instances of which a result came."""

    to: str

    def latest(self, span: Span, most: int) -> sa.Select[Any]:
        there = [result.c.destination == self.to] if self.to else []
        ids = sa.select(result.c.instance_id.label("id")).where(*span.holds(result.c.instance_id), *there)
        return latest_first(ids, most, once=True)

    def holds(self) -> sa.ColumnElement[bool]:
        there = [sa.func.coalesce(result.c.destination, "") == self.to] if self.to else []
        return sa.exists().where(result.c.instance_id == instance.c.id, *there)


AnyFilter = InColumn | InState | AnyOf | BeginsWith | HasDelivery | LacksResult | HasResult


def latest_first(ids: sa.Select[Any], most: int, *, once: bool = False) -> sa.Select[Any]:
    """The latest of these ids, in order. `once`: an id may be among them more than once."""
    only = ids.subquery()
    found = sa.select(only.c[0]).order_by(only.c[0].desc()).limit(most)
    return found.distinct() if once else found


def _along(
    columns: Sequence[sa.Column[Any]], values: Sequence[Any], span: Span, most: int, *before: sa.ColumnElement[bool]
) -> sa.Select[Any]:
    """The latest ids with these values in all but the last of the columns of an index, which is the id.

    `before` says what the columns of the index before those are.

    The columns are compared together. With `=` a planner may go along all ids instead, until enough of them have the
    value; together, only this index has them in order.

    The begin of the span is asked of the latest rows, and not of the index. Of columns that are compared together
    PostgreSQL ends only where the first one does: a span of an hour would read all earlier rows with these values.
    """
    whole = sa.tuple_(*columns)
    low, high = (sa.tuple_(*map(sa.literal, (*values, end))) for end in ("", span.high))
    rows = sa.select(*columns).distinct().where(whole >= low, whole < high, *before)
    rows = rows.order_by(*(one.desc() for one in columns)).limit(most)
    ids = rows.subquery().c[len(columns) - 1]
    return sa.select(ids).where(ids >= span.low)


def _together(parts: Sequence[sa.Select[Any]], most: int) -> sa.Select[Any]:
    """The latest ids of several selections, each of which is at its limit or complete."""
    below = [part.subquery() for part in parts]  # SQLite wants no bare LIMIT in a UNION
    return latest_first(sa.select(sa.union(*(sa.select(one.c[0].label("id")) for one in below)).subquery()), most)
