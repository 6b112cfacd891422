"""Which of several destinations a study goes to; hours, rates and priorities of deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "study_choice",
        sa.Column("study", sa.String(32), primary_key=True),
        sa.Column("destination", sa.String, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.add_column("delivery", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("study_destination", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("destination", sa.Column("closed_until", sa.Double, nullable=False, server_default="0"))
    op.add_column("destination", sa.Column("next_send_at", sa.Double, nullable=False, server_default="0"))
