"""Requests for storage commitment, as the room `commitment` works on them. Their rows are in `commitment_rows`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import sqlalchemy as sa

from router.flow import Caller
from router.spool import clock, commitment_rows
from router.spool.commitment_rows import Due, Outcome, Pending, Place, Worker, reference
from router.spool.database import Database
from router.spool.schema import parts
from router.spool.signals import COMMITMENTS
from router.spool.states import CommitmentState


def _wakes(_: object) -> tuple[str]:
    return (COMMITMENTS,)


class Commitments:
    """What `commitment` asks of the spool. All methods raise SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, caller: Caller, transaction: str, references: Sequence[tuple[str, str]], seconds: float,
        *, reported_here: bool = False,
    ) -> int | None:  # fmt: skip
        """Add a request durably. Returns its id, or that of the open request that it repeats. None: too many.

        One change writes only so many references: those who store share its commit, and must not wait.

        `reported_here`: the report goes back on the caller's association, which this node holds.
        """
        held_by = self._database.start if reported_here and not self._database.is_sqlite else 0
        if not self._database.ask(lambda c: commitment_rows.has_room(c, caller, len(references))):
            return None
        number, has_more = self._database.run(
            lambda c: commitment_rows.begin(c, caller, transaction, references, seconds, held_by), _wakes
        )
        if number is not None and has_more:
            number = self._complete(number, caller, transaction, references, held_by)
        self._database.signals.set(COMMITMENTS)
        return number

    def _complete(
        self, number: int, caller: Caller, transaction: str, references: Sequence[tuple[str, str]], held_by: int
    ) -> int | None:
        _, *others = parts(references)
        for some in others:
            self._database.run(partial(commitment_rows.refer, number=number, references=some))
        return self._database.run(lambda c: commitment_rows.complete(c, number, caller, transaction, held_by), _wakes)

    def claim(self, but: Collection[str], *, asks: bool = True) -> Due | None:
        """The commitment that has been due for longest, unless its caller's AE title is among `but`.

        Of a node that does not ask archives: only what it alone can report.
        """
        token, worker = self._database.new_token(), self._worker(asks)
        return self._database.run(lambda c: commitment_rows.claim(c, but, token, worker))

    def next_due(self, but: Collection[str], *, asks: bool = True) -> float | None:
        """The time by the database's clock when `claim` may find something. None: there is nothing."""
        worker = self._worker(asks)
        return self._database.ask(lambda c: commitment_rows.next_due(c, but, worker))

    def _worker(self, asks: bool) -> Worker:
        return Worker(0 if self._database.is_sqlite else self._database.start, asks)

    def now(self) -> float:
        """Unix time by the database's clock."""
        return self._database.ask(clock.now)

    def pending(self, due: Due) -> list[Pending]:
        """The references that have no outcome."""
        query = sa.select(reference).where(reference.c.commitment_id == due.id, reference.c.outcome.is_(None))
        rows = self._database.ask(lambda c: list(c.execute(query.order_by(reference.c.id))))
        return [Pending(row.id, row.sop_class, row.sop_instance, row.asked_uid, row.asked_at) for row in rows]

    def outcomes(self, due: Due) -> list[Outcome]:
        """The outcomes of all references. Only when each has one."""
        query = sa.select(reference).where(reference.c.commitment_id == due.id).order_by(reference.c.id)
        return self._database.ask(
            lambda c: [Outcome((r.sop_class, r.sop_instance), int(r.outcome)) for r in c.execute(query)]
        )

    def places(self, uids: Sequence[str]) -> dict[str, list[Place]]:
        """The instances with each UID."""
        found: dict[str, list[Place]] = {}
        for part in parts(uids):
            for place in self._database.ask(partial(commitment_rows.places, uids=part)):
                found.setdefault(place.sop_instance, []).append(place)
        return found

    def set_outcomes(self, outcomes: Mapping[int, int]) -> None:
        """Set outcomes by reference id. A reference that has one keeps it."""
        for some in parts(list(outcomes.items())):
            self._database.run(partial(commitment_rows.set_outcomes, outcomes=some))

    def asked(self, ids: Sequence[int], destination: str, uid: str) -> None:
        """Note that an archive is about to be asked for these, under a transaction UID of this node."""

        def change(connection: sa.Connection, some: Sequence[int]) -> None:
            values = {"destination": destination, "asked_uid": uid, "asked_at": clock.now(connection)}
            connection.execute(reference.update().where(reference.c.id.in_(some)).values(**values))

        for some in parts(ids):
            self._database.run(partial(change, some=some))

    def not_asked(self, uid: str) -> None:
        """Note that the archive has probably not taken the request. If it answers all the same, the answer counts."""
        query = reference.update().where(reference.c.asked_uid == uid).values(asked_at=None)
        self._database.run(lambda c: c.execute(query) and None)

    def answer(
        self, destinations: Collection[str], uid: str, good: Collection[tuple[str, str]],
        failed: Mapping[tuple[str, str], int], otherwise: int,
    ) -> bool:  # fmt: skip
        """Note what an archive said about everything asked under `uid`. Returns False if it was asked nothing."""
        asked = self._database.ask(lambda c: commitment_rows.asked_under(c, destinations, uid))
        well = frozenset(good)
        self.set_outcomes({
            one.id: failed[one.reference] or otherwise if one.reference in failed
            else 0 if one.reference in well else otherwise
            for one in asked
        })  # fmt: skip
        if asked:
            self._database.run(lambda c: commitment_rows.is_due(c, asked[0].commitment), _wakes)
        self._database.signals.set(COMMITMENTS)
        return bool(asked)

    def is_answered(self, uid: str) -> bool:
        """Whether everything asked under a transaction UID of this node has its outcome."""
        waits = sa.exists().where(reference.c.asked_uid == uid, reference.c.outcome.is_(None))
        return not self._database.ask(lambda c: c.execute(sa.select(waits)).scalar_one())

    def release(self, due: Due, after: float, *, state: CommitmentState = CommitmentState.OPEN, tries: int) -> None:
        """Owe it again after so many seconds, or at once if the last answer came meanwhile."""
        self._database.run(lambda c: commitment_rows.release(c, due, after, state, tries))

    def close(self, due: Due, state: CommitmentState) -> None:
        """DONE or GIVEN_UP."""
        assert state in (CommitmentState.DONE, CommitmentState.GIVEN_UP)

        def change(connection: sa.Connection) -> None:
            values = {"state": state, "token": 0, "ready_at": 0, "closed_at": clock.now(connection)}
            connection.execute(commitment_rows.still_claimed(due).values(**values))

        self._database.run(change)
