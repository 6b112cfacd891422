"""The record of who did what when; rows are only appended."""

from __future__ import annotations

import json
from collections.abc import Iterable
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


def add_events(connection: sa.Connection, kind: str, of: Iterable[tuple[str, str | None]], **detail: Any) -> None:
    """The same of many: (instance, destination) each."""
    now, text = clock.now(connection), json.dumps(detail) if detail else ""
    rows = [{"at": now, "kind": kind, "instance_id": one, "destination": to, "detail": text} for one, to in of]
    if rows:
        connection.execute(event.insert(), rows)
