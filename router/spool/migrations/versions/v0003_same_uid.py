"""The latest instances under one UID are found without a look at all of them, however often a caller sends it."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("instance_uid", "instance")
    op.create_index("instance_uid", "instance", ["sop_instance", "id"])
