"""What a year of records needs: deliveries by instance and state, events by kind. Time that counts. A spool's id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index("delivery_instance", "delivery")
    op.create_index("delivery_instance", "delivery", ["instance_id", "state", "destination"])
    op.drop_index("event_instance", "event")
    op.create_index("event_instance", "event", ["instance_id", "id"])
    op.create_index("event_kind", "event", ["kind", "id"])
    heartbeat = op.create_table(
        "heartbeat",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("skipped", sa.Double, nullable=False),
    )
    op.bulk_insert(heartbeat, [{"id": 1, "at": 0.0, "skipped": 0.0}])
    op.create_table(
        "clock_jump",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    op.create_table("spool", sa.Column("id", sa.String(32), primary_key=True))
