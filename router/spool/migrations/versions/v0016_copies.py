"""Where a spool was copied to; the oldest program that may work with a database; sums of what waits, also of millions.

Of a large table PostgreSQL would remove dead rows only when a fifth of it is dead. Each delivery leaves two, each
instance four, and claims walk past them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "spool_copy",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("other", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("stamp", sa.String(64), nullable=False),
        sa.Column("progress", sa.String, nullable=False, server_default=""),
    )
    made = op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("oldest", sa.String(32), nullable=False),
    )
    op.bulk_insert(made, [{"id": 1, "oldest": revision}])
    present, waits = sa.text("state IN ('new', 'decided', 'finished')"), sa.text("state IN ('open', 'buried')")
    op.create_index("instance_present", "instance", ["state", "size"], sqlite_where=present, postgresql_where=present)
    op.create_index(
        "delivery_waits", "delivery", ["state", "destination", "owed_since"], sqlite_where=waits, postgresql_where=waits
    )
    claimed = sa.text("token > 0")
    for table in ("instance", "delivery"):
        op.create_index(f"{table}_claimed", table, ["token"], sqlite_where=claimed, postgresql_where=claimed)
    if op.get_bind().dialect.name == "postgresql":
        for table in ("instance", "delivery", "event"):
            op.execute(
                f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, "
                "autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02)"
            )
