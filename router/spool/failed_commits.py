"""Blobs whose rows SQLite did not take: when they may be removed.

If the sync of SQLite's log fails, the change is undone. But the log has all of it until another change overwrites it.
After a crash SQLite reads the log, and the row comes back. Then it must find its blob.

This is about commits that failed on a disk. `uncertain_commits` is about commits that a server did not answer.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress

import sqlalchemy as sa

from router.spool import queries
from router.spool.blobs import Blob
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.events import add_event

REFUSED = "refused when the disk failed"
"""The event with the count of instances. Writing it overwrites the failed change in the log."""


class FailedCommits:
    """Removes the blobs of refused instances once no row can need them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._may_come_back: list[Blob] = []
        self._unasked: list[tuple[Blob, Exception]] = []
        self._lock = threading.Lock()

    def discard(self, blob: Blob, error: Exception) -> None:
        """Remove a blob whose commit failed with `error`, unless its row may exist or come. If unknown, ask later.

        If the node ends first, the next start takes the blob in. Its sender was refused and sends it again, so a
        destination may get it twice. It would be worse to delete an acknowledged instance.
        """
        try:
            if self._has_row(blob):
                return
        except SpoolError:
            with self._lock:
                self._unasked.append((blob, error))
            return
        if not (isinstance(error, SpoolError) and error.may_come_back):
            blob.discard()
            return
        blob.mark_doubted()
        with self._lock:
            self._may_come_back.append(blob)
            is_first = len(self._may_come_back) == 1
        if is_first:
            self._write_over()

    def ask_again(self) -> None:
        """Ask again about blobs for which the database did not answer."""
        with self._lock:
            unasked, self._unasked = self._unasked, []
        for blob, error in unasked:
            self.discard(blob, error)

    def _discard_without_row(self, blob: Blob) -> None:
        """Discard a blob without a row. It has one if a connection read the log before that was overwritten."""
        try:
            if self._has_row(blob):
                blob.unmark()
                return
        except SpoolError:  # the next start looks at it
            return
        blob.discard()

    def _has_row(self, blob: Blob) -> bool:
        return bool(self._database.ask(lambda c: queries.existing(c, [blob.id])))

    def _write_over(self) -> None:
        def note(connection: sa.Connection) -> list[Blob]:
            """Write the event. Returns the blobs that wait by now: their commits failed before this change."""
            with self._lock:
                blobs = list(self._may_come_back)
            add_event(connection, REFUSED, count=len(blobs))
            return blobs

        with suppress(SpoolError):  # closed
            self._database.writer.submit(note, insist=True).add_done_callback(self._written_over)

    def _written_over(self, done: Future[list[Blob]]) -> None:
        if done.exception() is not None:  # the spool closes
            return
        for blob in done.result():
            self._discard_without_row(blob)
        with self._lock:
            self._may_come_back = [blob for blob in self._may_come_back if blob not in done.result()]
            more = bool(self._may_come_back)
        if more:
            self._write_over()
