"""What the stage of storage commitment calls; the rows are those of `commitment_rows`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from router.flow import Caller
from router.spool import clock, commitment_rows
from router.spool.commitment_rows import WORKING, Due, Place, commitment, reference
from router.spool.schema import BURIED, DONE, OPEN, parts
from router.spool.signals import Signals

T = TypeVar("T")
COMMITMENTS = "commitments"
"""The topic that is signalled when a commitment has come, or an archive's answer."""


def _wakes(_: object) -> tuple[str]:
    return (COMMITMENTS,)


class Run(Protocol):
    def __call__(
        self, job: Callable[[sa.Connection], T], wakes: Callable[[T], Iterable[str]] = ..., /
    ) -> T: ...  # fmt: skip


class Ask(Protocol):
    def __call__(self, question: Callable[[sa.Connection], T], /) -> T: ...


class Commitments:
    """`run` changes and `ask` questions, both in the spool's database. All raise SpoolError."""

    def __init__(self, run: Run, ask: Ask, signals: Signals, token: Callable[[], int]) -> None:
        self._run, self._ask, self._signals, self._token = run, ask, signals, token

    def add(
        self, caller: Caller, transaction: str, references: Sequence[tuple[str, str]], seconds: float
    ) -> int | None:
        """A request, durable when this returns: its id, or that of the open one that it repeats; None: too many."""
        new = self._run(lambda c: commitment_rows.add(c, caller, transaction, references, seconds), _wakes)
        self._signals.set(COMMITMENTS)
        return new

    def claim(self, but: Collection[str]) -> Due | None:
        """The commitment that has been due for longest, unless its caller's AE title is among `but`."""
        token = self._token()
        return self._run(lambda c: commitment_rows.claim(c, but, token))

    def next_due(self, but: Collection[str]) -> float | None:
        query = sa.select(sa.func.min(commitment.c.ready_at)).where(
            commitment.c.state.in_(WORKING), commitment.c.calling_ae.not_in(but)
        )
        return self._ask(lambda c: c.execute(query).scalar())

    def now(self) -> float:
        return self._ask(clock.now)

    def pending(self, due: Due) -> list[Any]:
        """Rows of the references that have no outcome."""
        query = sa.select(reference).where(reference.c.commitment_id == due.id, reference.c.outcome.is_(None))
        return self._ask(lambda c: list(c.execute(query.order_by(reference.c.id))))

    def outcomes(self, due: Due) -> list[tuple[tuple[str, str], int]]:
        query = sa.select(reference).where(reference.c.commitment_id == due.id).order_by(reference.c.id)
        return self._ask(lambda c: [((r.sop_class, r.sop_instance), int(r.outcome)) for r in c.execute(query)])

    def places(self, uids: Sequence[str]) -> dict[str, list[Place]]:
        """The instances with each UID."""
        found: dict[str, list[Place]] = {}
        for part in parts(uids):
            for place in self._ask(partial(commitment_rows.places, uids=part)):
                found.setdefault(place.sop_instance, []).append(place)
        return found

    def set_outcomes(self, outcomes: Mapping[int, int]) -> None:
        """Reference id to outcome; what has one keeps it."""
        rows = [{"which": number, "end": outcome} for number, outcome in outcomes.items()]
        query = reference.update().where(reference.c.id == sa.bindparam("which"), reference.c.outcome.is_(None))
        if rows:
            self._run(lambda c: c.execute(query.values(outcome=sa.bindparam("end")), rows) and None)

    def asked(self, ids: Sequence[int], destination: str, uid: str) -> None:
        """An archive is about to be asked for these under a transaction UID of ours."""

        def change(connection: sa.Connection) -> None:
            values = {"destination": destination, "asked_uid": uid, "asked_at": clock.now(connection)}
            for part in parts(ids):
                connection.execute(reference.update().where(reference.c.id.in_(part)).values(**values))

        self._run(change)

    def not_asked(self, uid: str) -> None:
        """The archive has not taken the request, as far as is known; an answer to it still counts."""
        query = reference.update().where(reference.c.asked_uid == uid).values(asked_at=None)
        self._run(lambda c: c.execute(query) and None)

    def answer(
        self, destinations: Collection[str], uid: str, good: Collection[tuple[str, str]],
        failed: Mapping[tuple[str, str], int], otherwise: int,
    ) -> bool:  # fmt: skip
        """What an archive said of all that it was asked under `uid`; False where it was not asked anything."""
        known = self._run(
            lambda c: commitment_rows.answer(c, destinations, uid, frozenset(good), failed, otherwise), _wakes
        )
        self._signals.set(COMMITMENTS)
        return known

    def is_answered(self, uid: str) -> bool:
        """Whether all that was asked under a transaction UID of ours has its outcome."""
        waits = sa.exists().where(reference.c.asked_uid == uid, reference.c.outcome.is_(None))
        return not self._ask(lambda c: c.execute(sa.select(waits)).scalar_one())

    def release(self, due: Due, after: float, *, state: str = OPEN, tries: int) -> None:
        """Owed again after so many seconds, at once where the last answer came meanwhile."""
        self._run(lambda c: commitment_rows.release(c, due, after, state, tries))

    def close(self, due: Due, state: str) -> None:
        """DONE or BURIED."""
        assert state in (DONE, BURIED)

        def change(connection: sa.Connection) -> None:
            values = {"state": state, "token": 0, "ready_at": 0, "closed_at": clock.now(connection)}
            connection.execute(commitment_rows.held(due).values(**values))

        self._run(change)
