"""What a person may order of the spool. Each order is recorded with who gave it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from router.spool import clock, destinations, steady
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.finishing import finish_if_last, instances_of, look_alone
from router.spool.retention import Retention
from router.spool.schema import delivery, instance, parts
from router.spool.signals import INSTANCES
from router.spool.states import DeliveryState, InstanceState


class Orders:
    """`who` is the person, as the command line knows them."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database, self._retention = database, retention

    def pause(self, destination: str, who: str) -> None:
        self._set_paused(destination, who, paused=True)

    def resume(self, destination: str, who: str) -> None:
        """End the pause of a destination. An open circuit is then probed at once."""
        self._set_paused(destination, who, paused=False)

    def _set_paused(self, destination: str, who: str, *, paused: bool) -> None:
        def job(connection: sa.Connection) -> None:
            destinations.change(connection, destination, paused=paused)
            if not paused:
                destinations.order_try(connection, [destination])
            add_event(connection, "paused" if paused else "resumed", to=destination, who=who)

        self._database.run(job, lambda _: (destination,))
        self._database.signals.set(destination)

    def retry_now(self, deliveries: Sequence[int], who: str) -> int:
        """Owe buried or waiting deliveries at once, and try their destinations. Returns how many."""
        changed = 0
        for part in parts(deliveries):
            owed_to = self._database.run(partial(_retry_now, deliveries=part, who=who), set)
            self._database.signals.set_many(set(owed_to))
            changed += len(owed_to)
        return changed

    def discard(self, deliveries: Sequence[int], who: str) -> int:
        """Drop deliveries that are not being sent. Returns how many."""
        return sum(self._database.run(partial(_discard, deliveries=part, who=who)) for part in parts(deliveries))

    def redecide(self, instance_id: str, who: str) -> bool:
        """Let an instance be decided anew. Returns False if there is none, or if its blob is gone."""
        ordered = self._database.run(partial(_redecide, instance_id=instance_id, who=who), lambda _: (INSTANCES,))
        self._database.signals.set(INSTANCES)
        return ordered

    def wipe(self, who: str = "") -> int:
        """Remove every blob that no open or buried delivery needs, even before `keep` is over. Returns how many."""
        removed = self._retention.remove_all()
        self._database.writer.submit(lambda c: add_event(c, "wiped", removed=removed, who=who))
        return removed


def _are_free(deliveries: Sequence[int], now: float) -> sa.ColumnElement[bool]:
    """The condition for deliveries that are open or buried, and not claimed (any more)."""
    is_free = (delivery.c.token == 0) | (delivery.c.ready_at <= now)
    return (
        delivery.c.id.in_(deliveries)
        & delivery.c.state.in_((DeliveryState.BURIED, DeliveryState.OPEN))
        & is_free
    )  # fmt: skip


def _retry_now(connection: sa.Connection, deliveries: Sequence[int], who: str) -> list[str]:
    """Owe free deliveries at once, with their counters at zero. Returns the destination of each."""
    moment = steady.look(connection)
    now = moment.now
    still = destinations.still_times(connection, moment)
    afresh = {"ready_at": 0, "tries": 0, "buriable_tries": 0, "closed_at": None, "owed_since": now}
    rows = connection.execute(
        delivery.update()
        .where(_are_free(deliveries, now))
        .values(state=DeliveryState.OPEN, token=0, **afresh)
        .returning(delivery.c.id, delivery.c.instance_id, delivery.c.destination)
    ).all()
    for row in rows:
        connection.execute(delivery.update().where(delivery.c.id == row.id).values(stood_still=still(row.destination)))
        add_event(connection, "retried by a person", row.instance_id, row.destination, who=who)
    # Also for claimed ones: their try began before the order.
    is_owed = delivery.c.id.in_(deliveries) & (delivery.c.state == DeliveryState.OPEN)
    concerned = sa.select(delivery.c.destination).where(is_owed).distinct()
    destinations.order_try(connection, connection.execute(concerned).scalars().all())
    return [row.destination for row in rows]


def _discard(connection: sa.Connection, deliveries: Sequence[int], who: str) -> int:
    """Drop free deliveries. Returns how many."""
    look_alone(connection, lambda: instances_of(deliveries))
    now = clock.now(connection)
    rows = connection.execute(
        delivery.update()
        .where(_are_free(deliveries, now))
        .values(state=DeliveryState.DISCARDED, token=0, closed_at=now, reason="discarded by a person")
        .returning(delivery.c.instance_id, delivery.c.destination)
    ).all()
    for row in rows:
        finish_if_last(connection, row.instance_id, now)
        add_event(connection, "discarded by a person", row.instance_id, row.destination, who=who)
    return len(rows)


def _redecide(connection: sa.Connection, instance_id: str, who: str) -> bool:
    changed = connection.execute(
        instance.update()
        .where(
            instance.c.id == instance_id, instance.c.state.in_((InstanceState.DECIDED, InstanceState.FINISHED))
        )
        .values(state=InstanceState.NEW, ready_at=0, token=0, tries=0, finished_at=None)
    ).rowcount  # fmt: skip
    if changed:
        add_event(connection, "new decision ordered", instance_id, who=who)
    return bool(changed)
