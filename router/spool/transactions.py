"""How rows change: each function is one job of the writer, given its connection. The only place with updating SQL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from router.flow import Decision, Instance, Seen
from router.spool import clock, commitment_rows, schema, statements, steady
from router.spool.keyed import Key
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

CALLERS_AT_ONCE = 64
"""The most callers with new work that one claim looks at; the next claim looks at those after them."""
FIRST_CALLER = ("", "")
"""Sorts before every caller: a peer is never empty."""
Calling = tuple[str, str]
"""A caller: calling AE title and peer."""

LEASE = 60.0
"""Seconds that a claim holds on PostgreSQL without being renewed."""


def new_start(connection: Connection, *, alone: bool) -> int:
    """Number a start of a node; one that is alone frees what earlier starts held."""
    now = steady.look(connection).now
    if alone:
        for table, state in ((instance, schema.NEW), (delivery, schema.OPEN)):
            held = (table.c.state == state) & (table.c.ready_at > now) & (table.c.token != 0)
            connection.execute(table.update().where(held).values(ready_at=now if table is instance else 0, token=0))
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
    """Rows for blobs that had none; each is decided anew. Deliveries in an older database stay owed."""
    for one in found:
        connection.execute(statements.INSERT_INSTANCE, values_of(one) | {"state": schema.NEW})
        add_event(connection, TAKEN_IN_AGAIN, one.id, caller_known=bool(one.caller.peer))


def redecide_lost(connection: Connection) -> int:
    """Decide anew each instance with fewer deliveries than its decision named: a damaged database lost them.

    Returns how many. Not for PostgreSQL, where the server takes care of its rows.
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
    due = clock.now(connection) if table is instance else 0
    connection.execute(table.update().where(held).values(ready_at=due, token=0))


def claim_instances(
    connection: Connection, limit: int, token: int, taken: Mapping[Calling, int], most: int, after: Calling
) -> tuple[list[Any], Calling]:
    """Claim instances to classify: first those asked about before, then new work, evenly among callers.

    `taken` is how many each caller has under way already, of at most `most`. The search for new work begins after the
    caller `after`; the second value is the caller to pass next time, since only CALLERS_AT_ONCE are looked at.
    """
    claim = {"now": steady.look(connection).now, "by": token, "until": claim_end(connection)}
    rows = list(connection.execute(statements.CLAIM_AGAIN, claim | {"most": limit}))
    callers, after = _callers(connection, after) if len(rows) < limit else ([], after)
    busy = Counter(taken)
    of_peer = Counter[str]()
    for (_, peer), count in busy.items():
        of_peer[peer] += count
    # The caller with the least under way comes first; a peer with many AE titles is still one peer.
    callers.sort(key=lambda caller: (of_peer[caller[1]], busy[caller]))
    while callers and len(rows) < limit:
        caller = callers.pop(0)
        share = min(-(-(limit - len(rows)) // (len(callers) + 1)), most - busy[caller])
        if share <= 0:
            continue
        whose = {"from_ae": caller[0], "from_peer": caller[1], "most": share}
        found = connection.execute(statements.CLAIM_FRESH, claim | whose).all()
        busy[caller] += len(found)
        rows += found
        if len(found) == share:  # it may have more, and gets what others leave
            callers.append(caller)
    return sorted(rows, key=lambda row: str(row.id)), after


def _callers(connection: Connection, after: Calling) -> tuple[list[Calling], Calling]:
    """Callers with new work, by calling AE title and peer: those after one of them, then from the first again."""
    statement = statements.CALLERS[connection.dialect.name]
    found: dict[Calling, None] = {}
    for calling_ae, peer in (after, FIRST_CALLER):
        behind = {"ae": calling_ae, "peer": peer, "most": CALLERS_AT_ONCE}
        if (calling_ae, peer) == FIRST_CALLER:
            found[FIRST_CALLER] = None  # the caller of a blob that was taken in again may be unknown
        found |= {(row.calling_ae, row.peer): None for row in connection.execute(statement, behind)}
        if len(found) >= CALLERS_AT_ONCE or (calling_ae, peer) == FIRST_CALLER:
            break
    chosen = list(found)[:CALLERS_AT_ONCE]
    return chosen, chosen[-1] if len(chosen) == CALLERS_AT_ONCE else FIRST_CALLER


def release_instance(connection: Connection, instance_id: str, token: int, after: float, *, forget_try: bool) -> None:
    connection.execute(
        instance.update()
        .where(instance.c.id == instance_id, instance.c.token == token, instance.c.state == schema.NEW)
        .values(token=0, ready_at=_again(connection, after, forget_try), tries=instance.c.tries - int(forget_try))
    )


def _again(connection: Connection, after: float, forget_try: bool) -> Any:
    """`ready_at` of an instance that is given back; that of new work only if it is new work again."""
    due = clock.now(connection) + after
    return sa.case((instance.c.tries <= 1, 0.0), else_=due) if forget_try and not after else due


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
    key: Key | None = None,
) -> tuple[bool, dict[str, str]]:
    """A decision and the deliveries that it creates. (False, {}) when the claim is no longer ours.

    The second value names the destinations whose delivery is buried at once, each with the reason.
    """
    moment = steady.look(connection)
    now = moment.now
    _hold(connection, lambda: instance.c.id == decided.id)
    already = _owed_already(connection, decided.id)
    owed = [name for name in decision.destinations if name not in already]
    finished = not owed and not already
    values = values_of_decision(seen, decision, key) | {
        "which": decided.id, "held": token, "state": schema.FINISHED if finished else schema.DECIDED, "token": 0,
        "ready_at": 0, "decided_at": now, "finished_at": now if finished else None,
    }  # fmt: skip
    changed = connection.execute(statements.DECIDE, values).rowcount
    if not changed:
        return False, {}
    buried = {}
    still = _still_times(connection, moment)
    circling = _is_circling(connection, decided)
    for name in owed:
        full = _is_full(connection, name, limits.get(name))
        reason = CIRCLING if circling else FULL if full else ""
        row = {
            "instance_id": decided.id, "destination": name, "state": schema.BURIED if reason else schema.OPEN,
            "owed_since": now, "stood_still": still(name), "reason": reason,
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


def _still_times(connection: Connection, moment: steady.Moment) -> Callable[[str], float]:
    """By destination: the seconds that do not count towards giving up on its deliveries."""
    stood = {
        row.name: row.stood_still + (moment.now - row.still_since if row.still_since else 0.0)
        for row in connection.execute(statements.STILL_TIMES)
    }
    return lambda name: moment.skipped + stood.get(name, 0.0)


def claim_deliveries(
    connection: Connection, to: str, limit: int, token: int, *, newest_untried: bool = False
) -> list[Any]:
    """Rows of delivery and instance together, with `owed_for`: the seconds in which it could have been tried."""
    moment = steady.look(connection)
    statement = statements.CLAIM_UNTRIED if newest_untried else statements.CLAIM_DELIVERIES
    claim = {"to": to, "now": moment.now, "most": limit, "by": token, "until": claim_end(connection)}
    ids = sorted(connection.execute(statement, claim).scalars())
    if not ids:
        return []
    counts_from = moment.now - _still_times(connection, moment)(to)
    return list(connection.execute(statements.CLAIMED_DELIVERIES, {"ids": ids, "counts_from": counts_from}))


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
    now = steady.look(connection).now
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


def set_circuit(connection: Connection, name: str, seconds: float | None, failures: int, reason: str) -> None:
    """Open a destination's circuit for `seconds`; None closes it."""
    until = 0.0 if seconds is None else steady.look(connection).now + seconds
    set_destination(connection, name, circuit_until=until, circuit_failures=failures, circuit_reason=reason)


def order_try(connection: Connection, names: Sequence[str]) -> None:
    """Whoever orders something of these destinations wants it tried now: an open circuit is probed at once."""
    is_open = destination.c.name.in_(names) & (destination.c.circuit_until > 0)
    at_once = {"circuit_until": clock.now(connection), "circuit_failures": 0}
    connection.execute(destination.update().where(is_open).values(at_once))


def _free(deliveries: Sequence[int], now: float) -> sa.ColumnElement[bool]:
    """Those that are not closed and that nobody holds (any more)."""
    is_free = (delivery.c.token == 0) | (delivery.c.ready_at <= now)
    return delivery.c.id.in_(deliveries) & delivery.c.state.in_((schema.BURIED, schema.OPEN)) & is_free


def retry_now(connection: Connection, deliveries: Sequence[int], who: str) -> list[str]:
    """Buried or waiting deliveries are owed at once, with their counters at zero, and their destinations tried.

    Returns the destinations.
    """
    moment = steady.look(connection)
    now = moment.now
    still = _still_times(connection, moment)
    rows = connection.execute(
        delivery.update()
        .where(_free(deliveries, now))
        .values(state=schema.OPEN, token=0, ready_at=0, tries=0, buriable_tries=0, closed_at=None, owed_since=now)
        .returning(delivery.c.id, delivery.c.instance_id, delivery.c.destination)
    ).all()
    for row in rows:
        connection.execute(delivery.update().where(delivery.c.id == row.id).values(stood_still=still(row.destination)))
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
    connection.execute(schema.jump.delete().where(schema.jump.c.at < before))
    return len(ids) + events + commitment_rows.forget(connection, before, limit)
