"""What people may see of the spool: counts, deliveries, instances and events, a page at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.spool import clock, queries, studies
from router.spool.activity import Activity, activity
from router.spool.database import Database
from router.spool.find import Filter, Found, FoundPage, find, find_page, id_at
from router.spool.keyed import Key
from router.spool.orphans import SET_ASIDE, count_in
from router.spool.rows import Counts, DeliveryRow, EventRow, Finished, InstanceRow
from router.spool.schema import delivery, event, instance
from router.spool.states import DeliveryState, InstanceState
from router.spool.usage import Usage

PAGE = 100
"""The rows of an answer, if the caller asks for no other number."""
AFTER_ALL_IDS = "g"
"""Sorts after every id, because ids are hex digits."""


class Views:
    """Answers as frozen rows. Nothing here changes the spool. Its methods raise SpoolError."""

    def __init__(
        self, settings: SpoolSettings, database: Database, usage: Usage, key: Callable[[], Key | None]
    ) -> None:
        self._settings, self._database, self._usage, self._key = settings, database, usage, key

    def counts(self) -> Counts:
        set_aside = count_in(self._settings.path / SET_ASIDE)
        return replace(self._database.ask(queries.counts), bytes=self._usage.total, set_aside=set_aside)

    @property
    def bytes_in_use(self) -> int:
        """Bytes of blobs and native copies, as the running node counts them. Asks nothing."""
        return self._usage.total

    def finished(self) -> Finished:
        """What `wipe` would take."""
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(instance.c.size), 0), sa.func.min(instance.c.finished_at)
        ).where(instance.c.state == InstanceState.FINISHED)
        n, size, oldest = self._database.ask(lambda c: c.execute(query).one())
        return Finished(n, int(size), oldest or 0.0)

    def bytes_held(self) -> int:
        """The bytes of all blobs with rows."""
        return self._database.ask(queries.bytes_of_blobs)

    def follows_to(self, study: str) -> list[str]:
        """Where the instances of a study (its keyed hash) follow one of them."""
        return self._database.ask(lambda c: studies.follows_to(c, study))

    def deliveries(
        self, *, states: Sequence[str] = (DeliveryState.OPEN, DeliveryState.BURIED), to: str | None = None,
        instance_id: str | None = None, after: int = 0, limit: int = PAGE,
    ) -> list[DeliveryRow]:  # fmt: skip
        """The oldest first, beginning after the number `after`. With an instance, its deliveries in any state."""
        # Of one destination: not in the order of `id`, in which a planner reads what waits for all the others.
        order = delivery.c.id if to is None else delivery.c.id + 0
        page = sa.select(delivery).where(order > after).order_by(order).limit(limit)
        if to is not None:
            page = page.where(delivery.c.destination == to)
        if instance_id is not None:
            pages = [page.where(delivery.c.instance_id == instance_id)]
        else:  # one state after the other: of several at once, a planner reads every row in the order of `id`
            pages = [page.where(delivery.c.state == state) for state in states]
        rows = self._database.ask(lambda c: [row for one in pages for row in c.execute(one)])
        rows.sort(key=lambda row: row.id)
        return [DeliveryRow(**{**row._mapping, "state": DeliveryState(row.state)}) for row in rows[:limit]]

    def instances(self, *, before: str = AFTER_ALL_IDS, limit: int = PAGE) -> list[InstanceRow]:
        """The latest first; `before` an id pages on."""
        query = sa.select(instance).where(instance.c.id < before).order_by(instance.c.id.desc()).limit(limit)
        return self._database.ask(lambda c: [_instance_row(row) for row in c.execute(query)])

    def instance(self, instance_id: str) -> InstanceRow | None:
        query = sa.select(instance).where(instance.c.id == instance_id)
        row = self._database.ask(lambda c: c.execute(query).one_or_none())
        return None if row is None else _instance_row(row)

    def find(self, wanted: Filter, *, before: str = AFTER_ALL_IDS, limit: int = PAGE) -> list[Found]:
        """The latest first; `before` an id pages on. It looks until the page is full or nothing is left."""
        key = self._key()
        return self._database.ask(lambda c: find(c, wanted, key, before=before, limit=limit))

    def find_page(self, wanted: Filter, *, before: str = AFTER_ALL_IDS, limit: int = PAGE) -> FoundPage:
        """The latest first, in a bounded time; the next page's `before` is its `go_on`."""
        key = self._key()
        return self._database.ask(lambda c: find_page(c, wanted, key, before=before, limit=limit))

    def activity(self, seconds: float) -> Activity:
        """What happened in the last seconds."""
        return self._database.ask(lambda c: activity(c, seconds))

    def last_from(self, callers: Sequence[str]) -> dict[str, float]:
        """By calling AE title: the Unix time of its latest instance. Those that have none are left out."""
        query = sa.select(sa.func.max(instance.c.id)).where(instance.c.calling_ae == sa.bindparam("caller"))

        def ask(connection: sa.Connection) -> dict[str, float]:
            latest = {name: connection.execute(query, {"caller": name}).scalar() for name in callers}
            return {name: int(found[:16], 16) / 1e9 for name, found in latest.items() if found}

        return self._database.ask(ask)

    def received_bytes(self, seconds: float) -> int:
        """Bytes of the instances of the last seconds."""

        def ask(connection: sa.Connection) -> int:
            since = instance.c.id >= id_at(clock.now(connection) - seconds)
            return int(connection.execute(sa.select(sa.func.sum(instance.c.size)).where(since)).scalar() or 0)

        return self._database.ask(ask)

    def events(
        self, *, instance_id: str | None = None, kind: str | None = None, after: int | None = None, limit: int = PAGE
    ) -> list[EventRow]:
        """Oldest first: those after the event `after`, or without it the latest."""
        order = event.c.id.desc() if after is None else event.c.id
        query = sa.select(event).where(event.c.id > (after or 0)).order_by(order).limit(limit)
        if instance_id is not None:
            query = query.where(event.c.instance_id == instance_id)
        if kind is not None:
            query = query.where(event.c.kind == kind)
        rows = self._database.ask(lambda c: list(c.execute(query)))
        rows.sort(key=lambda row: row.id)
        return [EventRow(**{**row._mapping, "detail": _decoded(row.detail) or {}}) for row in rows]


def _instance_row(row: sa.Row[Any]) -> InstanceRow:
    values = dict(row._mapping)
    values["class_name"] = values.pop("class")
    values["state"] = InstanceState(values["state"])
    for name in ("probabilities", "facts", "destinations", "shadow", "header"):
        values[name] = _decoded(values[name])
    return InstanceRow(**values)


def _decoded(text: str | None) -> Any:
    """One damaged value must not hide the other rows."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return {"damaged": True}
