"""Which instances are results of which deliveries, and which results are waited for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.create_table(
        "result",
        sa.Column("result_id", sa.String(32), primary_key=True),
        sa.Column("delivery_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("instance_id", sa.String(32), nullable=False),
        sa.Column("destination", sa.String, nullable=False),
        sa.Column("study", sa.String(32)),
        sa.Column("how", sa.String(10), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("result_delivery", "result", ["delivery_id"])
    op.create_index("result_instance", "result", ["instance_id"])
    op.create_index("result_study", "result", ["destination", "study", "at"])
    op.create_index("result_at", "result", ["at"])
    op.add_column("delivery", sa.Column("result_due", sa.Double))
    op.add_column("delivery", sa.Column("result_missing_at", sa.Double))
    is_awaited, is_missing = sa.text("result_due IS NOT NULL"), sa.text("result_missing_at IS NOT NULL")
    for name, column, where in (
        ("delivery_result_due", "result_due", is_awaited),
        ("delivery_missing", "result_missing_at", is_missing),
        ("delivery_missing_of", "instance_id", is_missing),
    ):
        op.create_index(name, "delivery", [column], sqlite_where=where, postgresql_where=where)
