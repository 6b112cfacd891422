"""`limit_rate` on a destination: a quota over all associations and nodes, kept in the destination's row.

`next_send_at` moves on by one share of time for each delivery that is claimed. It may be ahead of the clock by no more
than the shares of one second, so a quick destination still gets several at once. No window of time has more deliveries
than its share and one second's worth.
"""

from __future__ import annotations

import sqlalchemy as sa

from router.spool import destinations
from router.spool.schema import destination

_NEXT = sa.select(destination.c.next_send_at).where(destination.c.name == sa.bindparam("called"))


def _at_once(rate: float) -> int:
    """How many may be claimed together: the worth of a second."""
    return max(1, int(rate))


def allowed(connection: sa.Connection, to: str, rate: float, now: float) -> int:
    """How many may be claimed now. Locks the row of the destination."""
    asked = {"called": to}
    at = connection.execute(_NEXT.with_for_update(), asked).scalar()
    if at is None:
        destinations.change(connection, to, next_send_at=0.0)
        at = connection.execute(_NEXT.with_for_update(), asked).scalar_one()
    most = _at_once(rate)
    at = min(max(at, now), now + most / rate)  # further ahead: the clock was put back
    connection.execute(destination.update().where(destination.c.name == to).values(next_send_at=at))
    return int((now - at) * rate + most + 1e-6)


def use(connection: sa.Connection, to: str, rate: float, count: int) -> None:
    """So many were claimed."""
    moved = destination.c.next_send_at + count / rate
    connection.execute(destination.update().where(destination.c.name == to).values(next_send_at=moved))


def wait(connection: sa.Connection, to: str, rate: float, now: float) -> float:
    """Seconds until one more is allowed."""
    at = connection.execute(_NEXT, {"called": to}).scalar() or 0.0
    return seconds_left(at - now, rate)


def seconds_left(ahead: float, rate: float) -> float:
    """The same if `next_send_at` is so many seconds ahead of the clock."""
    most = _at_once(rate)
    return max(0.0, min(ahead, most / rate) - (most - 1) / rate)
