"""Instances are found again: by study and accession number (keyed hashes), class, rule, caller and destination."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for name, length in (("study", 32), ("accession", 32), ("view", 10), ("table", 32)):
        op.add_column("instance", sa.Column(name, sa.String(length)))
    for name, column in (("ae", "calling_ae"), ("peer", "peer"), ("class", "class"), ("rule", "rule")):
        op.create_index(f"instance_{name}", "instance", [column, "id"])
    for name in ("study", "accession"):
        known = sa.text(f"{name} IS NOT NULL")
        op.create_index(f"instance_{name}", "instance", [name, "id"], sqlite_where=known, postgresql_where=known)
    op.create_index("delivery_found", "delivery", ["destination", "state", "instance_id"])
    op.create_index("delivery_found_anywhere", "delivery", ["state", "instance_id"])
    done = sa.text("state = 'done'")
    op.create_index("delivery_done", "delivery", ["destination", "closed_at"], sqlite_where=done, postgresql_where=done)
