"""The tables, and what their columns mean. How rows change stands with the part of the spool that changes them.

`ready_at` says from when a row may be claimed: 0 for new work, the time of the next try for work that failed, and the
end of the claim for work that is claimed. An instance that was asked about and not answered is never 0 again: it goes
before new work. `token` is the number of the claim, 0 for none: only the updates of the one that made it match.

The tables of storage commitment are in `commitment_rows`, those of several nodes in `node_rows`. A new column: here, in
a new file of `migrations/versions`, and at the same place in the value of `rows` that gives it out (tests compare the
three).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

BATCH = 500
"""Rows that one change may touch."""

SHADOW_PREDICTION = "shadow prediction"
"""The kind of the event that says what the serving and the shadow model said of one instance."""

URGENT, NORMAL = -1, 0
"""`delivery.priority`; the less, the sooner it goes."""

FOR_GOOD = 1e18
"""`ready_at` of a claim that ends with the start that made it (SQLite: the folder's lock says that it has ended)."""

_FRESH = sa.text("state = 'new' AND ready_at = 0")
"""Written out and not bound: a database uses this index only if a statement has the same text."""
_IS_DONE = sa.text("state = 'done'")
_IS_BEHIND = sa.text("cursor IS NOT NULL")
_IS_PRESENT = sa.text("state IN ('new', 'decided', 'finished')")
_WAITS = sa.text("state IN ('open', 'buried')")
_IS_CLAIMED = sa.text("token > 0")
_IS_AWAITED, _IS_MISSING = sa.text("result_due IS NOT NULL"), sa.text("result_missing_at IS NOT NULL")
_HAS_STUDY, _HAS_ACCESSION = sa.text("study IS NOT NULL"), sa.text("accession IS NOT NULL")

instance = sa.Table(
    "instance",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("calling_ae", sa.String, nullable=False),
    sa.Column("called_ae", sa.String, nullable=False),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("sop_class", sa.String(64), nullable=False),
    sa.Column("sop_instance", sa.String(64), nullable=False),
    sa.Column("transfer_syntax", sa.String(64), nullable=False),
    sa.Column("offset", sa.Integer, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(32), nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("decided_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("pixels", sa.String(12)),
    sa.Column("why_no_prediction", sa.String),
    sa.Column("top", sa.String(20)),
    sa.Column("class", sa.String(20)),
    sa.Column("confidence", sa.Double),
    sa.Column("probabilities", sa.String),
    sa.Column("novelty", sa.Double),
    sa.Column("novel", sa.Boolean),
    sa.Column("model", sa.String(64)),
    sa.Column("facts", sa.String),
    sa.Column("rule", sa.String),
    sa.Column("reason", sa.String),
    sa.Column("destinations", sa.String),
    sa.Column("shadow", sa.String),
    sa.Column("study", sa.String(32)),
    sa.Column("accession", sa.String(32)),
    sa.Column("view", sa.String(10)),
    sa.Column("table", sa.String(32)),
    sa.Column("header", sa.String),
    sa.Index("instance_study", "study", "id", sqlite_where=_HAS_STUDY, postgresql_where=_HAS_STUDY),
    sa.Index("instance_accession", "accession", "id", sqlite_where=_HAS_ACCESSION, postgresql_where=_HAS_ACCESSION),
    sa.Index("instance_class", "class", "id"),
    sa.Index("instance_rule", "rule", "id"),
    sa.Index("instance_ae", "calling_ae", "id"),
    sa.Index("instance_peer", "peer", "id"),
    sa.Index("instance_work", "state", "ready_at", "id"),
    sa.Index("instance_fresh", "peer", "calling_ae", "id", sqlite_where=_FRESH, postgresql_where=_FRESH),
    sa.Index("instance_finished", "state", "finished_at"),
    sa.Index("instance_uid", "sop_instance", "id"),
    sa.Index("instance_claimed", "token", sqlite_where=_IS_CLAIMED, postgresql_where=_IS_CLAIMED),
    sa.Index("instance_present", "state", "size", sqlite_where=_IS_PRESENT, postgresql_where=_IS_PRESENT),
)
"""`study` and `accession` are keyed hashes (`keyed`): what a person looks for is hashed and compared. `table` is the
digest of the rules that decided. `header` holds what the decision kept of the header (`header_facts`), in JSON."""

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("instance_id", sa.String(32), sa.ForeignKey("instance.id"), nullable=False),
    sa.Column("destination", sa.String, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("buriable_tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("owed_since", sa.Double, nullable=False),
    sa.Column("stood_still", sa.Double, nullable=False, server_default="0"),
    sa.Column("closed_at", sa.Double),
    sa.Column("status", sa.Integer),
    sa.Column("reason", sa.String),
    sa.Column("follows", sa.String(32)),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("result_due", sa.Double),
    sa.Column("result_missing_at", sa.Double),
    sa.Index("delivery_work", "destination", "state", "ready_at", "id"),
    sa.Index("delivery_instance", "instance_id", "state", "destination"),
    sa.Index("delivery_state", "state", "id"),
    sa.Index("delivery_found", "destination", "state", "instance_id"),
    sa.Index("delivery_found_anywhere", "state", "instance_id"),
    sa.Index("delivery_claimed", "token", sqlite_where=_IS_CLAIMED, postgresql_where=_IS_CLAIMED),
    sa.Index("delivery_waits", "state", "destination", "owed_since", sqlite_where=_WAITS, postgresql_where=_WAITS),
    sa.Index("delivery_done", "destination", "closed_at", sqlite_where=_IS_DONE, postgresql_where=_IS_DONE),
    sa.Index("delivery_result_due", "result_due", sqlite_where=_IS_AWAITED, postgresql_where=_IS_AWAITED),
    sa.Index("delivery_missing", "result_missing_at", sqlite_where=_IS_MISSING, postgresql_where=_IS_MISSING),
    sa.Index("delivery_missing_of", "instance_id", sqlite_where=_IS_MISSING, postgresql_where=_IS_MISSING),
)
"""`follows`: the instance of the same study that this one follows to the destination; NULL for what its own decision,
or a person, sends there. `priority`: URGENT or NORMAL, and the `ready_at` of new work. `result_due`: until when a
result is waited for, NULL if none is. `result_missing_at`: since when it is missing; NULL again if it comes late."""

result = sa.Table(
    "result",
    metadata,
    sa.Column("result_id", sa.String(32), primary_key=True),
    sa.Column("delivery_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("instance_id", sa.String(32), nullable=False),
    sa.Column("destination", sa.String, nullable=False),
    sa.Column("study", sa.String(32)),
    sa.Column("how", sa.String(10), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("result_delivery", "delivery_id"),
    sa.Index("result_instance", "instance_id"),
    sa.Index("result_study", "destination", "study", "at"),
    sa.Index("result_at", "at"),
)
"""Which instance, `result_id`, answers which delivery, of `instance_id` to `destination`, and `how` that is known.
`at`: when the result came. `study`: its own."""

study_destination = sa.Table(
    "study_destination",
    metadata,
    sa.Column("study", sa.String(32), primary_key=True),
    sa.Column("destination", sa.String, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("instance_id", sa.String(32), nullable=False),
    sa.Column("rule", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("cursor", sa.String(32)),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Index("study_destination_work", "cursor", sqlite_where=_IS_BEHIND, postgresql_where=_IS_BEHIND),
)
"""Where the instances of a study follow one of them: `instance_id`, which `rule` sent there, or the person `who`.
`cursor`: instances with a smaller id are still to be looked at; NULL when all that were decided before have followed.
"""

gathering = sa.Table(
    "gathering",
    metadata,
    sa.Column("destination", sa.String, primary_key=True),
    sa.Column("study", sa.String(32), primary_key=True),
    sa.Column("quiet_at", sa.Double, nullable=False),
    sa.Column("latest", sa.Double, nullable=False),
    sa.Index("gathering_quiet", "destination", "quiet_at"),
)
"""Studies of which a destination waits for more: until `quiet_at` if nothing comes, and no longer than `latest`."""

study_choice = sa.Table(
    "study_choice",
    metadata,
    sa.Column("study", sa.String(32), primary_key=True),
    sa.Column("destination", sa.String, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)
"""Which of several destinations a study goes to; of several that may be meant, the latest."""

destination = sa.Table(
    "destination",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("circuit_until", sa.Double, nullable=False, server_default="0"),
    sa.Column("circuit_failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("circuit_reason", sa.String, nullable=False, server_default=""),
    sa.Column("still_since", sa.Double, nullable=False, server_default="0"),
    sa.Column("stood_still", sa.Double, nullable=False, server_default="0"),
    sa.Column("pause_until", sa.Double, nullable=False, server_default="0"),
    sa.Column("probe_until", sa.Double, nullable=False, server_default="0"),
    sa.Column("closed_until", sa.Double, nullable=False, server_default="0"),
    sa.Column("next_send_at", sa.Double, nullable=False, server_default="0"),
)
"""A pause ends by itself at `pause_until`, a time of the wall clock (0: only a person ends it). Until `probe_until` one
of several nodes probes an open circuit. `closed_until`: outside of its hours, and until when.
`next_send_at`: from when the next delivery keeps to its `limit_rate`.
`stood_still` adds up the seconds during which nothing was tried (paused, circuit open, closed) before `still_since`,
the begin of the present such time (0: none). They do not count towards giving up."""

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("instance_id", sa.String(32)),
    sa.Column("destination", sa.String),
    sa.Column("detail", sa.String, nullable=False, server_default=""),
    sa.Index("event_instance", "instance_id", "id"),
    sa.Index("event_kind", "kind", "id"),
    sa.Index("event_at", "at"),
)

owner = sa.Table(
    "owner",
    metadata,
    sa.Column("start", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
)
"""One row for every start of a node on this spool: its number is the high half of that start's tokens."""

heartbeat = sa.Table(
    "heartbeat",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("skipped", sa.Double, nullable=False),
)
"""One row: when a running node last looked at the clock, and the seconds that do not count (`steady`)."""

jump = sa.Table(
    "clock_jump",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
)
"""Each span that does not count: what the clock said after it, and by how many seconds it had jumped."""

rule_table = sa.Table(
    "rule_table",
    metadata,
    sa.Column("digest", sa.String(32), primary_key=True),
    sa.Column("first_used", sa.Double, nullable=False),
    sa.Column("last_used", sa.Double, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("asks", sa.String, nullable=False),
    sa.Column("applied_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("author", sa.String, nullable=False, server_default=""),
    sa.Column("comment", sa.String, nullable=False, server_default=""),
    sa.Column("replaced", sa.String(32), nullable=False, server_default=""),
    sa.Column("source", sa.String, nullable=False, server_default=""),
    sa.Index("rule_table_used", "last_used"),
)
"""The rules that have decided or that an order put in force, as they were written, and what they ask of a header (both
JSON). `last_used` is noted once an hour. Times are Unix seconds. Of the latest such order: when, by whom and why, which
rules they replaced (a digest), and the lines of routing.yaml, with their comments."""

identity = sa.Table("spool", metadata, sa.Column("id", sa.String(32), primary_key=True))
"""One row: which spool this is. A file in the folder with the blobs says the same (PostgreSQL)."""


def is_claimed(table: sa.Table, state: str) -> sa.ColumnElement[bool]:
    """Rows of a state that are claimed. By the index of claimed rows, and not by that of states: a start must not look
    at all that waits."""
    return sa.and_(sa.text(f"{table.name}.token > 0"), table.c.state.concat("") == state)


def parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """A database takes only so many parameters at once."""
    return (values[at : at + BATCH] for at in range(0, len(values), BATCH))
