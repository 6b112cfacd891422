"""Blobs whose COMMIT PostgreSQL did not answer. They stay until it says what became of the transaction.

A stopped server may carry out a COMMIT minutes later, when its connection has gone. Then the row must find its blob. If
blobs still wait when the process ends, the next start handles them: it looks for blobs without rows.
"""

from __future__ import annotations

import threading
from functools import partial

import sqlalchemy as sa

from router.observe import log
from router.observe.metrics import UNCERTAIN_COMMITS
from router.spool import queries
from router.spool.blobs import Blob
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.events import add_event

_STATUS = sa.text("SELECT txid_status(:number)")
STILL_RUNS = "in progress"
"""What the server says of a transaction that has not ended yet."""


class UncertainCommits:
    """The blobs that wait, by the number of their transaction on the server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[int, list[Blob]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def add(self, blob: Blob, transaction: int) -> None:
        UNCERTAIN_COMMITS.labels("unknown").inc()
        log.warning("no answer to a commit", instance=blob.id)
        with self._lock:
            self._waiting.setdefault(transaction, []).append(blob)

    def settle(self) -> None:
        """Ask what became of each transaction that waits. If the server has forgotten it, the blob stays."""
        with self._lock:
            numbers = list(self._waiting)
        try:
            for number in numbers:
                status = self._database.ask(partial(_status, number=number))
                if status != STILL_RUNS:
                    self._settle(number, status)
        except SpoolError:  # the next time
            return

    def _settle(self, number: int, status: str | None) -> None:
        with self._lock:
            blobs = list(self._waiting.get(number, []))
        stored = ids = {blob.id for blob in blobs}
        if status:
            stored = self._database.ask(lambda c: queries.existing(c, list(ids)))
        for blob in blobs:
            outcome = "stored" if blob.id in stored else "not stored"
            if blob.id not in stored:
                blob.discard()
            UNCERTAIN_COMMITS.labels(outcome if status else "never known").inc()
            log.info("commit settled", instance=blob.id, outcome=outcome if status else "never known")
        with self._lock:  # others of the same transaction may have been added meanwhile
            left = [blob for blob in self._waiting.pop(number, []) if blob not in blobs]
            if left:
                self._waiting[number] = left
        self._database.writer.submit(
            lambda c: add_event(c, "commits without an answer", count=len(blobs), stored=len(stored))
        )


def _status(connection: sa.Connection, number: int) -> str | None:
    """`committed`, `aborted` or `in progress`. None if the server has forgotten."""
    said = connection.execute(_STATUS, {"number": number}).scalar()
    return None if said is None else str(said)
