"""What happened lately: arrivals, decisions, deliveries and senders, each read by an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from router.spool import clock
from router.spool.find import id_at
from router.spool.schema import instance
from router.spool.states import DeliveryState

MOST_SENDERS = 200
_SENDERS = sa.text("""
    WITH RECURSIVE senders(ae) AS (
        SELECT min(calling_ae) FROM instance
        UNION ALL
        SELECT (SELECT min(calling_ae) FROM instance WHERE calling_ae > senders.ae) FROM senders
        WHERE senders.ae IS NOT NULL
    )
    SELECT ae, (SELECT max(id) FROM instance WHERE calling_ae = senders.ae) AS latest FROM senders
    WHERE ae IS NOT NULL LIMIT :most
""")
"""Reads one index entry for each sender, however many instances it sent."""

_DELIVERED = sa.text(f"""
    WITH RECURSIVE known(destination) AS (
        SELECT min(destination) FROM delivery
        UNION ALL
        SELECT (SELECT min(destination) FROM delivery WHERE destination > known.destination) FROM known
        WHERE known.destination IS NOT NULL
    )
    SELECT destination, (SELECT count(*) FROM delivery WHERE state = '{DeliveryState.DONE}'
                         AND destination = known.destination AND closed_at >= :since) AS n FROM known
    WHERE destination IS NOT NULL
""")  # noqa: S608 - made of a constant
"""The same for destinations, so that a year of deliveries is not looked through."""


@dataclass(frozen=True, slots=True)
class Sender:
    """A calling AE title whose instances have records."""

    calling_ae: str
    last_at: float
    """Unix time in seconds of its latest instance."""
    received: int
    """Instances in the span."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The last `seconds`; the mappings count instances, `delivered` deliveries."""

    now: float
    seconds: float
    received: int
    received_bytes: int
    delivered: Mapping[str, int]
    """By destination."""
    classes: Mapping[str, int]
    rules: Mapping[str, int]
    senders: tuple[Sender, ...]


def activity(connection: sa.Connection, seconds: float) -> Activity:
    now = clock.now(connection)
    lately = instance.c.id >= id_at(now - seconds)
    count = sa.func.count()
    received, size = connection.execute(
        sa.select(count, sa.func.coalesce(sa.func.sum(instance.c.size), 0)).where(lately)
    ).one()
    delivered = {row.destination: row.n for row in connection.execute(_DELIVERED, {"since": now - seconds}) if row.n}
    sent = _counted(connection, instance.c.calling_ae, lately)
    senders = [
        Sender(row.ae, int(row.latest[:16], 16) / 1e9, sent.get(row.ae, 0))
        for row in connection.execute(_SENDERS, {"most": MOST_SENDERS})
        if row.ae
    ]
    return Activity(
        now, seconds, received, int(size), delivered,
        _counted(connection, instance.c["class"], lately), _counted(connection, instance.c.rule, lately),
        tuple(sorted(senders, key=lambda one: -one.last_at)),
    )  # fmt: skip


def _counted(connection: sa.Connection, column: sa.Column[str], lately: sa.ColumnElement[bool]) -> dict[str, int]:
    """Instances of the span by the values of a column, the most frequent first."""
    value = sa.func.coalesce(column, "")  # so that no planner reads the column's whole index
    rows = connection.execute(sa.select(value, sa.func.count()).where(lately).group_by(value))
    found = ((str(one), n) for one, n in rows if one)
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))
