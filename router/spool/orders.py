"""What a person may order of the spool. Each order is recorded with who gave it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from router.spool import clock, destinations, statements, steady, studies
from router.spool.database import Database
from router.spool.destinations import still_times
from router.spool.events import add_event, add_events
from router.spool.finishing import finish_those_that_end, instances_of, look_alone
from router.spool.retention import Retention
from router.spool.schema import delivery, instance, parts
from router.spool.schema import destination as destination_table
from router.spool.signals import BULK, INSTANCES
from router.spool.states import DeliveryState, InstanceState

LABELLED = "labelled"
"""The kind of the event that keeps a person's label."""


class Orders:
    """`who` is the person, as the command line knows them."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database, self._retention = database, retention

    def pause(self, destination: str, who: str, until: float = 0.0) -> None:
        """Send nothing there until a Unix time; 0: until a person resumes it."""
        self._set_paused(destination, who, paused=True, until=until)

    def resume(self, destination: str, who: str) -> None:
        """End the pause of a destination. An open circuit is then probed at once."""
        self._set_paused(destination, who, paused=False)

    def end_pause(self, destination: str) -> bool:
        """End a pause whose time is over, as a person would; False where there is none (any more)."""

        def job(connection: sa.Connection) -> bool:
            wanted = sa.select(destination_table.c.name).where(
                destination_table.c.name == destination, destination_table.c.paused,
                destination_table.c.pause_until > 0, destination_table.c.pause_until <= clock.now(connection),
            )  # fmt: skip
            if connection.execute(wanted.with_for_update()).first() is None:
                return False
            destinations.change(connection, destination, paused=False, pause_until=0.0)
            destinations.order_try(connection, [destination])
            add_event(connection, "resumed", to=destination, reason="the time of the pause is over")
            return True

        ended = self._database.run(job, lambda _: (destination,))
        self._database.signals.set(destination)
        return ended

    def _set_paused(self, destination: str, who: str, *, paused: bool, until: float = 0.0) -> None:
        def job(connection: sa.Connection) -> None:
            destinations.change(connection, destination, paused=paused, pause_until=until)
            if not paused:
                destinations.order_try(connection, [destination])
            more: dict[str, Any] = {"until": until} if until else {}
            add_event(connection, "paused" if paused else "resumed", to=destination, who=who, **more)

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
        return sum(self._database.run(partial(discard, deliveries=part, who=who)) for part in parts(deliveries))

    def redecide(self, instance_id: str, who: str) -> bool:
        """Let an instance be decided anew. Returns False if there is none, or if its blob is gone."""
        ordered = self._database.run(partial(redecide, instance_id=instance_id, who=who), lambda _: (INSTANCES,))
        self._database.signals.set(INSTANCES)
        return ordered

    def send_also(self, instance_id: str, destination: str, who: str, *, study: bool = False) -> bool:
        """Owe a decided instance to one more destination; False where there is none, its blob is gone, or it is owed
        there already. With `study`, all instances of its study follow, and only an unknown study is False."""
        job = partial(_send_study if study else _send_also, instance_id=instance_id, to=destination, who=who)
        ordered = self._database.run(job, lambda _: (destination, BULK))
        self._database.signals.set_many((destination, BULK))
        return ordered

    def end_study(self, instance_id: str, destination: str, who: str) -> bool:
        """Let nothing more of an instance's study follow to a destination; False where it does not follow there."""
        return self._database.run(partial(_end_study, instance_id=instance_id, to=destination, who=who))

    def label(self, instance_id: str, label: str, who: str) -> bool:
        """Note what a person says that an instance shows; False where there is no such instance."""
        return self._database.run(partial(_label, instance_id=instance_id, label=label, who=who))

    def wipe(self, who: str = "") -> int:
        """Remove every blob that no open or buried delivery needs, even before `keep` is over. Returns how many."""
        removed = self._retention.remove_all()
        self._database.writer.submit(lambda c: add_event(c, "wiped", removed=removed, who=who))
        return removed


def are_free(deliveries: Sequence[int], now: float) -> sa.ColumnElement[bool]:
    """The condition for deliveries that are open or buried, and not claimed (any more)."""
    is_free = (delivery.c.token == 0) | (delivery.c.ready_at <= now)
    return (
        delivery.c.id.in_(deliveries)
        & delivery.c.state.in_((DeliveryState.BURIED, DeliveryState.OPEN))
        & is_free
    )  # fmt: skip


def retry_now(
    connection: sa.Connection, deliveries: Sequence[int], who: str, *, after_new: bool = False, **why: Any
) -> list[str]:
    """Owe free deliveries at once, with their counters at zero. Returns the destination of each.

    `after_new`: new deliveries go before them. `why` is kept in the record.
    """
    moment = steady.look(connection)
    now = moment.now
    still = destinations.still_times(connection, moment)
    afresh = {
        "ready_at": now if after_new else delivery.c.priority,
        "tries": 0,
        "buriable_tries": 0,
        "closed_at": None,
        "owed_since": now,
    }
    rows = connection.execute(
        delivery.update()
        .where(are_free(deliveries, now))
        .values(state=DeliveryState.OPEN, token=0, **afresh)
        .returning(delivery.c.id, delivery.c.instance_id, delivery.c.destination)
    ).all()
    for name in {row.destination for row in rows}:
        numbers = [row.id for row in rows if row.destination == name]
        connection.execute(delivery.update().where(delivery.c.id.in_(numbers)).values(stood_still=still(name)))
    of = ((row.instance_id, row.destination) for row in rows)
    add_events(connection, "retried by a person", of, who=who, **why)
    return [row.destination for row in rows]


def _retry_now(connection: sa.Connection, deliveries: Sequence[int], who: str) -> list[str]:
    owed_to = retry_now(connection, deliveries, who)
    order_try(connection, deliveries)
    return owed_to


def order_try(connection: sa.Connection, deliveries: Sequence[int]) -> None:
    """Have the destinations of these tried, also of those that are claimed: their try began before the order."""
    is_owed = delivery.c.id.in_(deliveries) & (delivery.c.state == DeliveryState.OPEN)
    concerned = sa.select(delivery.c.destination).where(is_owed).distinct()
    destinations.order_try(connection, connection.execute(concerned).scalars().all())


def discard(connection: sa.Connection, deliveries: Sequence[int], who: str, **why: Any) -> int:
    """Drop free deliveries; returns how many."""
    look_alone(connection, lambda: instances_of(deliveries))
    now = clock.now(connection)
    rows = connection.execute(
        delivery.update()
        .where(are_free(deliveries, now))
        .values(state=DeliveryState.DISCARDED, token=0, closed_at=now, reason="discarded by a person")
        .returning(delivery.c.instance_id, delivery.c.destination)
    ).all()
    finish_those_that_end(connection, [row.instance_id for row in rows], now)
    of = ((row.instance_id, row.destination) for row in rows)
    add_events(connection, "discarded by a person", of, who=who, **why)
    return len(rows)


def redecide(connection: sa.Connection, instance_id: str, who: str, **why: Any) -> bool:
    """The new decision overwrites the old one; the event keeps which rule of which table it was."""
    row = connection.execute(
        instance.update()
        .where(
            instance.c.id == instance_id, instance.c.state.in_((InstanceState.DECIDED, InstanceState.FINISHED))
        )
        .values(state=InstanceState.NEW, ready_at=0, token=0, tries=0, finished_at=None)
        .returning(instance.c.rule, instance.c.table)
    ).one_or_none()  # fmt: skip
    if row is not None:
        before = {"rule_before": row.rule, "table_before": row.table}
        add_event(connection, "new decision ordered", instance_id, who=who, **why, **before)
    return row is not None


def _send_also(connection: sa.Connection, instance_id: str, to: str, who: str) -> bool:
    look_alone(connection, lambda: instance.c.id == instance_id)
    if to in connection.execute(statements.OWED_ALREADY, {"which": instance_id}).scalars():
        return False
    changed = connection.execute(
        instance.update()
        .where(instance.c.id == instance_id, instance.c.state.in_((InstanceState.DECIDED, InstanceState.FINISHED)))
        .values(state=InstanceState.DECIDED, finished_at=None)
    ).rowcount
    if changed:
        moment = steady.look(connection)
        owed = {"instance_id": instance_id, "destination": to, "state": DeliveryState.OPEN, "owed_since": moment.now}
        connection.execute(statements.INSERT_DELIVERY, owed | {"stood_still": still_times(connection, moment)(to)})
        add_event(connection, "sent also by a person", instance_id, to, who=who)
    return bool(changed)


def _send_study(connection: sa.Connection, instance_id: str, to: str, who: str) -> bool:
    """The instance goes there now, unless it ever did or its blob is gone; the others follow by themselves."""
    look_alone(connection, lambda: instance.c.id == instance_id)
    is_new = sa.select(instance.c.id).where(instance.c.id == instance_id, instance.c.state == InstanceState.NEW)
    if connection.execute(is_new).first() is not None:
        return False
    if not studies.order(connection, instance_id, to, who, clock.now(connection)):
        return False
    had = sa.select(delivery.c.id).where(delivery.c.instance_id == instance_id, delivery.c.destination == to).limit(1)
    if connection.execute(had).first() is None:
        _send_also(connection, instance_id, to, who)
    add_event(connection, "study sent by a person", instance_id, to, who=who)
    return True


def _end_study(connection: sa.Connection, instance_id: str, to: str, who: str) -> bool:
    """What is owed already stays owed."""
    ended = studies.end(connection, instance_id, to, who)
    if ended:
        add_event(connection, "study ended by a person", instance_id, to, who=who)
    return ended


def _label(connection: sa.Connection, instance_id: str, label: str, who: str) -> bool:
    """A person may change the label: the latest event counts."""
    query = sa.select(instance.c.top).where(instance.c.id == instance_id)
    row = connection.execute(query).one_or_none()
    if row is not None:
        add_event(connection, LABELLED, instance_id, label=label, said=row.top, who=who)
    return row is not None
