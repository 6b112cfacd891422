"""Questions that more than one part of the spool asks. Nothing here changes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from router.spool import clock
from router.spool.rows import MISSING_WITHIN, Counts
from router.spool.schema import delivery, instance
from router.spool.states import DeliveryState, InstanceState

_name = sa.func.coalesce(delivery.c.destination, "")
"""So that no planner reads the index of the destinations to group by it."""
_MISSING = (
    sa.select(_name.label("destination"), sa.func.count().label("n"))
    .where(sa.text("delivery.result_missing_at IS NOT NULL"), delivery.c.result_missing_at >= sa.bindparam("since"))
    .group_by(_name)
)
AT_ONCE = 10_000
"""Rows of a long answer that are in memory at once."""
Fingerprint = tuple[int, int]
"""Of a set of ids: their number, and the sum of their hashes (in this process)."""


def seconds_until(connection: sa.Connection, at: float | None) -> float | None:
    """Seconds from now by the database's clock, which may differ from this machine's."""
    return None if at is None else float(at) - clock.now(connection)


def counts(connection: sa.Connection) -> Counts:
    """Open work. The bytes of blobs and copies are left at zero here."""
    new = instance.c.state == InstanceState.NEW
    undecided, first = connection.execute(sa.select(sa.func.count(), sa.func.min(instance.c.id)).where(new)).one()
    received = sa.select(instance.c.received_at).where(instance.c.id == first)
    since = connection.execute(received).scalar() if first else None
    rows = connection.execute(
        sa.select(
            delivery.c.destination, delivery.c.state, sa.func.count().label("n"),
            sa.func.min(delivery.c.owed_since).label("oldest"),
        )
        .where(sa.text("delivery.state IN ('open', 'buried')"))  # as the index `delivery_waits` says it
        .group_by(delivery.c.destination, delivery.c.state)
    ).all()  # fmt: skip
    missing = connection.execute(_MISSING, {"since": clock.now(connection) - MISSING_WITHIN}).all()
    return Counts(
        missing={row.destination: row.n for row in missing},
        undecided=undecided,
        oldest_undecided=since or 0.0,
        open={row.destination: row.n for row in rows if row.state == DeliveryState.OPEN},
        buried={row.destination: row.n for row in rows if row.state == DeliveryState.BURIED},
        oldest={row.destination: row.oldest for row in rows if row.state == DeliveryState.OPEN},
    )


def bytes_of_blobs(connection: sa.Connection) -> int:
    """The bytes of all present blobs, as their rows say."""
    present = sa.text("instance.state IN ('new', 'decided', 'finished')")  # as the index `instance_present` says it
    query = sa.select(sa.func.coalesce(sa.func.sum(instance.c.size), 0)).where(present)
    return int(connection.execute(query).scalar_one())


def states(connection: sa.Connection, ids: Sequence[str]) -> dict[str, InstanceState]:
    """The state of each of these ids that has a row."""
    query = sa.select(instance.c.id, instance.c.state).where(instance.c.id.in_(ids))
    return {row.id: InstanceState(row.state) for row in connection.execute(query)}


def present(connection: sa.Connection) -> Fingerprint:
    """The instances whose blob must be there."""
    number = total = 0
    for some in _present_ids(connection):
        number += len(some)
        total += sum(map(hash, some))
    return number, total


def present_by_folder(connection: sa.Connection) -> dict[str, Fingerprint]:
    """The same for each folder of blobs."""
    found: dict[str, Fingerprint] = {}
    for some in _present_ids(connection):
        for one in some:
            number, total = found.get(one[-2:], (0, 0))
            found[one[-2:]] = number + 1, total + hash(one)
    return found


def _present_ids(connection: sa.Connection) -> Iterator[Sequence[str]]:
    """In parts. The index `instance_work` has the ids, so that no row is read."""
    is_present = instance.c.state.in_((InstanceState.NEW, InstanceState.DECIDED, InstanceState.FINISHED))
    query = sa.select(instance.c.id).where(is_present).execution_options(yield_per=AT_ONCE)
    return connection.execute(query).scalars().partitions()


_ASKED = {
    "sqlite": "SELECT value AS id FROM json_each(:ids)",
    "postgresql": "SELECT value AS id FROM json_array_elements_text(CAST(:ids AS json)) AS value",
}
"""A list of ids as rows. As one parameter it takes no longer to prepare for five thousand than for one."""


def unneeded(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    """Those of these ids whose blob nobody needs: they have no row, or the blob has gone."""
    query = sa.text(
        f"SELECT asked.id FROM ({_ASKED[connection.dialect.name]}) AS asked "  # noqa: S608 - a constant
        "LEFT JOIN instance ON instance.id = asked.id WHERE instance.state IS NULL OR instance.state = 'gone'"
    )
    return set(connection.execute(query, {"ids": json.dumps(ids)}).scalars())


def existing(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    """Those of these ids whose blob must be there."""
    query = sa.select(instance.c.id).where(instance.c.id.in_(ids), instance.c.state != InstanceState.GONE)
    return set(connection.execute(query).scalars())
