"""Stage 1: the data set of a C-STORE becomes a blob and a row. Only then does its sender get the status.

What is acknowledged is durable. So the order is: bytes, digest, fsync of file and folder, row, status. Nothing is
decoded. Only the first elements are compared with the command set. What is broken behind them is stored as it came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from router.association.dimse import Status
from router.association.messages import Sink, StoreRequest
from router.association.server import AssociationServer
from router.association.services import Service
from router.config.settings import Settings
from router.dicom.first_elements import MOST, SopUids, UnreadableError, plain_texts, sop_uids
from router.dicom.part10 import file_meta
from router.dicom.uids import is_uid
from router.flow import Header, Instance
from router.observe import log, safe
from router.observe.metrics import MERGED, RECEIVED_BYTES, stored
from router.receive.seldom import Seldom
from router.spool import NO_SPACE, Accepted, Blob, SpoolError
from router.spool.keyed import TAGS as FOUND_BY
from router.spool.notes import note_for


class Store(Protocol):
    """What receive asks of the spool."""

    def begin(self, header: bytes) -> Blob: ...

    def accept(self, blob: Blob, new: Instance, named: Header) -> Accepted: ...

    def room(self) -> bool: ...

    def make_room(self) -> None: ...

    def event(self, kind: str, **detail: Any) -> None: ...


@contextmanager
def making_room(spool: Store) -> Iterator[None]:
    """If the disk is full, make room. This instance is refused all the same, but its sender will try again."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            spool.make_room()
        raise


class Receiver:
    """The receiving side of the node: an `AssociationServer` whose instances go to the spool."""

    def __init__(self, settings: Callable[[], Settings], spool: Store, services: Sequence[Service] = ()) -> None:
        self._spool = spool
        self._seldom = Seldom()
        self._server = AssociationServer(settings, self, services)

    def bind(self) -> None:
        """Take the port, and answer no caller yet. Raises AddressError, OSError (certificate)."""
        self._server.bind()

    def start(self) -> int:
        """Open the port and return it. Raises as `bind`."""
        return self._server.start()

    def drain(self, deadline: float) -> None:
        """Close the port, and wait for the end of the open associations, until `deadline` (time.monotonic)."""
        self._server.drain(deadline)

    def stop(self, deadline: float) -> None:
        """Close the port and let data sets under way finish until `deadline` (time.monotonic)."""
        self._server.stop(deadline)

    @property
    def is_open(self) -> bool:
        """Whether connections to every port are taken."""
        return self._server.is_open

    @property
    def associations(self) -> int:
        """How many associations are open now."""
        return self._server.associations

    def refuse_association(self) -> bool:
        return not self._spool.room()

    def refused(self, peer: str, why: str, **about: str) -> None:
        """Record the refusal as an event, unless the same one was recorded a short time ago."""
        if (unsaid := self._seldom.may(peer, why)) is not None:
            with suppress(SpoolError):  # the log has it
                self._spool.event("refused", peer=peer, why=why, as_often_before=unsaid, **about)

    def begin(self, request: StoreRequest) -> Sink | int:
        """A sink into a new blob; 0xA900 for an invalid UID; 0xA700 if the spool cannot take the instance."""
        if not (is_uid(request.sop_class) and is_uid(request.sop_instance)):
            return _refused(request, Status.NO_MATCH, "the command's SOP Class or Instance UID is not a UID")
        header = file_meta(request.sop_class, request.sop_instance, request.transfer_syntax, request.caller)
        try:
            with making_room(self._spool):
                return BlobSink(self._spool, self._spool.begin(header), request)
        except SpoolError as error:
            return _refused(request, Status.OUT_OF_RESOURCES, str(error))


def _refused(request: StoreRequest, status: int, reason: str) -> int:
    """Log why an instance is not stored. The reason is a fixed text."""
    caller = request.caller
    known = {"peer": caller.peer, "calling_ae": safe(caller.calling_ae)}
    log.warning("not stored", status=f"{status:04x}", reason=reason, syntax=request.transfer_syntax, **known)
    return status


class BlobSink:
    """One data set on its way to the spool. It is dropped at once if its first elements name another instance."""

    def __init__(self, spool: Store, blob: Blob, request: StoreRequest) -> None:
        self._spool = spool
        self._blob: Blob | None = blob
        self._request = request
        self._head: bytearray | None = bytearray()
        self._named: Header = {}
        """By what people look for it: so that it is found before it is decided."""
        self._status: int = Status.SUCCESS

    def write(self, fragment: memoryview) -> None:
        if self._head is not None:
            self._head += fragment[: MOST - len(self._head)]
            if len(self._head) >= MOST:
                self._check(self._head)
        if self._blob is not None:
            with making_room(self._spool):
                self._blob.write(fragment)

    def finish(self) -> int:
        """Seal the blob, commit the row, and return the status."""
        if self._head is not None:
            self._check(self._head)
        blob, self._blob = self._blob, None
        return self._status if blob is None else self._store(blob)

    def abandon(self) -> None:
        blob, self._blob = self._blob, None
        if blob is not None:
            blob.discard()

    def _store(self, blob: Blob) -> int:
        """If `seal` or `accept` fails, it removes the blob itself. After `accept` nothing here may remove it."""
        request = self._request
        instance = Instance(
            id=blob.id,
            received_at=time.time(),
            caller=request.caller,
            sop_class=request.sop_class,
            sop_instance=request.sop_instance,
            transfer_syntax=request.transfer_syntax,
            offset=blob.offset,
            size=blob.size,
            digest=blob.digest(),
        )
        try:
            with making_room(self._spool):
                blob.seal(note_for(blob.header, instance))
            accepted = self._spool.accept(blob, instance, self._named)
        except SpoolError as error:
            return _refused(request, Status.OUT_OF_RESOURCES, str(error))
        RECEIVED_BYTES.inc(blob.size)
        MERGED.inc(int(accepted.merged))
        caller = request.caller
        stored(caller.calling_ae, instance.received_at)
        known = {"peer": caller.peer, "calling_ae": safe(caller.calling_ae), "merged": accepted.merged}
        log.info("stored", instance=accepted.instance_id, bytes=blob.size, syntax=request.transfer_syntax, **known)
        return Status.SUCCESS

    def _check(self, head: bytearray) -> None:
        """Compare the first elements with the command set, once."""
        self._head = None
        announced = SopUids(self._request.sop_class, self._request.sop_instance)
        try:
            if sop_uids(head, self._request.transfer_syntax) != announced:
                self._status = _refused(self._request, Status.NO_MATCH, "its SOP UIDs are not those of the command")
        except UnreadableError as error:
            self._status = _refused(self._request, Status.CANNOT_UNDERSTAND, str(error))
        if self._status != Status.SUCCESS:
            self.abandon()
        else:
            self._named = plain_texts(head, self._request.transfer_syntax, FOUND_BY)
