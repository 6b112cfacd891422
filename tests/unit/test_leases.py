"""What a node does with its claims on PostgreSQL while it works: however many it holds, and whatever fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from router.spool import claims, schema
from router.spool.blobs import Blob
from router.spool.database import Database
from router.spool.leases import Leases
from router.spool.uncertain_commits import UncertainCommits
from tests.unit.peer import wait_for


def test_many_claims_are_renewed_in_parts_that_a_server_takes() -> None:
    """It takes 65,535 parameters at once."""
    asked: list[partial[None]] = []

    def submit(change: Any) -> Future[None]:
        asked.append(change)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    leases = Leases(submit)
    leases.hold(schema.delivery, range(1, 70_001), 7)
    leases.renew()
    parts = [held for change in asked for held in change.args if isinstance(held, dict)]
    assert [which for held in parts for which in held] == list(range(1, 70_001))
    assert {token for held in parts for token in held.values()} == {7}
    assert max(map(len, parts)) <= schema.BATCH


def test_an_unforeseen_failure_does_not_end_the_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE", 0.03)
    tries: list[None] = []

    def submit(_: object) -> Future[None]:
        tries.append(None)
        raise ValueError("unforeseen")

    leases = Leases(submit)
    leases.hold(schema.delivery, [1], 7)
    leases.start()
    wait_for(lambda: len(tries) > 1)
    leases._stopped.set()


def test_a_blob_that_is_added_while_its_transaction_is_settled_is_settled_too() -> None:
    """Callers share commits, so one of them may ask before the other has said that it waits."""
    first, second = (SimpleNamespace(id=one, discard=lambda: gone.append(None)) for one in "ab")
    gone: list[None] = []
    waiting: UncertainCommits

    def ask(_: Callable[..., Any]) -> Any:
        answers.append(None)
        if len(answers) == 1:
            return "aborted"
        if len(answers) == 2:
            waiting.add(cast(Blob, second), 5)
        return "aborted" if len(answers) == 3 else set()

    answers: list[None] = []
    writer = SimpleNamespace(submit=lambda _: None)
    waiting = UncertainCommits(cast(Database, SimpleNamespace(ask=ask, writer=writer)))
    waiting.add(cast(Blob, first), 5)
    waiting.settle()
    assert (len(gone), len(waiting)) == (1, 1)
    waiting.settle()
    assert (len(gone), len(waiting)) == (2, 0)
