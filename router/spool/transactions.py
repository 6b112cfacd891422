"""How rows change: each function is one job of the writer, given its connection. The only place with updating SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from router.flow import Decision, Instance, Seen
from router.spool import clock, commitment_rows, schema, statements
from router.spool.rows import values_of, values_of_decision

Connection = sa.Connection
instance, delivery, destination, event, owner = (
    schema.instance, schema.delivery, schema.destination, schema.event, schema.owner,
)  # fmt: skip


CIRCLING_COPIES, CIRCLING_WITHIN = 100, 86400.0
"""So many earlier copies of a data set from one caller within so many seconds are a loop. Four times as many of one UID
are looked at, so that loops through a few callers do not hide each other."""
CIRCLING = f"the same data set has come from the same caller {CIRCLING_COPIES} times within a day: a loop"
TAKEN_IN_AGAIN, SET_ASIDE = "taken in again", "set aside"
"""Events of blobs that had no row when the node started."""
DELIVERIES_LOST = "deliveries lost, decided again"
FULL = "the destination's own limit of open deliveries was reached"

LEASE = 60.0
"""Seconds that a claim holds on PostgreSQL without being renewed."""


def new_start(connection: Connection, *, alone: bool) -> int:
    """Number a start of a node; one that is alone frees what earlier starts held."""
    now = clock.now(connection)
    if alone:
        for table, state in ((instance, schema.NEW), (delivery, schema.OPEN)):
            held = (table.c.state == state) & (table.c.ready_at > now) & (table.c.token != 0)
            connection.execute(table.update().where(held).values(ready_at=0, token=0))
        commitment_rows.free_held(connection)
    return int(connection.execute(owner.insert().values(at=now).returning(owner.c.start)).scalar_one())


def add_event(
    connection: Connection, kind: str, instance_id: str | None = None, to: str | None = None, **detail: Any
) -> None:
    connection.execute(
        event.insert().values(
            at=clock.now(connection), kind=kind, instance_id=instance_id, destination=to,
            detail=json.dumps(detail) if detail else "",
        )
    )  # fmt: skip


def accept(connection: Connection, new: Instance, first: str | None, equal: str | None) -> str | None:
    """A row for a new instance, or a note that equal bytes came again where `equal` still has open work.

    `first` is the latest instance with the same UID. Returns the id of the one it was merged into, if any.
    """
    if equal is not None and _has_open_work(connection, equal):
        add_event(connection, "same UID again", equal, merged=True, peer=new.caller.peer)
        return equal
    connection.execute(statements.INSERT_INSTANCE, values_of(new) | {"state": schema.NEW})
    if first is not None:
        add_event(connection, "same UID again", new.id, first=first, merged=False)
    return None


def take_in_again(connection: Connection, found: Sequence[Instance]) -> None:
    """Rows for blobs that had none; each is decided anew. What an older database still owes them stays owed."""
    for one in found:
        connection.execute(statements.INSERT_INSTANCE, values_of(one) | {"state": schema.NEW})
        add_event(connection, TAKEN_IN_AGAIN, one.id, caller_known=bool(one.caller.peer))


def redecide_lost(connection: Connection) -> int:
    """Decide anew what has fewer deliveries than its decision named: rows that a damaged database no longer had.

    Returns how many. On PostgreSQL rows are the server's to keep.
    """
    if connection.dialect.name != "sqlite":
        return 0
    there = sa.select(sa.func.count()).where(delivery.c.instance_id == instance.c.id).scalar_subquery()
    named = sa.case((sa.func.json_valid(instance.c.destinations) == 1,
                     sa.func.json_array_length(instance.c.destinations)), else_=0)  # fmt: skip
    lost = instance.c.state.in_((schema.DECIDED, schema.FINISHED)) & (named > there)
    found = instance.update().where(lost).values(state=schema.NEW, ready_at=0, token=0, tries=0, finished_at=None)
    ids = list(connection.execute(found.returning(instance.c.id)).scalars())
    for one in ids:
        add_event(connection, DELIVERIES_LOST, one)
    return len(ids)


def _has_open_work(connection: Connection, instance_id: str) -> bool:
    """Whether it waits for its decision or has an open delivery. What is only buried does not move by itself."""
    is_new = sa.exists().where(instance.c.id == instance_id, instance.c.state == schema.NEW)
    is_owed = sa.exists().where(delivery.c.instance_id == instance_id, delivery.c.state == schema.OPEN)
    return bool(connection.execute(sa.select(is_new | is_owed)).scalar_one())


def claim_end(connection: Connection) -> float:
    """Until when a claim made now holds: on PostgreSQL it is a lease, to be renewed."""
    return schema.FOR_GOOD if connection.dialect.name == "sqlite" else clock.now(connection) + LEASE


def renew(connection: Connection, table: sa.Table, ids: list[Any], tokens: list[int]) -> None:
    """Claims that are still held go on being held."""
    held = table.c.id.in_(ids) & table.c.token.in_(tokens)
    connection.execute(table.update().where(held).values(ready_at=claim_end(connection)))


def give_back(connection: Connection, table: sa.Table, ids: list[Any], tokens: list[int]) -> None:
    """Claims that are still held are free again."""
    held = table.c.id.in_(ids) & table.c.token.in_(tokens)
    connection.execute(table.update().where(held).values(ready_at=0, token=0))


def claim_instances(connection: Connection, limit: int, token: int) -> list[Any]:
    claim = {"now": clock.now(connection), "most": limit, "by": token, "until": claim_end(connection)}
    return sorted(connection.execute(statements.CLAIM_INSTANCES, claim), key=lambda row: str(row.id))


def release_instance(connection: Connection, instance_id: str, token: int, after: float, *, forget_try: bool) -> None:
    connection.execute(
        instance.update()
        .where(instance.c.id == instance_id, instance.c.token == token, instance.c.state == schema.NEW)
        .values(token=0, ready_at=_in(connection, after), tries=instance.c.tries - int(forget_try))
    )


def _in(connection: Connection, seconds: float) -> float:
    """`ready_at` of work that may be claimed after so many seconds."""
    return clock.now(connection) + seconds if seconds else 0.0


def record(
    connection: Connection,
    decided: Instance,
    token: int,
    seen: Seen,
    decision: Decision,
    limits: Mapping[str, int | None],
) -> tuple[bool, dict[str, str]]:
    """A decision and the deliveries that it creates. (False, {}) when the claim is no longer ours.

    The second value names the destinations whose delivery is buried at once, each with the reason.
    """
    now = clock.now(connection)
    _hold(connection, lambda: instance.c.id == decided.id)
    already = _owed_already(connection, decided.id)
    owed = [name for name in decision.destinations if name not in already]
    finished = not owed and not already
    values = values_of_decision(seen, decision) | {
        "which": decided.id, "held": token, "state": schema.FINISHED if finished else schema.DECIDED, "token": 0,
        "ready_at": 0, "decided_at": now, "finished_at": now if finished else None,
    }  # fmt: skip
    changed = connection.execute(statements.DECIDE, values).rowcount
    if not changed:
        return False, {}
    buried = {}
    still = _still_times(connection, now)
    circling = _is_circling(connection, decided)
    for name in owed:
        full = _is_full(connection, name, limits.get(name))
        reason = CIRCLING if circling else FULL if full else ""
        row = {
            "instance_id": decided.id, "destination": name, "state": schema.BURIED if reason else schema.OPEN,
            "owed_since": now, "stood_still": still.get(name, 0.0), "reason": reason,
            "closed_at": now if reason else None,
        }  # fmt: skip
        connection.execute(statements.INSERT_DELIVERY, row)
        if reason:
            buried[name] = reason
            add_event(connection, "buried", decided.id, name, reason=reason)
    return True, buried


def _is_circling(connection: Connection, decided: Instance) -> bool:
    """Whether the same data set has come from the same caller over and over: somebody sends it back to us.

    What a person orders (`retry_now`) is sent all the same.
    """
    asked = {"uid": decided.sop_instance, "which": decided.id, "most": 4 * CIRCLING_COPIES}
    since = decided.received_at - CIRCLING_WITHIN
    caller = (decided.digest, decided.caller.calling_ae, decided.caller.peer)
    return len([
        row for row in connection.execute(statements.COPIES_BEFORE, asked)
        if (row.digest, row.calling_ae, row.peer) == caller and row.received_at > since
    ]) >= CIRCLING_COPIES  # fmt: skip


def _hold(connection: Connection, which: Callable[[], sa.ColumnElement[bool]]) -> None:
    """Whoever looks whether an instance is finished must look alone (PostgreSQL; SQLite has one writer).

    `which` is built only where it is needed: building costs more than running.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(instance.c.id).where(which()).order_by(instance.c.id).with_for_update())


def _instances_of(deliveries: Sequence[int]) -> sa.ColumnElement[bool]:
    return instance.c.id.in_(sa.select(delivery.c.instance_id).where(delivery.c.id.in_(deliveries)))


def _owed_already(connection: Connection, instance_id: str) -> set[str]:
    """A new decision by a person must not owe twice what an older one still owes."""
    return set(connection.execute(statements.OWED_ALREADY, {"which": instance_id}).scalars())


def _is_full(connection: Connection, name: str, limit: int | None) -> bool:
    if limit is None:
        return False
    return bool(connection.execute(statements.OPEN_UP_TO, {"to": name, "most": limit}).scalar_one() >= limit)


def _still_times(connection: Connection, now: float) -> dict[str, float]:
    rows = connection.execute(statements.STILL_TIMES)
    return {row.name: row.stood_still + (now - row.still_since if row.still_since else 0.0) for row in rows}


def claim_deliveries(
    connection: Connection, to: str, limit: int, token: int, *, newest_untried: bool = False
) -> list[Any]:
    """Rows of delivery and instance together, with `owed_since` moved on by the time that nothing was tried."""
    now = clock.now(connection)
    statement = statements.CLAIM_UNTRIED if newest_untried else statements.CLAIM_DELIVERIES
    claim = {"to": to, "now": now, "most": limit, "by": token, "until": claim_end(connection)}
    ids = sorted(connection.execute(statement, claim).scalars())
    if not ids:
        return []
    still = _still_times(connection, now).get(to, 0.0)
    return list(connection.execute(statements.CLAIMED_DELIVERIES, {"ids": ids, "still": still}))


def close_delivery(
    connection: Connection, delivery_id: int, token: int, state: str, reason: str, status: int | None
) -> bool:
    """Done, buried or skipped; and the instance is finished with its last open or buried delivery."""
    _hold(connection, lambda: _instances_of([delivery_id]))
    now = clock.now(connection)
    end = {"which": delivery_id, "held": token, "end": state, "now": now, "why": reason, "answer": status}
    row = connection.execute(statements.CLOSE_DELIVERY, end).one_or_none()
    if row is None:
        return False
    if state == schema.BURIED:
        add_event(connection, "buried", row.instance_id, row.destination, reason=reason)
    else:
        finish_if_last(connection, row.instance_id, now)
    return True


def finish_if_last(connection: Connection, instance_id: str, now: float) -> None:
    connection.execute(statements.FINISH_IF_LAST, {"which": instance_id, "now": now})


def retry_delivery(
    connection: Connection, delivery_id: int, token: int, after: float, reason: str, status: int | None, *,
    tried: bool, buriable: bool,
) -> bool:  # fmt: skip
    """Owed again after so many seconds. `tried` and `buriable` say which counters grow; untried, its reason stays."""
    values = {
        "token": 0, "ready_at": _in(connection, after), "tries": delivery.c.tries + int(tried),
        "buriable_tries": delivery.c.buriable_tries + int(buriable),
    } | ({"reason": reason, "status": status} if tried else {})  # fmt: skip
    ours = (delivery.c.id == delivery_id) & (delivery.c.token == token) & (delivery.c.state == schema.OPEN)
    return bool(connection.execute(delivery.update().where(ours).values(values)).rowcount)


def set_destination(connection: Connection, name: str, **changes: Any) -> None:
    """Change pause or circuit, and keep account of the time during which nothing is tried."""
    now = clock.now(connection)
    row = connection.execute(sa.select(destination).where(destination.c.name == name).with_for_update()).one_or_none()
    if row is None:
        connection.execute(destination.insert().values(name=name))
        row = connection.execute(sa.select(destination).where(destination.c.name == name)).one()
    still = bool(changes.get("paused", row.paused)) or float(changes.get("circuit_until", row.circuit_until)) > 0
    if still and not row.still_since:
        changes["still_since"] = now
    elif not still and row.still_since:
        changes |= {"still_since": 0.0, "stood_still": row.stood_still + now - row.still_since}
    connection.execute(destination.update().where(destination.c.name == name).values(**changes))


def order_try(connection: Connection, names: Sequence[str]) -> None:
    """Whoever orders something of these destinations wants it tried now: an open circuit is probed at once."""
    is_open = destination.c.name.in_(names) & (destination.c.circuit_until > 0)
    at_once = {"circuit_until": clock.now(connection), "circuit_failures": 0}
    connection.execute(destination.update().where(is_open).values(at_once))


def clock_was_set(connection: Connection, seconds: float) -> None:
    """The clock was put forward by so many seconds, or back: what waits goes on waiting for as long as it would have.

    Forward: the time does not count towards giving up. Back: nothing is due later for it.
    """
    commitment_rows.clock_was_set(connection, seconds)
    now = clock.now(connection)
    if seconds > 0:
        old = (delivery.c.state == schema.OPEN) & (delivery.c.owed_since <= now - seconds)
        connection.execute(delivery.update().where(old).values(owed_since=delivery.c.owed_since + seconds))
        return
    for table, state in ((instance, schema.NEW), (delivery, schema.OPEN)):
        waits = (table.c.state == state) & (table.c.ready_at > now) & (table.c.token == 0)
        connection.execute(table.update().where(waits).values(ready_at=table.c.ready_at + seconds))


def _free(deliveries: Sequence[int], now: float) -> sa.ColumnElement[bool]:
    """Those that are not closed and that nobody holds (any more)."""
    is_free = (delivery.c.token == 0) | (delivery.c.ready_at <= now)
    return delivery.c.id.in_(deliveries) & delivery.c.state.in_((schema.BURIED, schema.OPEN)) & is_free


def retry_now(connection: Connection, deliveries: Sequence[int], who: str) -> list[str]:
    """Buried or waiting deliveries are owed at once, with their counters at zero, and their destinations tried.

    Returns the destinations.
    """
    now = clock.now(connection)
    still = _still_times(connection, now)
    rows = connection.execute(
        delivery.update()
        .where(_free(deliveries, now))
        .values(state=schema.OPEN, token=0, ready_at=0, tries=0, buriable_tries=0, closed_at=None, owed_since=now)
        .returning(delivery.c.id, delivery.c.instance_id, delivery.c.destination)
    ).all()
    for row in rows:
        connection.execute(
            delivery.update().where(delivery.c.id == row.id).values(stood_still=still.get(row.destination, 0.0))
        )
        add_event(connection, "retried by a person", row.instance_id, row.destination, who=who)
    # Also for those that somebody holds: the try that is under way began before the order.
    is_owed = delivery.c.id.in_(deliveries) & (delivery.c.state == schema.OPEN)
    concerned = sa.select(delivery.c.destination).where(is_owed).distinct()
    order_try(connection, connection.execute(concerned).scalars().all())
    return [row.destination for row in rows]


def discard(connection: Connection, deliveries: Sequence[int], who: str) -> int:
    """A person drops deliveries that nobody holds; returns how many."""
    _hold(connection, lambda: _instances_of(deliveries))
    now = clock.now(connection)
    rows = connection.execute(
        delivery.update()
        .where(_free(deliveries, now))
        .values(state=schema.DISCARDED, token=0, closed_at=now, reason="discarded by a person")
        .returning(delivery.c.instance_id, delivery.c.destination)
    ).all()
    for row in rows:
        finish_if_last(connection, row.instance_id, now)
        add_event(connection, "discarded by a person", row.instance_id, row.destination, who=who)
    return len(rows)


def redecide(connection: Connection, instance_id: str, who: str) -> bool:
    """A person orders a new decision for an instance whose blob is still there."""
    changed = connection.execute(
        instance.update()
        .where(instance.c.id == instance_id, instance.c.state.in_((schema.DECIDED, schema.FINISHED)))
        .values(state=schema.NEW, ready_at=0, token=0, tries=0, finished_at=None)
    ).rowcount
    if changed:
        add_event(connection, "new decision ordered", instance_id, who=who)
    return bool(changed)


def blobs_gone(connection: Connection, before: float, limit: int) -> list[Any]:
    """Finished instances whose time is over: their blobs may be removed after this commit."""
    due = (
        sa.select(instance.c.id)
        .where(instance.c.state == schema.FINISHED, instance.c.finished_at < before)
        .order_by(instance.c.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    gone = instance.update().where(instance.c.id.in_(sa.select(due.c.id))).values(state=schema.GONE)
    return list(connection.execute(gone.returning(instance.c.id, instance.c.size)))


def forget_records(connection: Connection, before: float, limit: int) -> int:
    """Remove rows of instances whose blob is gone and whose records have been kept long enough."""
    due = sa.select(instance.c.id).where(instance.c.state == schema.GONE, instance.c.finished_at < before).limit(limit)
    ids = list(connection.execute(due).scalars())
    connection.execute(delivery.delete().where(delivery.c.instance_id.in_(ids)))
    connection.execute(instance.delete().where(instance.c.id.in_(ids)))
    old = sa.select(event.c.id).where(event.c.at < before).limit(limit)
    events = connection.execute(event.delete().where(event.c.id.in_(old))).rowcount
    return len(ids) + events + commitment_rows.forget(connection, before, limit)
