"""The record of who did what when; rows are only appended."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from router.spool import clock
from router.spool.schema import event


def add_event(
    connection: sa.Connection, kind: str, instance_id: str | None = None, to: str | None = None, **detail: Any
) -> None:
    """`detail` never has a patient or study value."""
    connection.execute(
        event.insert().values(
            at=clock.now(connection), kind=kind, instance_id=instance_id, destination=to,
            detail=json.dumps(detail) if detail else "",
        )
    )  # fmt: skip
