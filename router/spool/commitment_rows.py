"""Requests for storage commitment in the database: tables, and how their rows change.

Work on a request is claimed for a limited time, and each step of it is shorter than that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from router.flow import Caller
from router.spool import clock
from router.spool.node_rows import is_there
from router.spool.schema import BATCH, delivery, instance, metadata, parts
from router.spool.states import CommitmentState, DeliveryState, InstanceState

WORKING = (CommitmentState.OPEN, CommitmentState.ANSWERED)
"""The states in which there is something to do."""
CLAIM_LASTS = 300.0
"""Seconds that a claim lasts. When a node starts alone on a spool, all claims end."""
MOST_OPEN, MOST_OF_ONE = 1000, 250
"""The most open requests, of all callers and of one. So one caller cannot take the places of all others."""
MOST_REFERENCES, MOST_REFERENCES_OF_ONE = 1_000_000, 250_000
"""The most references of such requests, and of those closed less than REFERENCES_KEPT ago. A request may have 10,000.
Each reference takes some 300 bytes of the database, so all of them take some 300 MB."""
REFERENCES_KEPT = 3600.0
"""Seconds for which references are kept once their request is closed: an archive may repeat its answer."""
SAME_UID = 16
"""How many instances of one UID are looked at, on average: the newest."""

commitment = sa.Table(
    "commitment",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("transaction_uid", sa.String(64), nullable=False),
    sa.Column("calling_ae", sa.String, nullable=False),
    sa.Column("called_ae", sa.String, nullable=False),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("ready_at", sa.Double, nullable=False, server_default="0"),
    sa.Column("token", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deadline", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double),
    sa.Column("held_by", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("commitment_work", "state", "ready_at", "id"),
    sa.Index("commitment_closed", "closed_at"),
)
"""`held_by` is the start of the node that holds the association on which the report must go back; 0: any node may send
it."""

reference = sa.Table(
    "commitment_reference",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("commitment_id", sa.BigInteger, sa.ForeignKey("commitment.id"), nullable=False),
    sa.Column("sop_class", sa.String(64), nullable=False),
    sa.Column("sop_instance", sa.String(64), nullable=False),
    sa.Column("outcome", sa.Integer),
    sa.Column("destination", sa.String),
    sa.Column("asked_uid", sa.String(64)),
    sa.Column("asked_at", sa.Double),
    sa.Index("commitment_reference_of", "commitment_id", "id"),
    sa.Index("commitment_reference_asked", "asked_uid"),
)
"""`outcome`: none yet, 0 for committed by the archive, else a failure reason (PS3.3 §C.14). `asked_uid` is the
node's own transaction UID with the archive `destination`. `asked_at` is none if the archive must be asked (again)."""


@dataclass(frozen=True, slots=True)
class Due:
    """A commitment that was claimed just now."""

    id: int
    token: int
    transaction: str
    caller: Caller
    is_answered: bool
    tries: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Pending:
    """A reference that has no outcome yet; `asked_at`: when an archive was asked under `asked_uid` (Unix seconds)."""

    id: int
    sop_class: str
    sop_instance: str
    asked_uid: str | None
    asked_at: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A reference that an archive was asked about: SOP class and SOP instance UID."""

    id: int
    commitment: int
    reference: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reference (SOP class and SOP instance UID), and 0 for committed or else a failure reason (PS3.3 §C.14)."""

    reference: tuple[str, str]
    reason: int


@dataclass(frozen=True, slots=True)
class Place:
    """An instance with a referenced UID, newest first, and the states of its deliveries by destination."""

    sop_class: str
    sop_instance: str
    calling_ae: str
    digest: str
    is_decided: bool
    deliveries: Mapping[str, frozenset[DeliveryState]]


def free_claims(connection: sa.Connection) -> None:
    """End all claims, and let archives be asked again: their answer may have come while no node ran."""
    connection.execute(commitment.update().where(commitment.c.state.in_(WORKING)).values(ready_at=0, token=0))
    still_open = sa.select(commitment.c.id).where(commitment.c.state == CommitmentState.OPEN)
    unanswered = reference.c.commitment_id.in_(still_open) & reference.c.outcome.is_(None)
    connection.execute(reference.update().where(unanswered, reference.c.asked_at.is_not(None)).values(asked_at=None))


def clock_was_set(connection: sa.Connection, seconds: float) -> None:
    """Move deadlines, and the times at which archives were asked, with the clock."""
    now = clock.now(connection)
    works = commitment.c.state.in_(WORKING)
    connection.execute(commitment.update().where(works).values(deadline=commitment.c.deadline + seconds))
    before = reference.c.asked_at <= now - seconds if seconds > 0 else reference.c.asked_at > now
    asked = reference.c.commitment_id.in_(sa.select(commitment.c.id).where(works)) & before
    connection.execute(reference.update().where(asked).values(asked_at=reference.c.asked_at + seconds))
    waits = works & (
        commitment.c.ready_at > now + CLAIM_LASTS
    )  # no claim and no pause is longer, so these are from before
    connection.execute(commitment.update().where(waits).values(ready_at=commitment.c.ready_at + seconds))


def forget(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove what was closed before, and has no references any more; returns how many."""
    bare = ~sa.exists().where(reference.c.commitment_id == commitment.c.id)
    old = sa.select(commitment.c.id).where(commitment.c.closed_at < before, bare).limit(limit)
    ids = list(connection.execute(old).scalars())
    connection.execute(commitment.delete().where(commitment.c.id.in_(ids)))
    return len(ids)


def forget_references(connection: sa.Connection, after: float, before: float) -> tuple[int, float]:
    """Remove at most BATCH references of requests that were closed in this span. Returns how many, and up to when none
    are left."""
    closed = commitment.c.closed_at
    some = sa.select(commitment.c.id, closed).where(closed > after, closed < before).order_by(closed).limit(BATCH)
    rows = list(connection.execute(some))
    mine = sa.select(reference.c.id).where(reference.c.commitment_id.in_([row.id for row in rows])).limit(BATCH)
    removed = connection.execute(reference.delete().where(reference.c.id.in_(mine))).rowcount
    return removed, rows[-1].closed_at if rows and removed < BATCH else after


def has_room(connection: sa.Connection, caller: Caller, more: int) -> bool:
    """Whether so many references more can be kept. It counts for a while, so ask on a connection that only reads."""
    since = clock.now(connection) - REFERENCES_KEPT
    for of_one, most in ((True, MOST_REFERENCES_OF_ONE), (False, MOST_REFERENCES)):
        mine = [commitment.c.calling_ae == caller.calling_ae] if of_one else []
        of_open = sa.select(commitment.c.id).where(commitment.c.state.in_(WORKING), *mine)
        of_closed = sa.select(commitment.c.id).where(commitment.c.closed_at > since, *mine)
        kept = reference.c.commitment_id.in_(of_open.union_all(of_closed))
        found = sa.select(reference.c.id).where(kept).limit(most + 1).subquery()
        if connection.execute(sa.select(sa.func.count()).select_from(found)).scalar_one() + more > most:
            return False
    return True


def begin(
    connection: sa.Connection, caller: Caller, transaction: str, references: Sequence[tuple[str, str]], seconds: float,
    held_by: int = 0,
) -> tuple[int | None, bool]:  # fmt: skip
    """Add a request, to be answered within so many seconds, with its first BATCH references.

    Returns its id, or that of the open request that it repeats, or None if there are too many; and whether it has more
    references. Then `refer` adds them, and `complete` makes it one to work on.
    """
    known, is_full = _known_or_full(connection, caller, transaction, held_by)
    if known is not None or is_full:
        return known, False
    now, has_more = clock.now(connection), len(references) > BATCH
    values = {
        "transaction_uid": transaction, "calling_ae": caller.calling_ae, "called_ae": caller.called_ae,
        "peer": caller.peer, "state": CommitmentState.ARRIVING if has_more else CommitmentState.OPEN,
        "deadline": now + seconds, "held_by": held_by, "closed_at": now if has_more else None,
    }  # fmt: skip
    new = int(connection.execute(commitment.insert().values(**values).returning(commitment.c.id)).scalar_one())
    refer(connection, new, references[:BATCH])
    return new, has_more


def refer(connection: sa.Connection, number: int, references: Sequence[tuple[str, str]]) -> None:
    rows = [{"commitment_id": number, "sop_class": sop_class, "sop_instance": uid} for sop_class, uid in references]
    connection.execute(reference.insert(), rows)


def complete(connection: sa.Connection, number: int, caller: Caller, transaction: str, held_by: int) -> int | None:
    """All its references are there. Returns as `begin`: others may have come meanwhile."""
    known, is_full = _known_or_full(connection, caller, transaction, held_by)
    if known is not None or is_full:
        return known
    mine = commitment.update().where(commitment.c.id == number)
    connection.execute(mine.values(state=CommitmentState.OPEN, closed_at=None))
    return number


def _known_or_full(
    connection: sa.Connection, caller: Caller, transaction: str, held_by: int
) -> tuple[int | None, bool]:
    """The open request with the same transaction UID, and whether there are too many requests."""
    is_open = commitment.c.state.in_(WORKING)
    same = sa.select(commitment.c.id).where(
        is_open, commitment.c.transaction_uid == transaction, commitment.c.calling_ae == caller.calling_ae
    )
    if (known := connection.execute(same).scalar()) is not None:
        connection.execute(commitment.update().where(commitment.c.id == known).values(held_by=held_by))
        return int(known), False
    mine = sa.func.count().filter(commitment.c.calling_ae == caller.calling_ae)
    everybody, own = connection.execute(sa.select(sa.func.count(), mine).where(is_open)).one()
    return None, everybody >= MOST_OPEN or own >= MOST_OF_ONE


@dataclass(frozen=True, slots=True)
class Worker:
    """Who works on commitments: the start of its node (0: it is the only node), and whether it asks archives.

    A node that does not ask sends the reports that must go back on an association of its own.
    """

    start: int = 0
    asks: bool = True


ALONE = Worker()
"""The worker of the only node."""


def _for(worker: Worker, but: Collection[str], now: float) -> list[sa.ColumnElement[bool]]:
    """What is there for a worker, unless its caller's AE title is among `but`."""
    working: list[sa.ColumnElement[bool]] = [commitment.c.state.in_(WORKING), commitment.c.calling_ae.not_in(but)]
    if not worker.start:
        return working
    is_answered = commitment.c.state == CommitmentState.ANSWERED
    own = is_answered & (commitment.c.held_by == worker.start)
    others = is_answered & is_there(commitment.c.held_by, now)
    return [*working, own | ~others if worker.asks else own]


def next_due(connection: sa.Connection, but: Collection[str], worker: Worker) -> float | None:
    """The time when `claim` may find something. None: there is nothing."""
    wanted = _for(worker, but, clock.now(connection) if worker.start else 0.0)
    return connection.execute(sa.select(sa.func.min(commitment.c.ready_at)).where(*wanted)).scalar()


def claim(connection: sa.Connection, but: Collection[str], token: int, worker: Worker = ALONE) -> Due | None:
    now = clock.now(connection)
    due = (
        sa.select(commitment.c.id)
        .where(*_for(worker, but, now), commitment.c.ready_at <= now)
        .order_by(commitment.c.ready_at, commitment.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    take = commitment.update().where(commitment.c.id == due).values(token=token, ready_at=now + CLAIM_LASTS)
    row = connection.execute(take.returning(*commitment.c)).one_or_none()
    if row is None:
        return None
    caller = Caller(row.calling_ae, row.called_ae, row.peer)
    return Due(
        row.id, token, row.transaction_uid, caller, row.state == CommitmentState.ANSWERED, row.tries, row.deadline
    )


def places(connection: sa.Connection, uids: Sequence[str]) -> list[Place]:
    newest = (
        sa.select(instance).where(instance.c.sop_instance.in_(uids)).order_by(instance.c.id.desc())
        .limit(SAME_UID * len(uids))
    )  # fmt: skip
    rows = list(connection.execute(newest))
    states: dict[str, dict[str, set[DeliveryState]]] = {}
    for part in parts([row.id for row in rows]):
        for one in connection.execute(sa.select(delivery).where(delivery.c.instance_id.in_(part))):
            states.setdefault(one.instance_id, {}).setdefault(one.destination, set()).add(DeliveryState(one.state))
    return [
        Place(
            row.sop_class, row.sop_instance, row.calling_ae, row.digest, row.state != InstanceState.NEW,
            {to: frozenset(found) for to, found in states.get(row.id, {}).items()},
        )
        for row in rows
    ]  # fmt: skip


def asked_under(connection: sa.Connection, destinations: Collection[str], uid: str) -> list[Asked]:
    """What these archives were asked under a transaction UID of this node."""
    query = sa.select(reference).where(reference.c.asked_uid == uid, reference.c.destination.in_(destinations))
    return [Asked(r.id, r.commitment_id, (r.sop_class, r.sop_instance)) for r in connection.execute(query)]


def set_outcomes(connection: sa.Connection, outcomes: Sequence[tuple[int, int]]) -> None:
    """Set outcomes by reference id. A reference that has one keeps it."""
    query = reference.update().where(reference.c.id == sa.bindparam("which"), reference.c.outcome.is_(None))
    rows = [{"which": number, "end": outcome} for number, outcome in outcomes]
    connection.execute(query.values(outcome=sa.bindparam("end")), rows)


def is_due(connection: sa.Connection, number: int) -> None:
    """There is something new about a commitment. If it is claimed, `release` sees it."""
    free = commitment.update().where(commitment.c.id == number, commitment.c.token == 0)
    connection.execute(free.values(ready_at=0))


def still_claimed(due: Due) -> sa.Update:
    """An update of the commitment that does nothing if its claim was lost."""
    return commitment.update().where(commitment.c.id == due.id, commitment.c.token == due.token)


def release(connection: sa.Connection, due: Due, after: float, state: CommitmentState, tries: int) -> None:
    waits = sa.exists().where(reference.c.commitment_id == due.id, reference.c.outcome.is_(None))
    at_once = state == CommitmentState.OPEN and not connection.execute(sa.select(waits)).scalar_one()
    ready_at = 0.0 if at_once or not after else clock.now(connection) + after
    connection.execute(still_claimed(due).values(state=state, token=0, ready_at=ready_at, tries=tries))
