"""Instances that were never asked about, by caller: so that each caller gets its share of the classifier."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    fresh = sa.text("state = 'new' AND ready_at = 0")
    op.create_index(
        "instance_fresh", "instance", ["peer", "calling_ae", "id"], sqlite_where=fresh, postgresql_where=fresh,
        if_not_exists=True,
    )  # fmt: skip
