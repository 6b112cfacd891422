"""The nodes that work on one PostgreSQL database, and what they must agree on: tables, and how their rows change.

SQLite has one node, so there these tables stay empty.
"""

from __future__ import annotations

import sqlalchemy as sa

from router.spool.schema import metadata

GONE_AFTER = 30.0
"""Seconds. A node that was not seen for so long is gone."""
FORGOTTEN_AFTER = 86400.0
"""Seconds after which a node that is gone is no longer listed."""

node = sa.Table(
    "node",
    metadata,
    sa.Column("start", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("roles", sa.String, nullable=False),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("began_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("skew", sa.Double, nullable=False, server_default="0"),
    sa.Column("settings", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("choice", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("problem", sa.String, nullable=False, server_default=""),
    sa.Column("about", sa.String, nullable=False, server_default="{}"),
)
"""A row for each running node, by the number of its start. `skew`: seconds by which the clock of its machine is ahead
of the database's. `settings` and `choice`: the versions in force there. `about` (JSON): where it listens, what its
model runs on. Times are Unix seconds by the database's clock."""

shared_settings = sa.Table(
    "shared_settings",
    metadata,
    sa.Column("version", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(32), nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("node", sa.String(80), nullable=False),
)
"""The settings that all nodes share, as routing.yaml has them; the greatest version is in force."""

shared_choice = sa.Table(
    "shared_choice",
    metadata,
    sa.Column("version", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.String, nullable=False),
)
"""The choice of models (JSON, `node.model_store`); the greatest version is in force."""

shared_key = sa.Table(
    "shared_key",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("secret", sa.String(64), nullable=False),
)
"""One row: the key of the hashes that people find by (`keyed`), in hex digits."""


def is_there(start: sa.ColumnElement[int], now: float) -> sa.ColumnElement[bool]:
    """Whether a start is that of a node that runs."""
    return sa.exists().where(node.c.start == start, node.c.seen_at > now - GONE_AFTER)
