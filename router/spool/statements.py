"""The statements that every instance needs. They are built once: building one costs more than running it.

No bound value has the name of a column: SQLAlchemy reserves those names in SET and VALUES.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as bound
from sqlalchemy.sql.dml import ReturningUpdate

from router.spool.schema import FOR_GOOD, delivery, destination, instance
from router.spool.states import DeliveryState, InstanceState

INSERT_INSTANCE = instance.insert()
INSERT_DELIVERY = delivery.insert()

SAME_UID = sa.select(instance).where(instance.c.sop_instance == bound("uid")).order_by(instance.c.id.desc()).limit(16)
COPIES_BEFORE = (
    sa.select(instance.c.digest, instance.c.calling_ae, instance.c.peer, instance.c.received_at)
    .where(instance.c.sop_instance == bound("uid"), instance.c.id < bound("which"))
    .order_by(instance.c.id.desc())
    .limit(bound("most"))
)


def _claim_instances(which: sa.ColumnElement[bool], *order: sa.ColumnElement[Any]) -> ReturningUpdate[Any]:
    due = (
        sa.select(instance.c.id)
        .where(which)
        .order_by(*order)
        .limit(bound("most"))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        instance.update()
        .where(instance.c.id.in_(sa.select(due.c.id)))
        .values(token=bound("by"), ready_at=bound("until"), tries=instance.c.tries + 1)
        .returning(*instance.c)
    )


_is_fresh = sa.text("instance.state = 'new' AND instance.ready_at = 0")
"""The condition of the index `instance_fresh`."""
CLAIM_AGAIN = _claim_instances(
    (instance.c.state == InstanceState.NEW) & (instance.c.ready_at > 0) & (instance.c.ready_at <= bound("now")),
    instance.c.ready_at, instance.c.id,
)  # fmt: skip
"""Instances that inference was asked about without an answer. They come before new work, which never ends."""
CLAIM_FRESH = _claim_instances(
    sa.and_(_is_fresh, instance.c.peer == bound("from_peer"), instance.c.calling_ae == bound("from_ae")), instance.c.id
)
"""New work of one caller."""


_FRESH = "FROM instance {index} WHERE instance.state = 'new' AND instance.ready_at = 0"
_CALLERS = f"""
    WITH RECURSIVE callers(peer, calling_ae) AS (
        SELECT CAST(:peer AS VARCHAR), CAST(:ae AS VARCHAR)
        UNION ALL
        SELECT one.peer, one.calling_ae FROM callers CROSS JOIN instance AS one WHERE one.id = coalesce(
            (SELECT instance.id {_FRESH} AND instance.peer = callers.peer AND instance.calling_ae > callers.calling_ae
             ORDER BY instance.calling_ae LIMIT 1),
            (SELECT instance.id {_FRESH} AND instance.peer > callers.peer
             ORDER BY instance.peer, instance.calling_ae LIMIT 1))
    )
    SELECT peer, calling_ae FROM callers LIMIT :most OFFSET 1
"""  # noqa: S608 - made of constants
CALLERS = {
    "sqlite": sa.text(_CALLERS.format(index="INDEXED BY instance_fresh")),
    "postgresql": sa.text(_CALLERS.format(index="")),
}
"""Callers with new work behind one caller, in order. Each costs one step in an index, however much work it has. SQLite
must be told the index, or it reads all of the new work."""

CLAIMED_INSTANCE = sa.select(instance.c.study).where(
    instance.c.id == bound("which"), instance.c.token == bound("claimed_by"), instance.c.state == InstanceState.NEW
)
"""Its row is locked before: what it says holds until the transaction ends."""
DECIDE = instance.update().where(instance.c.id == bound("which"))
"""The execution gives the columns to set."""

_is_owed = (delivery.c.instance_id == bound("which")) & (
    (delivery.c.state == DeliveryState.OPEN) | (delivery.c.state == DeliveryState.BURIED)
)
"""Without `in_`: SQLAlchemy writes its list anew at every execution."""
OWED_ALREADY = sa.select(delivery.c.destination).where(_is_owed)
OPEN_UP_TO = sa.select(sa.func.count()).select_from(
    sa.select(sa.literal_column("1"))
    .where(delivery.c.destination == bound("to"), delivery.c.state == DeliveryState.OPEN)
    .order_by(delivery.c.ready_at)
    .limit(bound("most"))
    .subquery()
)
"""In the order of the index. Otherwise PostgreSQL may read the whole table if few rows wait."""
STILL_TIMES = sa.select(destination.c.name, destination.c.stood_still, destination.c.still_since)


def _claim_deliveries(which: sa.ColumnElement[bool], *order: sa.ColumnElement[Any]) -> ReturningUpdate[Any]:
    due = (
        sa.select(delivery.c.id)
        .where(delivery.c.destination == bound("to"), delivery.c.state == DeliveryState.OPEN, which)
        .order_by(*order)
        .limit(bound("most"))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        delivery.update()
        .where(delivery.c.id.in_(sa.select(due.c.id)))
        .values(token=bound("by"), ready_at=bound("until"))
        .returning(delivery.c.id)
    )


_is_due = (delivery.c.ready_at > bound("above")) & (delivery.c.ready_at <= bound("now"))
CLAIM_DELIVERIES = _claim_deliveries(_is_due, delivery.c.ready_at, delivery.c.id)
CLAIM_OF_STUDY = _claim_deliveries(
    _is_due
    & delivery.c.instance_id.in_(sa.select(instance.c.id).where(instance.c.study == bound("of"))),
    delivery.c.ready_at, delivery.c.id,
)  # fmt: skip
"""Of one study alone, so that one worker sends it in one association."""
CLAIM_UNTRIED = _claim_deliveries(delivery.c.ready_at == bound("new"), delivery.c.id.desc())

CLAIMED_DELIVERIES = (
    sa.select(
        delivery.c.id.label("delivery_id"), delivery.c.destination, delivery.c.tries.label("delivery_tries"),
        delivery.c.buriable_tries, delivery.c.priority,
        (bound("counts_from", type_=sa.Double) + delivery.c.stood_still - delivery.c.owed_since).label("owed_for"),
        *instance.c,
    )
    .where(delivery.c.id.in_(bound("ids", expanding=True)), delivery.c.instance_id == instance.c.id)
    .order_by(delivery.c.priority, delivery.c.id)
)  # fmt: skip

FACTS = sa.select(instance.c.facts).where(instance.c.id == bound("which"))

CLOSE_DELIVERY = (
    delivery.update()
    .where(
        delivery.c.id == bound("which"), delivery.c.token == bound("claimed_by"),
        delivery.c.state == DeliveryState.OPEN,
    )
    .values(
        state=bound("end"), token=0, ready_at=0, closed_at=bound("now"), reason=bound("why"), status=bound("answer"),
        tries=delivery.c.tries + 1,
    )
    .returning(delivery.c.instance_id, delivery.c.destination)
)  # fmt: skip

FINISH_IF_LAST = (
    instance.update()
    .where(
        instance.c.id == bound("which"),
        instance.c.state == InstanceState.DECIDED,
        ~sa.exists().where(_is_owed),
    )
    .values(state=InstanceState.FINISHED, finished_at=bound("now"))
)

NEXT_DUE = sa.select(sa.func.min(delivery.c.ready_at)).where(
    delivery.c.destination == bound("to"), delivery.c.state == DeliveryState.OPEN, delivery.c.ready_at < FOR_GOOD
)
NEXT_INSTANCE_DUE = sa.select(sa.func.min(instance.c.ready_at)).where(
    instance.c.state == InstanceState.NEW, instance.c.ready_at < FOR_GOOD
)
DESTINATION = sa.select(destination).where(destination.c.name == bound("called"))
