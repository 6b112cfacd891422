"""Bulk jobs: what a person ordered for many at once; notices: what people were told of, and what is silent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "bulk_job",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("ordered_at", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("act", sa.String(20), nullable=False),
        sa.Column("destination", sa.String, nullable=False),
        sa.Column("filter", sa.String, nullable=False),
        sa.Column("last_delivery", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("cursor", sa.String(40), nullable=False),
        sa.Column("total", sa.Integer),
        sa.Column("chosen", sa.Integer, nullable=False, server_default="0"),
        sa.Column("changed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("undone", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ended_at", sa.Double),
    )
    op.create_index("bulk_job_state", "bulk_job", ["state", "id"])
    op.create_table(
        "bulk_change",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.BigInteger, nullable=False),
        sa.Column("made_id", sa.BigInteger),
        sa.Column("closed_id", sa.BigInteger),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("reason", sa.String, nullable=False),
    )
    op.create_index("bulk_change_of", "bulk_change", ["job_id", "id"])
    op.create_table(
        "notice",
        sa.Column("condition", sa.String(20), primary_key=True),
        sa.Column("about", sa.String, primary_key=True),
        sa.Column("origin", sa.String, primary_key=True),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("told_at", sa.Double, nullable=False),
    )
    op.create_table(
        "silence",
        sa.Column("condition", sa.String(20), primary_key=True),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
    )
