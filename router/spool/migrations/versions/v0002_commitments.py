"""Requests for storage commitment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "commitment",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae", sa.String, nullable=False),
        sa.Column("called_ae", sa.String, nullable=False),
        sa.Column("peer", sa.String, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deadline", sa.Double, nullable=False),
        sa.Column("closed_at", sa.Double),
    )
    op.create_index("commitment_work", "commitment", ["state", "ready_at", "id"])
    op.create_index("commitment_closed", "commitment", ["closed_at"])
    op.create_table(
        "commitment_reference",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("commitment_id", sa.BigInteger, sa.ForeignKey("commitment.id"), nullable=False),
        sa.Column("sop_class", sa.String(64), nullable=False),
        sa.Column("sop_instance", sa.String(64), nullable=False),
        sa.Column("outcome", sa.Integer),
        sa.Column("destination", sa.String),
        sa.Column("asked_uid", sa.String(64)),
        sa.Column("asked_at", sa.Double),
    )
    op.create_index("commitment_reference_of", "commitment_reference", ["commitment_id", "id"])
    op.create_index("commitment_reference_asked", "commitment_reference", ["asked_uid"])
