"""Find instances: by what a person knows of them, the latest first, a page at a time.

A page is found by the filter that matches the fewest rows. Each filter has an index that ends with the id, and ids are
in order of time, so that rows of one filter come in the order of the page. A look is bounded: filters of which each
matches many rows, and all together none, are answered with how far it has looked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from router.spool import filters, schema
from router.spool.keyed import Key
from router.spool.states import DeliveryState, InstanceState

instance, delivery = schema.instance, schema.delivery
FIRST_PAGE = filters.BEHIND_ALL
"""The first page comes before every id: the latest are first."""
FEW = 4_000
"""Rows of one filter that one look reads."""
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


class Result(StrEnum):
    """What has become of the result of an instance, with `to` of that destination's."""

    MISSING = "missing"
    """It did not come in time, and has not come since."""
    AWAITED = "awaited"
    """It may still come in time."""
    CAME = "came"


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
    cause: str | None = None
    """Why deliveries were buried, word for word."""
    result: Result | None = None


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
    follows: str | None = None
    """The instance of the same study that it follows there."""


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


@dataclass(frozen=True, slots=True)
class Looked:
    """The ids that one look found, the latest first. `go_on`: what is less than it was not looked at; None: nothing is
    left."""

    ids: tuple[str, ...]
    go_on: str | None


@dataclass(frozen=True, slots=True)
class FoundPage:
    """Instances that one look found, the latest first; it may be none although there are more: see `go_on`."""

    found: tuple[Found, ...]
    go_on: str | None
    """The next page's `before`; None: there is no next page."""


def find_page(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str = FIRST_PAGE, limit: int = 100
) -> FoundPage:
    """Instances whose id is less than `before`, the latest first. It looks at a bounded number of rows."""
    looked = look(connection, wanted, key, before=before, limit=limit)
    return FoundPage(_shown(connection, looked.ids), looked.go_on)


def find(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str = FIRST_PAGE, limit: int = 100
) -> list[Found]:
    """A whole page: looks until it is full, or until nothing is left."""
    return list(_shown(connection, page_of_ids(connection, wanted, key, before=before, limit=limit)))


def page_of_ids(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str = FIRST_PAGE, limit: int
) -> list[str]:
    """The ids of a whole page."""
    ids: list[str] = []
    go_on: str | None = before
    while go_on is not None and len(ids) < limit:
        looked = look(connection, wanted, key, before=go_on, limit=limit - len(ids))
        ids, go_on = [*ids, *looked.ids], looked.go_on
    return ids


def look(
    connection: sa.Connection, wanted: Filter, key: Key | None, *, before: str, limit: int, few: int | None = None
) -> Looked:
    """One look, at no more than `few` rows for each filter (default: FEW).

    Of several filters the one with the fewest rows leads. If each has many, the latest `few` of the leading one are
    looked through, however few of them match the others.
    """
    few = FEW if few is None else few
    if not all(
        _storable(text)
        for text in (wanted.text, wanted.rule, wanted.to, wanted.calling_ae, wanted.peer, wanted.cause or "")
    ):
        return Looked((), None)
    low = "" if wanted.since is None else id_at(wanted.since)
    high = before if wanted.until is None else min(before, id_at(wanted.until))
    span = filters.Span(low, high)
    asked = list(_filters(wanted, key))
    bound = None
    if not asked:
        ids = sa.select(instance.c.id).where(*span.holds(instance.c.id)).order_by(instance.c.id.desc()).limit(limit)
    elif len(asked) == 1 and wanted.cause is None:
        ids = asked[0].latest(span, limit)
    else:
        leader, bound = _leader(connection, asked, span, few)
        led = leader.latest(span, few).subquery()
        # A subquery with one value is asked for each row. A join may be begun at its other end, however many rows are
        # there; and that end is where a planner begins that takes each condition for one that few rows meet.
        others = [one.holds() for one in asked if one is not leader]
        if wanted.cause is not None:  # it has no index
            others.append(sa.exists().where(delivery.c.instance_id == instance.c.id, *has_cause(wanted)))
        met: sa.Select[Any] = sa.select(sa.literal_column("1")).where(instance.c.id == led.c[0], *others).correlate(led)
        ids = sa.select(led.c[0]).where(met.scalar_subquery() == 1)
    found = tuple(connection.execute(filters.latest_first(ids, limit)).scalars())
    return Looked(found, found[-1] if len(found) == limit else bound)


def _leader(
    connection: sa.Connection, asked: Sequence[filters.AnyFilter], span: filters.Span, few: int
) -> tuple[filters.AnyFilter, str | None]:
    """The filter with the fewest rows, and the earliest of its latest `few`; None if it has no more than those."""
    best, leader = (few, FIRST_PAGE), asked[0]
    for one in asked:
        ids = one.latest(span, few).subquery()
        count, earliest = connection.execute(sa.select(sa.func.count(), sa.func.min(ids.c[0]))).one()
        if (count, earliest or "") < best:
            best, leader = (count, earliest or ""), one
    return leader, best[1] if best[0] == few else None


def _shown(connection: sa.Connection, ids: Sequence[str]) -> tuple[Found, ...]:
    found: list[Found] = []
    for some in schema.parts(ids):
        query = sa.select(instance).where(instance.c.id.in_(some)).order_by(instance.c.id.desc())
        rows = connection.execute(query).all()
        deliveries = _deliveries(connection, some)
        found += [_found(row, deliveries[row.id]) for row in rows]
    return tuple(found)


def kept(connection: sa.Connection, wanted: Filter, key: Key | None) -> Filter:
    """The same filter without its text, which may be of a patient or a study: what it names here, and keyed hashes."""
    if not wanted.text:
        return wanted
    names = _names(wanted.text, key)
    if not _storable(wanted.text):
        return replace(wanted, text="", names=Names())
    known = [
        connection.execute(sa.select(instance.c.id).where(condition).limit(1)).first() is not None
        for condition in (filters.BeginsWith(names.begins).holds(), instance.c.sop_instance == names.sop_instance)
    ]
    names = replace(names, begins=names.begins * known[0], sop_instance=names.sop_instance * known[1])
    return replace(wanted, text="", names=names)


def _storable(text: str) -> bool:
    """Whether a database could hold this text at all: PostgreSQL takes no NUL, and no database half a character."""
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text


def id_at(seconds: float) -> str:
    """The beginning of the first id that could be given at a Unix time."""
    return f"{max(0, int(seconds * 1e9)):016x}"


def _filters(wanted: Filter, key: Key | None) -> Iterator[filters.AnyFilter]:
    names = _names(wanted.text, key) if wanted.text else wanted.names
    if names is not None:
        yield filters.AnyOf(tuple(_named(names)))
    for column, value in (
        (instance.c["class"], wanted.class_name), (instance.c.rule, wanted.rule),
        (instance.c.calling_ae, wanted.calling_ae), (instance.c.peer, wanted.peer),
    ):  # fmt: skip
        if value:
            yield filters.InColumn(column, value)
    yield from _of_result(wanted)
    match wanted.state:
        case None if wanted.cause is not None:
            yield filters.HasDelivery(wanted.to, DeliveryState.BURIED)
        case None:
            if wanted.to and wanted.result is None:
                yield filters.HasDelivery(wanted.to, "")
        case State.WAITING if not wanted.to:
            yield filters.AnyOf((filters.InState(InstanceState.NEW), filters.HasDelivery("", DeliveryState.OPEN)))
        case State.DONE if not wanted.to:
            yield filters.AnyOf(tuple(filters.InState(end) for end in (InstanceState.FINISHED, InstanceState.GONE)))
        case State.WAITING:
            yield filters.HasDelivery(wanted.to, DeliveryState.OPEN)
        case State.OWED:
            yield filters.AnyOf(
                tuple(filters.HasDelivery(wanted.to, one) for one in (DeliveryState.OPEN, DeliveryState.BURIED))
            )
        case state:
            yield filters.HasDelivery(wanted.to, str(state))


def _of_result(wanted: Filter) -> Iterator[filters.AnyFilter]:
    if wanted.result is Result.CAME:
        yield filters.HasResult(wanted.to)
    elif wanted.result is not None:
        yield filters.LacksResult(wanted.to, wanted.result is Result.MISSING)


def has_cause(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """What holds of a delivery that was buried for the cause of the filter."""
    said = [delivery.c.state == DeliveryState.BURIED, sa.func.coalesce(delivery.c.reason, "") == wanted.cause]
    return [*said, delivery.c.destination == wanted.to] if wanted.to else said


def _names(text: str, key: Key | None) -> Names:
    """All that a text may be."""
    digits, text = text.strip().casefold(), text.strip()
    is_id = LEAST_ID <= len(digits) <= 32 and not set(digits) - set("0123456789abcdef")
    study, accession = (key.study(text), key.accession(text)) if key is not None else ("", "")
    return Names(digits if is_id else "", text, study, accession)


def _named(names: Names) -> Iterator[filters.AnyFilter]:
    if names.begins:
        yield filters.BeginsWith(names.begins)
    for column, value in (
        (instance.c.sop_instance, names.sop_instance), (instance.c.study, names.study),
        (instance.c.accession, names.accession),
    ):  # fmt: skip
        if value:
            yield filters.ByName(column, value)


def _deliveries(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[FoundDelivery]]:
    found: dict[str, list[FoundDelivery]] = defaultdict(list)
    query = sa.select(delivery).where(delivery.c.instance_id.in_(ids)).order_by(delivery.c.id)
    for row in connection.execute(query) if ids else ():
        if len(found[row.instance_id]) < MOST_DELIVERIES:
            found[row.instance_id].append(
                FoundDelivery(
                    row.id, row.destination, row.state, row.tries, row.closed_at, row.reason or "", row.follows
                )
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
