"""Who put rules in force, when and why, and how they were written in routing.yaml."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("rule_table", sa.Column("applied_at", sa.Double, nullable=False, server_default="0"))
    for name, kind in (
        ("author", sa.String()), ("comment", sa.String()), ("replaced", sa.String(32)), ("source", sa.String()),
    ):  # fmt: skip
        op.add_column("rule_table", sa.Column(name, kind, nullable=False, server_default=""))
