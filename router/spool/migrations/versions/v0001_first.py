"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "instance",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("calling_ae", sa.String, nullable=False),
        sa.Column("called_ae", sa.String, nullable=False),
        sa.Column("peer", sa.String, nullable=False),
        sa.Column("sop_class", sa.String(64), nullable=False),
        sa.Column("sop_instance", sa.String(64), nullable=False),
        sa.Column("transfer_syntax", sa.String(64), nullable=False),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("decided_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("pixels", sa.String(12)),
        sa.Column("why_no_prediction", sa.String),
        sa.Column("top", sa.String(20)),
        sa.Column("class", sa.String(20)),
        sa.Column("confidence", sa.Double),
        sa.Column("probabilities", sa.String),
        sa.Column("novelty", sa.Double),
        sa.Column("novel", sa.Boolean),
        sa.Column("model", sa.String(64)),
        sa.Column("facts", sa.String),
        sa.Column("rule", sa.String),
        sa.Column("reason", sa.String),
        sa.Column("destinations", sa.String),
        sa.Column("shadow", sa.String),
    )
    op.create_index("instance_work", "instance", ["state", "ready_at", "id"])
    op.create_index("instance_finished", "instance", ["state", "finished_at"])
    op.create_index("instance_uid", "instance", ["sop_instance"])
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("instance_id", sa.String(32), sa.ForeignKey("instance.id"), nullable=False),
        sa.Column("destination", sa.String, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("buriable_tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owed_since", sa.Double, nullable=False),
        sa.Column("stood_still", sa.Double, nullable=False, server_default="0"),
        sa.Column("closed_at", sa.Double),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.String),
    )
    op.create_index("delivery_work", "delivery", ["destination", "state", "ready_at", "id"])
    op.create_index("delivery_instance", "delivery", ["instance_id"])
    op.create_index("delivery_state", "delivery", ["state", "id"])
    op.create_table(
        "destination",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("circuit_until", sa.Double, nullable=False, server_default="0"),
        sa.Column("circuit_failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("circuit_reason", sa.String, nullable=False, server_default=""),
        sa.Column("still_since", sa.Double, nullable=False, server_default="0"),
        sa.Column("stood_still", sa.Double, nullable=False, server_default="0"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("instance_id", sa.String(32)),
        sa.Column("destination", sa.String),
        sa.Column("detail", sa.String, nullable=False, server_default=""),
    )
    op.create_index("event_instance", "event", ["instance_id"])
    op.create_index("event_at", "event", ["at"])
    op.create_table(
        "owner",
        sa.Column("start", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
    )
