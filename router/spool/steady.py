"""Time that counts: a clock that is set must bury nothing and expire nothing.

Running nodes often write down what the database's clock says (`heartbeat`). If it has moved by more than this process
knows to have passed, it was set, or no node ran. That time does not count, neither towards giving up nor towards
retention. Each transaction that judges an age first looks for such a jump.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.observe import log
from router.spool import clock, commitment_rows, gathering
from router.spool.schema import FOR_GOOD, delivery, destination, heartbeat, instance, is_claimed, jump
from router.spool.states import DeliveryState, InstanceState

EVERY = 20.0
"""Seconds after which a look writes the time down again."""
JUMP = 60.0
"""Seconds. To set a clock by less than this does no harm that matters."""
LOOKED = "looked"
"""The key in a connection's `info` for this process's own time and the database's at the last look."""

_ROW = sa.select(heartbeat.c.at, heartbeat.c.skipped).where(heartbeat.c.id == 1)
_WRITE = heartbeat.update().where(heartbeat.c.id == 1)


@dataclass(frozen=True, slots=True)
class Moment:
    """What the database's clock says, and how many seconds of it do not count."""

    now: float
    skipped: float


def look(connection: sa.Connection, *, last: bool = False) -> Moment:
    """What time it is. If the clock has jumped, all that waits is moved with it first.

    `last`: the node stops, so time counts up to here.
    """
    now = clock.now(connection)
    row = connection.execute(_ROW).one()
    age = now - row.at
    if 0 <= age < EVERY and LOOKED in connection.info and not last:
        return Moment(now, row.skipped)
    is_jump = row.at > 0 and not -JUMP <= age <= JUMP
    # One of several nodes writes it. Another waits for that only if it must not judge by the old row.
    locked = connection.execute(_ROW.with_for_update(skip_locked=not is_jump)).one_or_none()
    if locked is None:
        return Moment(now, row.skipped)
    missed = _missed(connection, now, locked.at) if locked.at else 0.0
    if missed:
        _move(connection, now, locked.at, missed)
    connection.execute(_WRITE.values(at=now, skipped=locked.skipped + missed))
    connection.info[LOOKED] = (clock.monotonic(), now)
    return Moment(now, locked.skipped + missed)


def _missed(connection: sa.Connection, now: float, at: float) -> float:
    """Seconds by which the clock has moved more than this process knows to have passed; 0 if that is little."""
    moved, known = now - at, connection.info.get(LOOKED)
    passed = clock.monotonic() - known[0] if known else 0.0
    if known and abs(was_set := now - known[1] - passed) > JUMP:
        log.warning("clock was set", seconds=round(was_set))
    return moved - passed if moved > passed + JUMP or moved < -JUMP else 0.0


def _move(connection: sa.Connection, now: float, at: float, missed: float) -> None:
    """Move planned waits and claims with the clock, so that they keep their length."""
    connection.execute(jump.insert().values(at=now, seconds=missed))
    still = destination.c.still_since
    connection.execute(destination.update().where(still > 0).values(still_since=still + missed))
    commitment_rows.clock_was_set(connection, missed)
    if missed < 0:
        gathering.clock_was_set_back(connection, now, missed)
    was_running = LOOKED in connection.info
    if missed < 0 or was_running:  # after a stop an open circuit is probed at once
        until = destination.c.circuit_until
        connection.execute(destination.update().where(until > 0).values(circuit_until=until + missed))
    due = delivery.c.result_due  # no result could come while no node ran
    connection.execute(delivery.update().where(due.is_not(None)).values(result_due=due + missed))
    for table, state in ((instance, InstanceState.NEW), (delivery, DeliveryState.OPEN)):
        ready = table.c.ready_at
        waits = (table.c.state == state) & (ready < FOR_GOOD)
        claimed = is_claimed(table, state) & (ready < FOR_GOOD)
        moves = waits & (ready > now) if missed < 0 else claimed & (ready > at)
        connection.execute(table.update().where(moves).values(ready_at=ready + missed))


def cutoff(connection: sa.Connection, seconds: float) -> float:
    """The time by the database's clock since which this many seconds have counted."""
    now = look(connection).now
    return before(connection.execute(sa.select(jump.c.at, jump.c.seconds).order_by(jump.c.id.desc())), now, seconds)


def before(jumps: Iterable[Any], now: float, seconds: float) -> float:
    """`jumps` come latest first. If a clock time occurred twice, the earlier is taken: nothing expires too early."""
    at = now - seconds
    for one in jumps:
        if at < one.at:
            at = min(at - one.seconds, one.at)
    return at
