"""Blobs whose COMMIT PostgreSQL did not answer: kept until it says what became of the transaction.

A stopped server may carry out a COMMIT minutes later, after its connection has gone. The row must then find its blob.
Blobs that still wait when the process ends are left to the next start, which looks for blobs without rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import sqlalchemy as sa

from router.observe import log
from router.observe.metrics import UNCERTAIN
from router.spool.blobs import Blob
from router.spool.errors import SpoolError

T = TypeVar("T")
_STATUS = sa.text("SELECT txid_status(:number)")
STILL_RUNS = "in progress"


class Ask(Protocol):
    def __call__(self, question: Callable[[sa.Connection], T], /) -> T: ...


class UncertainCommits:
    """`ask` puts a question to the database; `existing` says which ids have a row; `event` writes to the record."""

    def __init__(self, ask: Ask, existing: Callable[[Sequence[str]], set[str]], event: Callable[..., None]) -> None:
        self._ask, self._existing, self._event = ask, existing, event
        self._waiting: dict[int, list[Blob]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def add(self, blob: Blob, transaction: int) -> None:
        UNCERTAIN.labels("unknown").inc()
        log.warning("no answer to a commit", instance=blob.id)
        with self._lock:
            self._waiting.setdefault(transaction, []).append(blob)

    def settle(self) -> None:
        """Ask what became of each transaction that waits. If the server has forgotten it, the blob stays."""
        with self._lock:
            numbers = list(self._waiting)
        try:
            for number in numbers:
                status = self._ask(partial(_status, number=number))
                if status != STILL_RUNS:
                    self._settle(number, status)
        except SpoolError:  # the next time
            return

    def _settle(self, number: int, status: str | None) -> None:
        with self._lock:
            blobs = self._waiting.get(number, [])
        stored = self._existing([blob.id for blob in blobs]) if status else {blob.id for blob in blobs}
        for blob in blobs:
            outcome = "stored" if blob.id in stored else "not stored"
            if blob.id not in stored:
                blob.discard()
            UNCERTAIN.labels(outcome if status else "never known").inc()
            log.info("commit settled", instance=blob.id, outcome=outcome if status else "never known")
        with self._lock:
            self._waiting.pop(number, None)
        self._event("commits without an answer", count=len(blobs), stored=len(stored))


def _status(connection: sa.Connection, number: int) -> str | None:
    """`committed`, `aborted` or `in progress`; None where the server has forgotten."""
    said = connection.execute(_STATUS, {"number": number}).scalar()
    return None if said is None else str(said)
