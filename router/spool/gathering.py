"""Deliveries that wait for more of their study: a destination with `gather` gets a study at once, after a pause.

A row says until when the study is waited for, and the latest moment. Each new delivery of the study moves the first
time on, and never beyond the second. All of them have the latest moment as their `ready_at`, so they go then even if
the row is lost. When the pause is long enough, the destination's worker makes them due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from router.spool.schema import BATCH, delivery, gathering, instance
from router.spool.states import DeliveryState

WAITS = "waits for more of its study"
"""The reason of such a delivery."""
Gathers = Mapping[str, tuple[float, float]]
"""By destination: the pause that it waits for, and how long at most; both in seconds."""
NOTHING_GATHERED: Gathers = {}

_WAIT_ON = sa.text("""
    INSERT INTO gathering (destination, study, quiet_at, latest) VALUES (:to, :of, :quiet, :latest)
    ON CONFLICT (destination, study) DO UPDATE
    SET quiet_at = CASE WHEN excluded.quiet_at < gathering.latest THEN excluded.quiet_at ELSE gathering.latest END
    RETURNING latest
""")
_QUIET = sa.select(gathering).where(gathering.c.destination == sa.bindparam("to"))
NEXT_QUIET = sa.select(sa.func.min(gathering.c.quiet_at)).where(gathering.c.destination == sa.bindparam("to"))
FIRST_DUE = (
    sa.select(instance.c.study)
    .where(
        delivery.c.destination == sa.bindparam("to"), delivery.c.state == DeliveryState.OPEN,
        delivery.c.ready_at > sa.bindparam("above"), delivery.c.ready_at <= sa.bindparam("now"),
        delivery.c.instance_id == instance.c.id,
    )
    .order_by(delivery.c.ready_at, delivery.c.id)
    .limit(1)
)  # fmt: skip


def wait_on(connection: sa.Connection, to: str, study: str, gathers: tuple[float, float], now: float) -> float:
    """A delivery of a study is made: its `ready_at`. The study waits for another pause."""
    pause, most = gathers
    values = {"to": to, "of": study, "quiet": now + min(pause, most), "latest": now + most}
    return float(connection.execute(_WAIT_ON, values).scalar_one())


def release(connection: sa.Connection, to: str, now: float) -> None:
    """Make the studies due that have had their pause. What has been tried already keeps its own time."""
    for row in connection.execute(_QUIET.where(gathering.c.quiet_at <= now).with_for_update(), {"to": to}).all():
        study = sa.select(instance.c.id).where(instance.c.study == row.study)
        waits = sa.select(delivery.c.id).where(
            delivery.c.destination == to, delivery.c.state == DeliveryState.OPEN, delivery.c.ready_at == row.latest,
            delivery.c.tries == 0, delivery.c.token == 0, delivery.c.instance_id.in_(study),
        )  # fmt: skip
        ids = connection.execute(waits.order_by(delivery.c.id).limit(BATCH)).scalars().all()
        connection.execute(
            delivery.update().where(delivery.c.id.in_(ids)).values(ready_at=delivery.c.priority, reason="")
        )
        if len(ids) < BATCH:
            this = (gathering.c.destination == to) & (gathering.c.study == row.study)
            connection.execute(gathering.delete().where(this))


def clock_was_set_back(connection: sa.Connection, now: float, missed: float) -> None:
    """Move the times as those of the deliveries are moved."""
    for column in (gathering.c.latest, gathering.c.quiet_at):
        connection.execute(gathering.update().where(column > now).values({column.name: column + missed}))


def forget(connection: sa.Connection, before: float) -> int:
    """Remove rows of destinations that gather no more; their deliveries have gone."""
    return int(connection.execute(gathering.delete().where(gathering.c.latest < before)).rowcount)


def first_study(connection: sa.Connection, to: str, now: float, above: float) -> Any:
    """The study of the first delivery that is due, its `ready_at` above a limit; None if that study is not known."""
    return connection.execute(FIRST_DUE, {"to": to, "now": now, "above": above}).scalar()
