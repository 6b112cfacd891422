"""Users of the page, and their sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "web_user",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("roles", sa.String, nullable=False),
        sa.Column("password", sa.String),
        sa.Column("changed_at", sa.Double, nullable=False),
    )
    op.create_table(
        "web_session",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(64), sa.ForeignKey("web_user.name"), nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
    )
    op.create_index("web_session_user", "web_session", ["user", "began_at"])
    op.create_index("web_session_used", "web_session", ["used_at"])
