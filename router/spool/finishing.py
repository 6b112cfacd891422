"""An instance is finished when its last delivery is. Only one job at a time may look at that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from router.spool import statements
from router.spool.schema import delivery, instance
from router.spool.states import DeliveryState, InstanceState

OWED = (DeliveryState.OPEN, DeliveryState.BURIED)
"""An instance with a delivery in one of these states is not finished."""


def look_alone(connection: sa.Connection, which: Callable[[], sa.ColumnElement[bool]]) -> None:
    """Lock the rows of these instances (PostgreSQL; SQLite has one writer).

    `which` is built only if it is needed: building costs more than running.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(instance.c.id).where(which()).order_by(instance.c.id).with_for_update())


def instances_of(deliveries: Sequence[int]) -> sa.ColumnElement[bool]:
    """The condition for `look_alone`: the instances of these deliveries."""
    return instance.c.id.in_(sa.select(delivery.c.instance_id).where(delivery.c.id.in_(deliveries)))


def finish_if_last(connection: sa.Connection, instance_id: str, now: float) -> None:
    """Mark the instance as finished if none of its deliveries is open or buried."""
    connection.execute(statements.FINISH_IF_LAST, {"which": instance_id, "now": now})


def finish_those_that_end(connection: sa.Connection, ids: Sequence[str], now: float) -> None:
    """The same for many."""
    owed = sa.exists().where(delivery.c.instance_id == instance.c.id, delivery.c.state.in_(OWED))
    last = instance.c.id.in_(ids) & (instance.c.state == InstanceState.DECIDED) & ~owed
    connection.execute(instance.update().where(last).values(state=InstanceState.FINISHED, finished_at=now))
