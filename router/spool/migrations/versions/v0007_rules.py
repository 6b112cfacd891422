"""Rules can be tried on what came: each decision keeps header facts, and the rules that decided are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("instance", sa.Column("header", sa.String))
    op.create_table(
        "rule_table",
        sa.Column("digest", sa.String(32), primary_key=True),
        sa.Column("first_used", sa.Double, nullable=False),
        sa.Column("last_used", sa.Double, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("asks", sa.String, nullable=False),
    )
    op.create_index("rule_table_used", "rule_table", ["last_used"])
