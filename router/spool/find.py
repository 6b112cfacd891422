"""Find instances: by what a person knows of them, the latest first, a page at a time.

A page is found by the filter that matches the fewest rows. Each filter has an index whose second part is the id, and
ids are in order of time, so that rows of one filter come in the order of the page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from router.spool import schema
from router.spool.keyed import Key
from router.spool.states import DeliveryState, InstanceState

instance, delivery = schema.instance, schema.delivery
FIRST_PAGE = "g"
"""Sorts behind every id."""
FEW = 20_000
"""Rows. A filter that matches fewer is the one that leads; where all match more, the latest rows are looked through."""
MOST_DELIVERIES = 64
"""Of one instance, that a page shows."""
LEAST_ID = 6
"""The fewest digits of an id that are taken for its beginning."""


class State(StrEnum):
    """What has become of an instance, or with `to` of its delivery there."""

    WAITING = "waiting"
    """It has no decision yet, or a delivery is open."""
    DONE = "done"
    """Nothing is open or buried; with `to`: it arrived there."""
    BURIED = "buried"
    """A delivery was given up on, and waits for a person."""
    DISCARDED = "discarded"
    """A person dropped a delivery."""
    SKIPPED = "skipped"
    """A delivery would have gone back to the caller."""
    OWED = "owed"
    """A delivery is open or buried."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a text may be the name of; study and accession number are keyed hashes. Empty: it is no such name."""

    begins: str = ""
    """The beginning of ids."""
    sop_instance: str = ""
    study: str = ""
    accession: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; what is None or empty does not count."""

    text: str = ""
    """Our id or its beginning, SOP or Study Instance UID, or accession number."""
    since: float | None = None
    until: float | None = None
    """Unix times in seconds of the arrival: from `since` on, before `until`."""
    class_name: str = ""
    """One of CLASSES, or `uncertain`."""
    rule: str = ""
    to: str = ""
    """A destination."""
    calling_ae: str = ""
    peer: str = ""
    state: State | None = None
    names: Names | None = None
    """In place of `text`, for a filter that is kept."""


@dataclass(frozen=True, slots=True)
class FoundDelivery:
    """A delivery of an instance that was found."""

    id: int
    destination: str
    state: str
    tries: int
    done_at: float | None
    """Unix time in seconds at which it was closed, however it was."""
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """An instance that was found. Nothing here is a value of its header."""

    id: str
    received_at: float
    calling_ae: str
    peer: str
    sop_class: str
    state: str
    pixels: str | None
    top: str | None
    class_name: str | None
    confidence: float | None
    view: str | None
    rule: str | None
    table: str | None
    destinations: tuple[str, ...]
    deliveries: tuple[FoundDelivery, ...]


def find(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str = FIRST_PAGE, limit: int = 100
) -> list[Found]:
    """A page of instances, the latest first: those whose id is less than `before`, which pages on."""
    ids = page_of_ids(connection, wanted, key, before=before, limit=limit)
    query = sa.select(instance).where(instance.c.id.in_(ids)).order_by(instance.c.id.desc())
    rows = connection.execute(query).all() if ids else []
    deliveries = _deliveries(connection, ids)
    return [_found(row, deliveries[row.id]) for row in rows]


def page_of_ids(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str, limit: int, few: int = FEW
) -> list[str]:
    """The ids of `find`; `few` as FEW."""
    if not all(_storable(text) for text in (wanted.text, wanted.rule, wanted.to, wanted.calling_ae, wanted.peer)):
        return []
    span = [instance.c.id < before]
    if wanted.since is not None:
        span.append(instance.c.id >= id_at(wanted.since))
    if wanted.until is not None:
        span.append(instance.c.id < id_at(wanted.until))
    filters = list(_filters(wanted, key))
    least, fewest = None, few
    for one in filters:
        ids = one.ids(span).limit(fewest)  # counts no further than the best so far
        count = connection.execute(sa.select(sa.func.count()).select_from(ids.subquery())).scalar_one()
        if count < fewest:
            least, fewest = one, count
    query = sa.select(instance.c.id).where(*span)
    if least is not None:
        query = query.where(instance.c.id.in_(least.ids(span)))
    query = query.where(*(one.holds() for one in filters if one is not least))
    return list(connection.execute(query.order_by(instance.c.id.desc()).limit(limit)).scalars())


def kept(connection: sa.Connection, wanted: Filter, key: Key | None) -> Filter:
    """The same filter without its text, which may be of a patient or a study: what it names here, and keyed hashes."""
    if not wanted.text:
        return wanted
    names = _names(wanted.text, key)
    if not _storable(wanted.text):
        return replace(wanted, text="", names=Names())
    known = [
        connection.execute(sa.select(instance.c.id).where(condition).limit(1)).first() is not None
        for condition in (_BeginsWith(names.begins).holds(), instance.c.sop_instance == names.sop_instance)
    ]
    names = replace(names, begins=names.begins * known[0], sop_instance=names.sop_instance * known[1])
    return replace(wanted, text="", names=names)


def _storable(text: str) -> bool:
    """Whether a database could hold this text at all: PostgreSQL takes no NUL, and no database half a character."""
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text


def id_at(seconds: float) -> str:
    """The beginning of the first id that could be given at a Unix time."""
    return f"{max(0, int(seconds * 1e9)):016x}"


@dataclass(frozen=True, slots=True)
class _Column:
    """Instances with one value in a column."""

    column: sa.Column[Any]
    value: str

    def ids(self, span: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
        return sa.select(instance.c.id).where(self.column == self.value, *span)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.func.coalesce(self.column, "") == self.value  # so that no planner takes the column's index


@dataclass(frozen=True, slots=True)
class _AnyOf:
    """Instances for which one of several filters holds."""

    filters: tuple[_Filter, ...]

    def ids(self, span: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
        if not self.filters:
            return sa.select(instance.c.id).where(sa.false())
        parts = [one.ids(span).limit(FEW).subquery() for one in self.filters]  # SQLite wants no bare LIMIT in a UNION
        together = sa.union(*(sa.select(part.c[0].label("id")) for part in parts)).subquery()
        return sa.select(together.c.id)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.or_(sa.false(), *(one.holds() for one in self.filters))


@dataclass(frozen=True, slots=True)
class _BeginsWith:
    """Instances whose id begins with these digits."""

    digits: str

    def ids(self, span: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
        return sa.select(instance.c.id).where(self.holds(), *span)

    def holds(self) -> sa.ColumnElement[bool]:
        return sa.and_(instance.c.id >= self.digits, instance.c.id < self.digits + FIRST_PAGE)


@dataclass(frozen=True, slots=True)
class _HasDelivery:
    """Instances with a delivery in a state, to a destination, or both."""

    to: str
    state: str

    def ids(self, span: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
        of = delivery.c.instance_id
        here = [_moved(condition, of) for condition in span]
        asked = [column == value for column, value in self._asked()]
        return sa.select(of).distinct().where(*asked, *here)

    def holds(self) -> sa.ColumnElement[bool]:
        asked = [sa.func.coalesce(column, "") == value for column, value in self._asked()]
        return sa.exists().where(delivery.c.instance_id == instance.c.id, *asked)

    def _asked(self) -> Iterator[tuple[sa.Column[Any], str]]:
        if self.to:
            yield delivery.c.destination, self.to
        if self.state:
            yield delivery.c.state, self.state


_Filter = _Column | _AnyOf | _BeginsWith | _HasDelivery


def _moved(condition: sa.ColumnElement[bool], to: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """A condition on an instance's id as one on the same id in another table."""
    assert isinstance(condition, sa.BinaryExpression)
    return sa.BinaryExpression(to, condition.right, condition.operator)


def _filters(wanted: Filter, key: Key | None) -> Iterator[_Filter]:
    names = _names(wanted.text, key) if wanted.text else wanted.names
    if names is not None:
        yield _AnyOf(tuple(_named(names)))
    for column, value in (
        (instance.c["class"], wanted.class_name), (instance.c.rule, wanted.rule),
        (instance.c.calling_ae, wanted.calling_ae), (instance.c.peer, wanted.peer),
    ):  # fmt: skip
        if value:
            yield _Column(column, value)
    match wanted.state:
        case None:
            if wanted.to:
                yield _HasDelivery(wanted.to, "")
        case State.WAITING if not wanted.to:
            yield _AnyOf((_Column(instance.c.state, InstanceState.NEW), _HasDelivery("", DeliveryState.OPEN)))
        case State.DONE if not wanted.to:
            yield _AnyOf(tuple(_Column(instance.c.state, end) for end in (InstanceState.FINISHED, InstanceState.GONE)))
        case State.WAITING:
            yield _HasDelivery(wanted.to, DeliveryState.OPEN)
        case State.OWED:
            yield _AnyOf(tuple(_HasDelivery(wanted.to, one) for one in (DeliveryState.OPEN, DeliveryState.BURIED)))
        case state:
            yield _HasDelivery(wanted.to, str(state))


def _names(text: str, key: Key | None) -> Names:
    """All that a text may be."""
    digits, text = text.strip().casefold(), text.strip()
    is_id = LEAST_ID <= len(digits) <= 32 and not set(digits) - set("0123456789abcdef")
    study, accession = (key.study(text), key.accession(text)) if key is not None else ("", "")
    return Names(digits if is_id else "", text, study, accession)


def _named(names: Names) -> Iterator[_Filter]:
    if names.begins:
        yield _BeginsWith(names.begins)
    for column, value in (
        (instance.c.sop_instance, names.sop_instance), (instance.c.study, names.study),
        (instance.c.accession, names.accession),
    ):  # fmt: skip
        if value:
            yield _Column(column, value)


def _deliveries(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[FoundDelivery]]:
    found: dict[str, list[FoundDelivery]] = defaultdict(list)
    query = sa.select(delivery).where(delivery.c.instance_id.in_(ids)).order_by(delivery.c.id)
    for row in connection.execute(query) if ids else ():
        if len(found[row.instance_id]) < MOST_DELIVERIES:
            found[row.instance_id].append(
                FoundDelivery(row.id, row.destination, row.state, row.tries, row.closed_at, row.reason or "")
            )
    return found


def _found(row: Any, deliveries: Sequence[FoundDelivery]) -> Found:
    return Found(
        row.id, row.received_at, row.calling_ae, row.peer, row.sop_class, row.state, row.pixels, row.top,
        row._mapping["class"], row.confidence, row.view, row.rule, row._mapping["table"],
        _destinations(row.destinations), tuple(deliveries),
    )  # fmt: skip


def _destinations(text: str | None) -> tuple[str, ...]:
    """One damaged value must not hide the other rows."""
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()
