"""Studies of which all instances go to a destination, and what a delivery follows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("delivery", sa.Column("follows", sa.String(32)))
    op.create_table(
        "study_destination",
        sa.Column("study", sa.String(32), primary_key=True),
        sa.Column("destination", sa.String, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("instance_id", sa.String(32), nullable=False),
        sa.Column("rule", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("cursor", sa.String(32)),
    )
    is_behind = sa.text("cursor IS NOT NULL")
    op.create_index(
        "study_destination_work", "study_destination", ["cursor"], sqlite_where=is_behind, postgresql_where=is_behind
    )
