"""What can be asked of the spool; nothing here changes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from router.spool import clock, schema, statements
from router.spool.rows import Counts, DestinationState, Finished

instance, delivery, destination, event = schema.instance, schema.delivery, schema.destination, schema.event
Connection = sa.Connection


def next_due(connection: Connection, to: str) -> float | None:
    """Seconds until the next open delivery to a destination may be claimed; None: there is none, or all are held."""
    return _seconds_until(connection, connection.execute(statements.NEXT_DUE, {"to": to}).scalar())


def next_instance_due(connection: Connection) -> float | None:
    return _seconds_until(connection, connection.execute(statements.NEXT_INSTANCE_DUE).scalar())


def _seconds_until(connection: Connection, at: float | None) -> float | None:
    """By the database's clock, which may differ from this machine's."""
    return None if at is None else float(at) - clock.now(connection)


def same_uid(connection: Connection, sop_instance: str) -> list[Any]:
    """The latest instances with this UID, newest first (few: a UID is meant to be unique)."""
    return list(connection.execute(statements.SAME_UID, {"uid": sop_instance}))


def known_digests(connection: Connection, to: str, sop_instance: str) -> frozenset[str]:
    """Digests of what was delivered to a destination under a UID."""
    query = sa.select(instance.c.digest).where(
        instance.c.sop_instance == sop_instance,
        delivery.c.instance_id == instance.c.id,
        delivery.c.destination == to,
        delivery.c.state == schema.DONE,
    )
    return frozenset(connection.execute(query).scalars())


def destination_state(connection: Connection, name: str) -> DestinationState:
    row = connection.execute(statements.DESTINATION, {"called": name}).one_or_none()
    return DestinationState() if row is None else _state(connection, row)


def destination_states(connection: Connection) -> dict[str, DestinationState]:
    """Of every destination that has ever been paused or had an open circuit."""
    return {row.name: _state(connection, row) for row in connection.execute(sa.select(destination)).all()}


def _state(connection: Connection, row: Any) -> DestinationState:
    left = _seconds_until(connection, row.circuit_until) if row.circuit_until > 0 else None
    return DestinationState(bool(row.paused), row.circuit_until, row.circuit_failures, row.circuit_reason, left)


def finished(connection: Connection) -> Finished:
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.func.sum(instance.c.size), 0), sa.func.min(instance.c.finished_at)
    ).where(instance.c.state == schema.FINISHED)
    n, size, oldest = connection.execute(query).one()
    return Finished(n, int(size), oldest or 0.0)


def counts(connection: Connection) -> Counts:
    undecided = connection.execute(
        sa.select(sa.func.count()).select_from(instance).where(instance.c.state == schema.NEW)
    ).scalar_one()
    rows = connection.execute(
        sa.select(
            delivery.c.destination, delivery.c.state, sa.func.count().label("n"),
            sa.func.min(delivery.c.owed_since).label("oldest"),
        )
        .where(delivery.c.state.in_((schema.OPEN, schema.BURIED)))
        .group_by(delivery.c.destination, delivery.c.state)
    ).all()  # fmt: skip
    return Counts(
        undecided=undecided,
        open={row.destination: row.n for row in rows if row.state == schema.OPEN},
        buried={row.destination: row.n for row in rows if row.state == schema.BURIED},
        oldest={row.destination: row.oldest for row in rows if row.state == schema.OPEN},
    )


def bytes_kept(connection: Connection) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(instance.c.size), 0)).where(
        instance.c.state.in_((schema.NEW, schema.DECIDED, schema.FINISHED))
    )
    return int(connection.execute(query).scalar_one())


def states(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """The state of each of the ids that has a row."""
    query = sa.select(instance.c.id, instance.c.state).where(instance.c.id.in_(ids))
    return {row.id: row.state for row in connection.execute(query)}


def finished_ids(connection: Connection, limit: int) -> list[str]:
    """Ids of instances that are delivered and whose blob is still kept, the oldest first."""
    query = sa.select(instance.c.id).where(instance.c.state == schema.FINISHED)
    return list(connection.execute(query.order_by(instance.c.finished_at).limit(limit)).scalars())


def existing(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of the ids whose blob must be there."""
    query = sa.select(instance.c.id).where(instance.c.id.in_(ids), instance.c.state != schema.GONE)
    return set(connection.execute(query).scalars())


def deliveries(
    connection: Connection,
    *,
    states: Sequence[str] = (schema.OPEN, schema.BURIED),
    to: str | None = None,
    instance_id: str | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[dict[str, Any]]:
    # Of one destination: not in the order of `id`, in which a planner reads what waits for all the others.
    order = delivery.c.id if to is None else delivery.c.id + 0
    page = sa.select(delivery).where(order > after).order_by(order).limit(limit)
    if to is not None:
        page = page.where(delivery.c.destination == to)
    if instance_id is not None:
        rows = list(connection.execute(page.where(delivery.c.instance_id == instance_id)))
    else:  # one state after the other: of several at once, a planner reads every row in the order of `id`
        rows = [row for state in states for row in connection.execute(page.where(delivery.c.state == state))]
    return [dict(row._mapping) for row in sorted(rows, key=lambda row: row.id)[:limit]]


def instances(connection: Connection, *, before: str = "g", limit: int = 100) -> list[dict[str, Any]]:
    """The latest instances first; `before` an id pages on."""
    query = sa.select(instance).where(instance.c.id < before).order_by(instance.c.id.desc()).limit(limit)
    return [_readable(row) for row in connection.execute(query)]


def one_instance(connection: Connection, instance_id: str) -> dict[str, Any] | None:
    row = connection.execute(sa.select(instance).where(instance.c.id == instance_id)).one_or_none()
    return _readable(row) if row else None


def events(
    connection: Connection, *, instance_id: str | None = None, kind: str | None = None, after: int | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:  # fmt: skip
    """Oldest first: those after the event `after`, or without it the latest."""
    order = event.c.id.desc() if after is None else event.c.id
    query = sa.select(event).where(event.c.id > (after or 0)).order_by(order).limit(limit)
    if instance_id is not None:
        query = query.where(event.c.instance_id == instance_id)
    if kind is not None:
        query = query.where(event.c.kind == kind)
    found = []
    for row in sorted(connection.execute(query), key=lambda row: row.id):
        values = dict(row._mapping)
        found.append(values | {"detail": _decoded(values["detail"]) or {}})
    return found


def _readable(row: Any) -> dict[str, Any]:
    values = dict(row._mapping)
    for name in ("probabilities", "facts", "destinations", "shadow"):
        values[name] = _decoded(values[name])
    return values


def _decoded(text: str | None) -> Any:
    """One damaged value must not hide the other rows."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return {"damaged": True}
