"""The clock that claims, retries and retention go by: one for all who share a database."""

from __future__ import annotations

import time

import sqlalchemy as sa


def now(connection: sa.Connection) -> float:
    """Unix time in seconds: this machine's for SQLite, the server's for PostgreSQL (its holders may differ)."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


JUMP = 60.0
"""Seconds. A clock that is set by less delays or hastens nothing that matters."""


class Jumps:
    """Notices that somebody has set this machine's clock while the node runs."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def since(self) -> float:
        """Seconds by which the clock was put forward (or, negative, back) since this was last asked; else 0."""
        before, self._offset = self._offset, time.time() - time.monotonic()
        moved = self._offset - before
        return moved if abs(moved) > JUMP else 0.0
