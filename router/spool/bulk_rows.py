"""Bulk jobs in the database: their tables, and the values that are given out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from router.spool.find import Filter, Names, Result, State
from router.spool.schema import metadata

bulk_job = sa.Table(
    "bulk_job",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("ordered_at", sa.Double, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("act", sa.String(20), nullable=False),
    sa.Column("destination", sa.String, nullable=False),
    sa.Column("filter", sa.String, nullable=False),
    sa.Column("last_delivery", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("cursor", sa.String(40), nullable=False),
    sa.Column("total", sa.Integer),
    sa.Column("chosen", sa.Integer, nullable=False, server_default="0"),
    sa.Column("changed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("undone", sa.Integer, nullable=False, server_default="0"),
    sa.Column("ended_at", sa.Double),
    sa.Index("bulk_job_state", "state", "id"),
)
"""`cursor`: while the job runs, the id of the last instance that it has looked at, and it goes on with smaller ones;
while it is taken back, the number of the last change that was. `last_delivery`: later ones do not belong to it."""

bulk_change = sa.Table(
    "bulk_change",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.BigInteger, nullable=False),
    sa.Column("made_id", sa.BigInteger),
    sa.Column("closed_id", sa.BigInteger),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Index("bulk_change_of", "job_id", "id"),
)
"""What a move or a resend did: the delivery that it made, and the one that it closed, with state and reason before."""


class Act(StrEnum):
    """What a bulk job does with each delivery, or instance, that its filter finds."""

    RETRY = "retry"
    """Deliveries are owed again."""
    DISCARD = "discard"
    """Deliveries are dropped for good."""
    MOVE = "move"
    """Deliveries to `filter.to` become deliveries to another destination."""
    RESEND = "resend"
    """What was delivered to `filter.to` is delivered there once more."""
    DECIDE_AGAIN = "decide-again"
    """Instances are decided anew."""


UNDONE_BY_CANCEL = frozenset({Act.MOVE, Act.RESEND})
"""To cancel these also takes back what was not tried yet."""


class JobState(StrEnum):
    """How far a bulk job is."""

    RUNNING = "running"
    DONE = "done"
    UNDOING = "undoing"
    """It was cancelled, and what was not tried yet is taken back."""
    CANCELLED = "cancelled"


WORKING = (JobState.RUNNING, JobState.UNDOING)


@dataclass(frozen=True, slots=True)
class Job:
    """A bulk job as its row is. Times are Unix seconds."""

    id: int
    ordered_at: float
    who: str
    reason: str
    act: Act
    destination: str
    """Where a move goes; else empty."""
    filter: Filter
    last_delivery: int
    state: JobState
    cursor: str
    total: int | None
    """Deliveries (instances, for a new decision) that matched at the beginning; None until they are counted."""
    chosen: int
    """Of them, those that were looked at so far."""
    changed: int
    """Of those, the ones that were changed. The others were being sent, or had ended meanwhile."""
    undone: int
    """Changes that were taken back."""
    ended_at: float | None

    def as_json(self) -> dict[str, Any]:
        """What people and programs may see of it."""
        wanted = {name: value for name, value in asdict(self.filter).items() if value and name != "names"}
        return {
            "job": self.id, "act": str(self.act), "state": str(self.state), "ordered_at": self.ordered_at,
            "who": self.who, "reason": self.reason or None, "destination": self.destination or None, "filter": wanted,
            "total": self.total, "chosen": self.chosen, "changed": self.changed, "passed": self.chosen - self.changed,
            "undone": self.undone, "ended_at": self.ended_at,
        }  # fmt: skip


def job_of(row: Any) -> Job:
    values = dict(row._mapping)
    return Job(**values | {
        "act": Act(row.act), "state": JobState(row.state), "filter": filter_of(row._mapping["filter"]),
    })  # fmt: skip


def text_of(wanted: Filter) -> str:
    """A filter as it is kept; it must have no text."""
    assert not wanted.text
    return json.dumps(asdict(wanted))


def filter_of(text: str) -> Filter:
    values = json.loads(text)
    names, state = values["names"], values["state"]
    kept = {"names": names and Names(**names), "state": state and State(state)}
    result = values.get("result")  # jobs of earlier versions have none
    return Filter(**values | kept | {"result": result and Result(result)})
