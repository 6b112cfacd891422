"""Studies of which a destination waits for more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "gathering",
        sa.Column("destination", sa.String, primary_key=True),
        sa.Column("study", sa.String(32), primary_key=True),
        sa.Column("quiet_at", sa.Double, nullable=False),
        sa.Column("latest", sa.Double, nullable=False),
        sa.Index("gathering_quiet", "destination", "quiet_at"),
    )
