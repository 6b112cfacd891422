"""Taking instances in: from a blob to a row, and what becomes of the blob if the row is refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from router.flow import Header, Instance
from router.spool import statements
from router.spool.blobs import Blob, BlobStore, same_bytes
from router.spool.database import Database
from router.spool.errors import SpoolError, UncertainCommitError
from router.spool.events import add_event
from router.spool.failed_commits import FailedCommits
from router.spool.keyed import Key
from router.spool.rows import Accepted, Known, columns_of, instance_of
from router.spool.schema import delivery, instance
from router.spool.signals import INSTANCES
from router.spool.space import Space
from router.spool.states import DeliveryState, InstanceState
from router.spool.uncertain_commits import UncertainCommits
from router.spool.usage import Usage

NOTHING_NAMED: Header = {}
COMPARE_WITHIN = 1.5
"""Seconds for bringing an earlier blob here, to compare it. The caller waits for its answer meanwhile."""
NOT_FOUND_BY = {"study": None, "accession": None}


class Intake:
    """What `receive` asks of the spool."""

    def __init__(self, database: Database, blobs: BlobStore, usage: Usage, space: Space) -> None:
        self._database, self._blobs, self._usage, self._space = database, blobs, usage, space
        self.failed = FailedCommits(database)
        self.uncertain = UncertainCommits(database)
        self.key: Key | None = None
        """With which study and accession number are hashed, so that people can look for them."""

    def begin(self, header: bytes) -> Blob:
        """A new blob that starts with `header`. Raises SpoolError without room, OSError when the disk fails."""
        if not self.room():
            raise SpoolError(f"the spool is full: {self._space.lack()}")
        return self._blobs.begin(header)

    def room(self) -> bool:
        """Whether there is room for an instance. If not, finished blobs are removed first."""
        return self._space.has_room()

    def make_room(self) -> None:
        """The disk was full after all. Finished blobs are removed soon, so the sender's next try finds room."""
        self._space.make_room()

    def event(self, kind: str, **detail: Any) -> None:
        """Record what happened to an association or an instance."""
        self._database.writer.submit(lambda c: add_event(c, kind, **detail))

    def accept(self, blob: Blob, new: Instance, named: Header = NOTHING_NAMED) -> Accepted:
        """Make a sealed blob an instance. Returns after the commit. If it raises SpoolError, the blob is removed.

        `named`: study and accession number, where they are known already. The decision will know them better.
        """
        columns = columns_of(new) | (self.key.found_by(named) if self.key else NOT_FOUND_BY)
        try:
            known = self._database.ask(partial(_same_uid, sop_instance=new.sop_instance))
        except BaseException:
            blob.discard()  # nobody asked for a row
            raise
        equal = next((one.instance.id for one in known if self._is_equal(one, blob, new)), None)
        first = known[0].instance.id if known else None
        try:
            merged_into = self._database.run(
                lambda c: _accept(c, new, columns, first, equal), lambda merged: () if merged else (INSTANCES,)
            )
        except Exception as error:
            self._drop_refused(blob, error)
            raise
        if merged_into is not None:
            blob.discard()
            return Accepted(merged_into, merged=True)
        self._usage.blob_came(new.size)
        self._database.signals.set(INSTANCES)
        return Accepted(new.id, merged=False)

    def _drop_refused(self, blob: Blob, error: Exception) -> None:
        """The row was refused. Remove the blob, unless the row may exist after all or may still come."""
        if isinstance(error, UncertainCommitError):
            self.uncertain.add(blob, error.transaction)
            if self._database.server_answers():
                self.uncertain.settle()
        elif self._database.is_sqlite:
            self.failed.discard(blob, error)
        else:  # COMMIT was not sent, or the server itself said no
            blob.discard()

    def _is_equal(self, known: Known, blob: Blob, new: Instance) -> bool:
        """Whether an instance has the same bytes from the same caller. Whether it has open work is asked later."""
        old = known.instance
        if known.is_gone or replace(old, id=new.id, received_at=new.received_at, offset=new.offset) != new:
            return False
        bringing = self._blobs.bring(old)
        try:
            is_here = bringing.result(COMPARE_WITHIN)
        except (SpoolError, TimeoutError):
            bringing.add_done_callback(partial(self._let_go, old.id))
            return False
        if not is_here:
            return False
        try:
            return same_bytes(self._blobs.path(old.id), blob.path, old.offset, new.offset)
        except OSError:  # the old blob has gone or cannot be read: then it cannot replace the new one
            return False
        finally:
            self._blobs.let_go(old.id)

    def _let_go(self, blob_id: str, brought: Future[bool]) -> None:
        """It came too late to be compared."""
        if brought.exception() is None and brought.result():
            self._blobs.let_go(blob_id)


def _same_uid(connection: sa.Connection, sop_instance: str) -> Sequence[Known]:
    """The latest instances with this UID, newest first. There are few: a UID should be unique."""
    rows = connection.execute(statements.SAME_UID, {"uid": sop_instance})
    return [Known(instance_of(row), is_gone=row.state == InstanceState.GONE) for row in rows]


def _accept(
    connection: sa.Connection, new: Instance, columns: dict[str, Any], first: str | None, equal: str | None
) -> str | None:
    """Write a row for a new instance, or a note that equal bytes came again if `equal` still has open work.

    `first` is the latest instance with the same UID. Returns the id of the instance that took the new one in, if any.
    """
    if equal is not None and _has_open_work(connection, equal):
        add_event(connection, "same UID again", equal, merged=True, peer=new.caller.peer)
        return equal
    connection.execute(statements.INSERT_INSTANCE, columns | {"state": InstanceState.NEW})
    if first is not None:
        add_event(connection, "same UID again", new.id, first=first, merged=False)
    return None


def _has_open_work(connection: sa.Connection, instance_id: str) -> bool:
    """Whether it waits for its decision or has an open delivery. A buried one does not count: it waits for a person."""
    is_new = sa.exists().where(instance.c.id == instance_id, instance.c.state == InstanceState.NEW)
    is_owed = sa.exists().where(delivery.c.instance_id == instance_id, delivery.c.state == DeliveryState.OPEN)
    return bool(connection.execute(sa.select(is_new | is_owed)).scalar_one())
