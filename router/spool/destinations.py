"""Whether a destination is tried at all. A person can pause it, and its circuit opens when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from router.spool import clock, queries, statements, steady
from router.spool.database import Database
from router.spool.rows import DestinationState
from router.spool.schema import destination


class Destinations:
    """Pauses and circuits, which survive a restart. People pause by an order (`orders`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def state(self, name: str) -> DestinationState:
        def ask(connection: sa.Connection) -> DestinationState:
            row = connection.execute(statements.DESTINATION, {"called": name}).one_or_none()
            return DestinationState() if row is None else _state_of(connection, row)

        return self._database.ask(ask)

    def states(self) -> dict[str, DestinationState]:
        """The state of every destination that was ever paused or had an open circuit."""
        query = sa.select(destination)
        return self._database.ask(lambda c: {row.name: _state_of(c, row) for row in c.execute(query).all()})

    def set_circuit(self, name: str, seconds: float | None, failures: int, reason: str) -> None:
        """Open a destination's circuit for so many seconds, or close it (None). A probe that was claimed is over."""

        def job(connection: sa.Connection) -> None:
            until = 0.0 if seconds is None else steady.look(connection).now + seconds
            change(
                connection, name, circuit_until=until, circuit_failures=failures, circuit_reason=reason, probe_until=0.0
            )

        self._database.run(job, wakes=lambda _: (name,))

    @property
    def are_shared(self) -> bool:
        """Whether several nodes may change them (PostgreSQL)."""
        return not self._database.is_sqlite

    def claim_probe(self, name: str, seconds: float) -> bool:
        """Whether this one of several nodes may probe an open circuit: for so many seconds no other may."""

        def job(connection: sa.Connection) -> bool:
            now = clock.now(connection)
            free = (destination.c.name == name) & (destination.c.probe_until <= now)
            claimed = destination.update().where(free, destination.c.circuit_until > 0)
            return connection.execute(claimed.values(probe_until=now + seconds)).rowcount > 0

        return self._database.run(job)

    def end_probe(self, name: str) -> None:
        """Another node may probe: this one could not."""
        over = destination.update().where(destination.c.name == name).values(probe_until=0.0)
        self._database.run(lambda c: c.execute(over) and None)

    def set_closed(self, name: str, until: float) -> None:
        """Note that a destination is outside of its hours until a Unix time, or (0) within them."""
        self._database.run(lambda c: change(c, name, closed_until=until))


def _state_of(connection: sa.Connection, row: Any) -> DestinationState:
    left = queries.seconds_until(connection, row.circuit_until) if row.circuit_until > 0 else None
    pause_left = queries.seconds_until(connection, row.pause_until) if row.paused and row.pause_until > 0 else None
    return DestinationState(
        bool(row.paused), row.circuit_until, row.circuit_failures, row.circuit_reason, left, row.still_since,
        row.pause_until if row.paused else 0.0, pause_left, row.closed_until,
        max(0.0, row.next_send_at - clock.now(connection)) if row.next_send_at else 0.0,
    )  # fmt: skip


def change(connection: sa.Connection, name: str, **changes: Any) -> None:
    """Change pause, circuit or hours, and add up the time during which nothing is tried."""
    now = steady.look(connection).now
    row = connection.execute(sa.select(destination).where(destination.c.name == name).with_for_update()).one_or_none()
    if row is None:
        connection.execute(destination.insert().values(name=name))
        row = connection.execute(sa.select(destination).where(destination.c.name == name)).one()
    still = any(changes.get(one, row._mapping[one]) for one in ("paused", "circuit_until", "closed_until"))
    if still and not row.still_since:
        changes["still_since"] = now
    elif not still and row.still_since:
        changes |= {"still_since": 0.0, "stood_still": row.stood_still + now - row.still_since}
    connection.execute(destination.update().where(destination.c.name == name).values(**changes))


def order_try(connection: sa.Connection, names: Sequence[str]) -> None:
    """Let open circuits of these destinations be probed at once: a person wants a try now."""
    is_open = destination.c.name.in_(names) & (destination.c.circuit_until > 0)
    at_once = {"circuit_until": clock.now(connection), "circuit_failures": 0}
    connection.execute(destination.update().where(is_open).values(at_once))


def still_times(connection: sa.Connection, moment: steady.Moment) -> Callable[[str], float]:
    """For each destination: the seconds that do not count towards giving up on its deliveries."""
    stood = {
        row.name: row.stood_still + (moment.now - row.still_since if row.still_since else 0.0)
        for row in connection.execute(statements.STILL_TIMES)
    }
    return lambda name: moment.skipped + stood.get(name, 0.0)
