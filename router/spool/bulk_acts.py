"""The changes of one batch of a bulk job, and how they are taken back. Each runs in the transaction of the cursor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from router.spool import orders, steady
from router.spool.bulk_choice import Chosen
from router.spool.bulk_rows import Act, Job, bulk_change
from router.spool.destinations import still_times
from router.spool.events import add_event, add_events
from router.spool.finishing import OWED, finish_those_that_end, look_alone
from router.spool.schema import delivery, instance
from router.spool.states import BY_A_PERSON, MOVED, DeliveryState, InstanceState


def act(connection: sa.Connection, job: Job, chosen: Sequence[Chosen]) -> int:
    """Do what the job says; returns how many were changed."""
    if not chosen:
        return 0
    why = _why(job)
    numbers = [one.delivery for one in chosen]
    match job.act:
        case Act.RETRY:
            changed = len(orders.retry_now(connection, numbers, job.who, after_new=True, **why))
            if not job.chosen:  # once, and not for every batch: each order is a probe
                orders.order_try(connection, numbers)
            return changed
        case Act.DISCARD:
            return orders.discard(connection, numbers, job.who, **why)
        case Act.DECIDE_AGAIN:
            return sum(orders.redecide(connection, one.instance, job.who, **why) for one in chosen)
        case Act.RESEND:
            return _resend(connection, job, [one.instance for one in chosen])
        case Act.MOVE:
            return _move(connection, job, numbers)


def _why(job: Job) -> dict[str, Any]:
    return {"job": job.id} | ({"reason": job.reason} if job.reason else {})


def _resend(connection: sa.Connection, job: Job, ids: Sequence[str]) -> int:
    """Owe these instances to a destination once more, where nothing is owed there already and the blob is here."""
    look_alone(connection, lambda: instance.c.id.in_(ids))
    here = _with_blob(connection, ids)
    owed = _having(connection, ids, job.filter.to, OWED)
    again = [one for one in ids if one in here and one not in owed]
    made = _owe(connection, job.filter.to, again)
    _note(connection, job, [(made[one], None, "", "") for one in again])
    of = ((one, job.filter.to) for one in again)
    add_events(connection, "sent again by a person", of, who=job.who, **_why(job))
    return len(again)


def _move(connection: sa.Connection, job: Job, numbers: Sequence[int]) -> int:
    """Close these deliveries, and owe their instances to the other destination, unless it has them or is owed them."""
    look_alone(connection, lambda: instance.c.id.in_(_instances_of(numbers)))
    now = steady.look(connection).now
    columns = delivery.c.id, delivery.c.instance_id, delivery.c.destination, delivery.c.state, delivery.c.reason
    free = connection.execute(sa.select(*columns).where(orders.are_free(numbers, now)).with_for_update()).all()
    if not free:
        return 0
    closed = {
        "state": DeliveryState.DISCARDED, "token": 0, "ready_at": 0, "closed_at": now,
        "reason": f"{MOVED}{job.destination}{BY_A_PERSON}",
    }  # fmt: skip
    connection.execute(delivery.update().where(delivery.c.id.in_([row.id for row in free])).values(closed))
    ids = list(dict.fromkeys(row.instance_id for row in free))
    there = _having(connection, ids, job.destination, (*OWED, DeliveryState.DONE))
    made = _owe(connection, job.destination, [one for one in ids if one not in there])
    _note(connection, job, [(made.get(row.instance_id), row.id, row.state, row.reason or "") for row in free])
    of = ((row.instance_id, row.destination) for row in free)
    add_events(connection, "moved by a person", of, who=job.who, moved_to=job.destination, **_why(job))
    finish_those_that_end(connection, list(there), now)
    return len(free)


def _owe(connection: sa.Connection, to: str, ids: Sequence[str]) -> dict[str, int]:
    """New deliveries of instances that are locked; new work goes before them. Returns their numbers by instance."""
    if not ids:
        return {}
    moment = steady.look(connection)
    still = still_times(connection, moment)(to)
    rows = [
        {"instance_id": one, "destination": to, "state": DeliveryState.OPEN, "ready_at": moment.now,
         "owed_since": moment.now, "stood_still": still, "reason": ""}
        for one in ids
    ]  # fmt: skip
    made = connection.execute(delivery.insert().returning(delivery.c.id, delivery.c.instance_id), rows).all()
    _unfinish(connection, ids)
    return {row.instance_id: row.id for row in made}


def _unfinish(connection: sa.Connection, ids: Iterable[str]) -> None:
    finished = instance.c.id.in_(list(ids)) & (instance.c.state == InstanceState.FINISHED)
    connection.execute(instance.update().where(finished).values(state=InstanceState.DECIDED, finished_at=None))


def _note(connection: sa.Connection, job: Job, changes: Sequence[tuple[int | None, int | None, str, str]]) -> None:
    if changes:
        connection.execute(bulk_change.insert(), [
            {"job_id": job.id, "made_id": made, "closed_id": closed, "state": state, "reason": reason}
            for made, closed, state, reason in changes
        ])  # fmt: skip


def take_back(connection: sa.Connection, job: Job, changes: Sequence[Any]) -> int:
    """Take back rows of `bulk_change` whose new delivery was not tried yet; returns how many."""
    made = [one.made_id for one in changes if one.made_id is not None]
    concerned = made + [one.closed_id for one in changes if one.closed_id is not None]
    look_alone(connection, lambda: instance.c.id.in_(_instances_of(concerned)))
    moment = steady.look(connection)
    untried = (delivery.c.state == DeliveryState.OPEN) & (delivery.c.tries == 0)
    dropped = connection.execute(
        delivery.update()
        .where(orders.are_free(made, moment.now), untried)
        .values(state=DeliveryState.DISCARDED, token=0, closed_at=moment.now, reason="taken back by a person")
        .returning(delivery.c.id, delivery.c.instance_id, delivery.c.destination)
    ).all()
    gone = {row.id for row in dropped}
    back = [one for one in changes if one.closed_id is not None and (one.made_id in gone or one.made_id is None)]
    restored = [one for one in back if _restore(connection, job, one, moment)]
    of = ((row.instance_id, row.destination) for row in dropped)
    add_events(connection, "taken back by a person", of, job=job.id)
    finish_those_that_end(connection, [row.instance_id for row in dropped], moment.now)
    return len(restored) if job.act is Act.MOVE else len(dropped)


def _restore(connection: sa.Connection, job: Job, change: Any, moment: steady.Moment) -> bool:
    """Owe a delivery again that a move had closed. False where its blob has gone meanwhile, or it is owed again."""
    row = connection.execute(
        sa.select(delivery.c.instance_id, delivery.c.destination).where(
            delivery.c.id == change.closed_id, delivery.c.state == DeliveryState.DISCARDED
        )
    ).one_or_none()
    if row is None or not _with_blob(connection, [row.instance_id]):
        return False
    if _having(connection, [row.instance_id], row.destination, OWED):  # by a person or a new decision: not twice
        return False
    is_open = change.state == DeliveryState.OPEN
    values = {
        "state": change.state, "reason": change.reason, "closed_at": None if is_open else moment.now,
        "owed_since": moment.now, "stood_still": still_times(connection, moment)(row.destination),
    }  # fmt: skip
    connection.execute(delivery.update().where(delivery.c.id == change.closed_id).values(values))
    _unfinish(connection, [row.instance_id])
    add_event(connection, "moved back by a person", row.instance_id, row.destination, job=job.id)
    return True


def _instances_of(deliveries: Collection[int]) -> sa.Select[Any]:
    return sa.select(delivery.c.instance_id).where(delivery.c.id.in_(deliveries))


def _with_blob(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    query = sa.select(instance.c.id).where(instance.c.id.in_(ids), instance.c.state != InstanceState.GONE)
    return set(connection.execute(query).scalars())


def _having(connection: sa.Connection, ids: Sequence[str], to: str, states: Sequence[str]) -> set[str]:
    """Those of the instances with a delivery to a destination in one of the states."""
    query = sa.select(delivery.c.instance_id).where(
        delivery.c.instance_id.in_(ids), delivery.c.destination == to, delivery.c.state.in_(states)
    )
    return set(connection.execute(query).scalars())
