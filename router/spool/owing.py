"""New deliveries of an instance, as a decision makes them: open, or buried at once with a reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from router.flow import Instance
from router.observe import log
from router.observe.metrics import BURIED as BURIED_COUNT
from router.spool import statements, steady
from router.spool.destinations import still_times
from router.spool.events import add_event
from router.spool.gathering import NOTHING_GATHERED, WAITS, Gathers, wait_on
from router.spool.schema import NORMAL
from router.spool.states import DeliveryState

CIRCLING_COPIES, CIRCLING_WITHIN = 100, 86400.0
"""So many earlier copies of a data set from one caller within so many seconds are a loop. Four times as many instances
of one UID are looked at, so that loops through a few callers do not hide each other."""
CIRCLING = f"the same data set has come from the same caller {CIRCLING_COPIES} times within a day: a loop"
LIMIT_REACHED = "the destination's own limit of open deliveries was reached"
"""Reasons for which a delivery is buried at once."""
CAME_FROM_THERE = "came from there"
"""The reason of a delivery that is skipped."""
NOTHING_FOLLOWED: Mapping[str, str] = {}
NO_PRIORITIES: Mapping[str, int] = {}


def owe(
    connection: sa.Connection, one: Instance, names: Sequence[str], limits: Mapping[str, int | None],
    moment: steady.Moment, follows: Mapping[str, str] = NOTHING_FOLLOWED, study: str | None = None,
    gathers: Gathers = NOTHING_GATHERED, priorities: Mapping[str, int] = NO_PRIORITIES,
    came_from: Collection[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Owe an instance to destinations; its row is locked. Returns those that are buried at once, each with the reason.

    `limits`: how many open deliveries a destination may have. `follows`: which instance it follows to a destination.
    `gathers`: which destinations wait for more of its `study`. `priorities`: NORMAL where none is named. `came_from`:
    where it came from; a delivery there is skipped at once.
    """
    buried: dict[str, str] = {}
    if not names:
        return buried
    still, circling = still_times(connection, moment), is_circling(connection, one)
    for name in names:
        most = limits.get(name)
        if name in came_from:
            skipped = {"state": DeliveryState.SKIPPED, "reason": CAME_FROM_THERE, "closed_at": moment.now}
            row = {"instance_id": one.id, "destination": name, "owed_since": moment.now, "stood_still": still(name)}
            connection.execute(statements.INSERT_DELIVERY, row | skipped)
            continue
        waiting = {"to": name, "most": most}
        full = most is not None and connection.execute(statements.OPEN_UP_TO, waiting).scalar_one() >= most
        reason = CIRCLING if circling else LIMIT_REACHED if full else ""
        row = {
            "instance_id": one.id, "destination": name,
            "state": DeliveryState.BURIED if reason else DeliveryState.OPEN, "owed_since": moment.now,
            "stood_still": still(name), "reason": reason, "closed_at": moment.now if reason else None,
            "follows": follows.get(name), "priority": priorities.get(name, NORMAL),
            "ready_at": float(priorities.get(name, NORMAL)),
        }  # fmt: skip
        if study and name in gathers and not reason:
            row |= {"ready_at": wait_on(connection, name, study, gathers[name], moment.now), "reason": WAITS}
        connection.execute(statements.INSERT_DELIVERY, row)
        if reason:
            buried[name] = reason
            add_event(connection, "buried", one.id, name, reason=reason)
    return buried


def tell_buried(instance_id: str, destination: str, reason: str) -> None:
    """Count and log a delivery that was buried at once."""
    BURIED_COUNT.labels(destination).inc()
    log.error("buried", instance=instance_id, destination=destination, reason=reason, tries=0)


def is_circling(connection: sa.Connection, decided: Instance) -> bool:
    """Whether the same data set has come from the same caller again and again: something sends it back to this node.

    If a person orders it (`retry_now`), it is sent all the same.
    """
    asked = {"uid": decided.sop_instance, "which": decided.id, "most": 4 * CIRCLING_COPIES}
    since = decided.received_at - CIRCLING_WITHIN
    caller = (decided.digest, decided.caller.calling_ae, decided.caller.peer)
    return len([
        row for row in connection.execute(statements.COPIES_BEFORE, asked)
        if (row.digest, row.calling_ae, row.peer) == caller and row.received_at > since
    ]) >= CIRCLING_COPIES  # fmt: skip
