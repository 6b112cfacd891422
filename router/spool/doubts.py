"""Blobs of instances that were refused because a commit failed: whether their rows are there is not always known.

Where the sync of SQLite's log fails the change is undone, and yet the log holds all of it until another change is
written over it. After a crash the log is believed, and the row comes back. It must then find its blob.

This is about commits that failed on a disk. `uncertain` is about commits that a server did not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from router.spool import transactions
from router.spool.blobs import Blob
from router.spool.errors import SpoolError
from router.spool.writer import Job

REFUSED = "refused when the disk failed"
"""The event, with the count of instances. It is the change that is written over what failed."""


class Doubts:
    """Removes blobs once no row can need them. `existing` says which ids have a row; `insist` submits a job."""

    def __init__(self, existing: Callable[[Sequence[str]], set[str]], insist: Callable[[Job], Future[Any]]) -> None:
        self._existing, self._insist = existing, insist
        self._blobs: list[Blob] = []
        self._unasked: list[tuple[Blob, Exception]] = []
        self._lock = threading.Lock()

    def discard(self, blob: Blob, error: Exception) -> None:
        """A commit that failed with `error` may have happened, or may yet. If the database cannot say, ask again later.

        If the node ends first, the next start takes the blob in. Its sender was refused and sends it again, so a
        destination may get it twice. To delete an acknowledged one would be worse.
        """
        try:
            if self._existing([blob.id]):
                return
        except SpoolError:
            with self._lock:
                self._unasked.append((blob, error))
            return
        if not (isinstance(error, SpoolError) and error.may_come_back):
            blob.discard()
            return
        blob.doubt()
        with self._lock:
            self._blobs.append(blob)
            is_first = len(self._blobs) == 1
        if is_first:
            self._write_over()

    def ask_again(self) -> None:
        """Ask again about blobs for which the database did not answer."""
        with self._lock:
            unasked, self._unasked = self._unasked, []
        for blob, error in unasked:
            self.discard(blob, error)

    def _write_over(self) -> None:
        with suppress(SpoolError):  # closed
            self._insist(self._job).add_done_callback(self._written)

    def _job(self, connection: Any) -> list[Blob]:
        """The blobs that wait now failed before this change is written."""
        with self._lock:
            blobs = list(self._blobs)
        transactions.add_event(connection, REFUSED, count=len(blobs))
        return blobs

    def _written(self, done: Future[list[Blob]]) -> None:
        if done.exception() is not None:  # the spool closes
            return
        for blob in done.result():
            blob.discard()
        with self._lock:
            self._blobs = [blob for blob in self._blobs if blob not in done.result()]
            more = bool(self._blobs)
        if more:
            self._write_over()
