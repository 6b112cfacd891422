"""What a bulk job is about: the deliveries, or the instances, that its filter finds, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from router.spool.bulk_rows import Act
from router.spool.errors import SpoolError
from router.spool.find import FEW, Filter, State, has_cause, look
from router.spool.keyed import Key
from router.spool.schema import delivery, instance
from router.spool.states import DeliveryState, InstanceState

OWED_STATES = {
    State.WAITING: (DeliveryState.OPEN,),
    State.BURIED: (DeliveryState.BURIED,),
    State.OWED: (DeliveryState.OPEN, DeliveryState.BURIED),
}


class ChoiceError(SpoolError):
    """The filter does not go with what is ordered."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Chosen:
    """A delivery that a job is about; for a new decision an instance, whose `delivery` is 0."""

    delivery: int
    instance: str
    destination: str
    state: str
    owed_since: float
    is_gone: bool
    """Its blob was removed."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what a job is about; `last` is where the next page begins, empty after the last one."""

    last: str
    chosen: Sequence[Chosen]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What came after the order does not belong to it."""

    first: str
    """The page with the newest instances is `before` this id."""
    last_delivery: int
    at: float
    """Unix time in seconds."""


def narrowed(act: Act, wanted: Filter) -> Filter:
    """The filter as the act needs it. Raises ChoiceError."""
    if act is Act.DECIDE_AGAIN:
        return wanted
    if act in (Act.MOVE, Act.RESEND) and not wanted.to:
        raise ChoiceError(f"{act} needs a destination")
    if act is Act.RESEND:
        if wanted.state not in (None, State.DONE):
            raise ChoiceError("resend sends again what was delivered: it takes no other state")
        return replace(wanted, state=State.DONE)
    state = wanted.state or State.OWED
    if state not in OWED_STATES:
        raise ChoiceError(f"{act} takes what waits or is buried: state {state} has ended")
    return replace(wanted, state=state)


def choose(
    connection: sa.Connection, act: Act, wanted: Filter, bounds: Bounds, key: Key | None, *, before: str, limit: int
) -> Page:
    """What the next `limit` instances below `before` have of it."""
    looked = look(connection, wanted, key, before=before, limit=limit, few=min(FEW, 20 * limit))
    ids, last = looked.ids, looked.go_on or ""
    if not ids:
        return Page(last, ())
    gone = (instance.c.state == InstanceState.GONE).label("is_gone")
    if act is Act.DECIDE_AGAIN:
        query = sa.select(instance.c.id, instance.c.state, instance.c.received_at, gone).where(instance.c.id.in_(ids))
        if wanted.cause is not None:
            query = query.where(sa.exists().where(delivery.c.instance_id == instance.c.id, *has_cause(wanted)))
        rows = connection.execute(query.order_by(instance.c.id)).all()
        return Page(last, [Chosen(0, row.id, "", row.state, row.received_at, bool(row.is_gone)) for row in rows])
    assert wanted.state is not None
    states = OWED_STATES.get(wanted.state, (DeliveryState.DONE,))
    columns = delivery.c.id, delivery.c.instance_id, delivery.c.destination, delivery.c.state, delivery.c.owed_since
    found = sa.select(*columns, gone).where(
        delivery.c.instance_id.in_(ids), delivery.c.state.in_(states), delivery.c.id <= bounds.last_delivery,
        sa.func.coalesce(delivery.c.closed_at, 0) <= bounds.at, instance.c.id == delivery.c.instance_id,
    )  # fmt: skip
    if wanted.to:
        found = found.where(delivery.c.destination == wanted.to)
    if wanted.cause is not None:
        found = found.where(*has_cause(wanted))
    rows = connection.execute(found.order_by(delivery.c.instance_id, delivery.c.id)).all()
    every = [
        Chosen(row.id, row.instance_id, row.destination, row.state, row.owed_since, bool(row.is_gone)) for row in rows
    ]
    if act is Act.RESEND:  # once, however often it was delivered there
        every = list({one.instance: one for one in every}.values())
    return Page(last, every)
