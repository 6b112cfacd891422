"""Until when a destination is paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("destination", sa.Column("pause_until", sa.Double, nullable=False, server_default="0"))
