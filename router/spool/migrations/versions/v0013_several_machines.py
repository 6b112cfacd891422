"""Nodes on several machines: the list of them, and what they share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "node",
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
    op.create_table(
        "shared_settings",
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("node", sa.String(80), nullable=False),
    )
    op.create_table(
        "shared_choice",
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
    )
    op.create_table(
        "shared_key",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("secret", sa.String(64), nullable=False),
    )
    op.add_column("destination", sa.Column("probe_until", sa.Double, nullable=False, server_default="0"))
    op.add_column("commitment", sa.Column("held_by", sa.BigInteger, nullable=False, server_default="0"))
