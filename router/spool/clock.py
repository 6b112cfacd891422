"""The clock of claims, retries and retention: one for all nodes that share a database."""

from __future__ import annotations

import time

import sqlalchemy as sa


def now(connection: sa.Connection) -> float:
    """Unix time in seconds: this machine's for SQLite, the server's for PostgreSQL (clocks of nodes may differ)."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(_SERVERS).scalar_one())


_SERVERS = sa.text("SELECT extract(epoch FROM clock_timestamp())")


def monotonic() -> float:
    """Seconds on this process's clock, which cannot be set."""
    return time.monotonic()
