"""How long a claim lasts, and which start of a node made it: the jobs of `database` and `leases`."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from router.spool import clock, commitment_rows, steady
from router.spool.schema import FOR_GOOD, delivery, instance, is_claimed, owner
from router.spool.states import DeliveryState, InstanceState

LEASE = 60.0
"""Seconds that a claim lasts on PostgreSQL if it is not renewed."""


def number_start(connection: sa.Connection, *, alone: bool) -> int:
    """Number a start of a node. If the node is alone, free what earlier starts had claimed."""
    now = steady.look(connection).now
    if alone:
        free_all(connection, now)
    return int(connection.execute(owner.insert().values(at=now).returning(owner.c.start)).scalar_one())


def free_all(connection: sa.Connection, now: float) -> None:
    """End all claims, where no node works."""
    for table, state, ready_at in (
        (instance, InstanceState.NEW, now),
        (delivery, DeliveryState.OPEN, delivery.c.priority),
    ):
        claimed = is_claimed(table, state) & (table.c.ready_at > now)
        connection.execute(table.update().where(claimed).values(ready_at=ready_at, token=0))
    commitment_rows.free_claims(connection)


def claim_end(connection: sa.Connection) -> float:
    """Until when a claim made now lasts. On PostgreSQL it is a lease, to be renewed."""
    return FOR_GOOD if connection.dialect.name == "sqlite" else clock.now(connection) + LEASE


def renew(connection: sa.Connection, table: sa.Table, ids: Sequence[int | str], tokens: Sequence[int]) -> None:
    """Renew claims for another lease, except those lost meanwhile."""
    claimed = table.c.id.in_(ids) & table.c.token.in_(tokens)
    connection.execute(table.update().where(claimed).values(ready_at=claim_end(connection)))


def give_back(connection: sa.Connection, table: sa.Table, ids: Sequence[int | str], tokens: Sequence[int]) -> None:
    """Free claims, except those lost meanwhile."""
    claimed = table.c.id.in_(ids) & table.c.token.in_(tokens)
    due = clock.now(connection) if table is instance else delivery.c.priority
    connection.execute(table.update().where(claimed).values(ready_at=due, token=0))
