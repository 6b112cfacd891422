"""What is fuzzed: plain functions from bytes to nothing, which raise where the product breaks a promise.

Only documented exceptions may come out of a reader. `WrongError` is a promise that was broken without an exception.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from router.association import pdu
from router.association.acceptor import Acceptor
from router.association.dimse import decode_command
from router.association.messages import Sink, StoreRequest
from router.association.pdu import Stream
from router.association.requestor import AssociationLostError, ConnectError, connect
from router.association.services import NormalizedRequest
from router.commitment import data_set as commitment
from router.commitment.association import CommitmentAssociation
from router.commitment.data_set import DataSetError
from router.config.settings import DestinationSettings, NodeSettings
from router.dicom.data_set import open_data_set
from router.dicom.elements import UnparseableError
from router.dicom.first_elements import MOST, UnreadableError, plain_texts, sop_uids
from router.dicom.uids import COMMITMENT
from router.flow import Caller, Header, Instance
from router.pixels import codestream
from router.pixels.decoders import NATIVE
from router.pixels.grey import to_grey
from router.pixels.header import Layout, UndecodableError, layout, values
from router.pixels.prepare import prepare
from router.pixels.render import FINE, _reduction
from router.pixels.samples import first_frame, thinned
from router.pixels.transcode import NotTranscodedError, _transcode
from router.receive import Receiver
from router.spool import Accepted
from tests.fuzz.data_sets import BIG, DEFLATED, DX, EXPLICIT, IMPLICIT

NODE = NodeSettings(artim=2.0, idle=2.0, instance_limit=8 << 20)
ENDS = {"protocol error", "peer closed", "timed out", "aborted by peer", "refused", "released", "stopped"}
TAGS = frozenset({0x00080005, 0x00080016, 0x00080060, 0x00100010, 0x00100030, 0x00101010, 0x00082218, 0x00281050,
                  0x00281051, 0x00283010, 0x00091010, 0x7FE00010, 0x7FE10010, 0x60000050, 0x00280010})  # fmt: skip


class WrongError(AssertionError):
    """A promise that was broken; the message holds nothing that was received."""


class Wire(socket.socket):
    """A socket whose peer has sent `sent`, says no more, and takes everything."""

    def __init__(self, sent: bytes) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._sent = io.BytesIO(sent)
        self.got = bytearray()

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        return self._sent.readinto(buffer)

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        self.got += data

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        self.got += data
        return len(data)

    def answers(self) -> list[tuple[int, bytes]]:
        """The PDUs that our side sent; they must be whole and of the standard's types."""
        found, at = [], 0
        while at < len(self.got):
            if len(self.got) - at < 6:
                raise WrongError("half a PDU was sent")
            kind, length = struct.unpack_from(">BxL", self.got, at)
            if not 1 <= kind <= 7 or at + 6 + length > len(self.got):
                raise WrongError("no PDU, or half of one, was sent")
            found.append((kind, bytes(self.got[at + 6 : at + 6 + length])))
            at += 6 + length
        return found


class MemoryBlob:
    """What a `Blob` is to a receiver, without a disk."""

    def __init__(self, header: bytes) -> None:
        self.id, self.header, self.offset, self.size, self.end = "0" * 32, header, len(header), 0, ""

    def write(self, fragment: memoryview) -> None:
        self._open()
        self.size += len(fragment)

    def digest(self) -> str:
        return "0" * 32

    def read(self, count: int) -> bytes:
        return b""

    def seal(self, note: bytes = b"") -> None:
        self._open()
        self.end = "sealed"

    def discard(self) -> None:
        if self.end != "sealed":
            self.end = "discarded"

    def _open(self) -> None:
        if self.end:
            raise WrongError("a blob is used after its end")


class MemoryStore:
    """A spool in memory; `blobs` must all have ended when an association has."""

    def __init__(self) -> None:
        self.blobs: list[MemoryBlob] = []
        self.accepted: list[Instance] = []

    def begin(self, header: bytes) -> MemoryBlob:
        self.blobs.append(MemoryBlob(header))
        return self.blobs[-1]

    def accept(self, blob: MemoryBlob, new: Instance, named: Header) -> Accepted:
        if blob.end != "sealed" or new.size != blob.size:
            raise WrongError("an instance is accepted before its blob is whole")
        self.accepted.append(new)
        return Accepted(new.id, False)

    def room(self) -> bool:
        return True

    def make_room(self) -> None:
        return None


class Watched:
    """A handler that keeps what the association would turn into a status: exceptions of a sink."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.raised: list[BaseException] = []

    def refused(self, peer: str, why: str, **about: str) -> None:
        pass

    def refuse_association(self) -> bool:
        return self._receiver.refuse_association()

    def begin(self, request: StoreRequest) -> Sink | int:
        with self.keeping():
            begun = self._receiver.begin(request)
        return begun if isinstance(begun, int) else WatchedSink(begun, self)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.raised.append(error)
            raise


class WatchedSink:
    def __init__(self, sink: Sink, watched: Watched) -> None:
        self._sink, self._watched = sink, watched

    def write(self, fragment: memoryview) -> None:
        with self._watched.keeping():
            self._sink.write(fragment)

    def finish(self) -> int:
        with self._watched.keeping():
            return self._sink.finish()

    def abandon(self) -> None:
        with self._watched.keeping():
            self._sink.abandon()


def association(data: bytes) -> None:
    """A whole association in which we are the SCP, from the socket to the blob, as the receiving process has it."""
    store = MemoryStore()
    handler = Watched(Receiver(lambda: None, store))  # type: ignore[arg-type, return-value]
    commits = WatchedCommits(handler)
    with Wire(data) as wire:
        acceptor = Acceptor(Stream(wire), "127.0.0.1", NODE, handler, lambda: True, (commits,))
        how = acceptor.run(time.monotonic() + 2)
        if how not in ENDS:
            raise WrongError("an association ends in a way that has no name")
        if handler.raised:
            raise handler.raised[0]
        if not all(blob.end for blob in store.blobs):
            raise WrongError("a blob is left behind")
        if _stored(wire.answers()) != len(store.accepted):
            raise WrongError("what was acknowledged is not what was accepted")


def _stored(answers: list[tuple[int, bytes]]) -> int:
    """How many C-STOREs were answered with success; every answer must be a command set of ours."""
    count, command = 0, b""
    for kind, body in answers:
        for pdv in pdu.pdvs(memoryview(body)) if kind == 4 else ():
            command += bytes(pdv.fragment)
            if pdv.is_last:
                answer = decode_command(command)
                command = b""
                count += answer.field == 0x8001 and answer.number(0x0900) == 0
    return count


class WatchedCommits:
    """Storage Commitment as a `Service` that reads what it is sent."""

    sop_class = COMMITMENT

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def allows(self, caller: Caller) -> bool:
        return True

    def take(self, request: NormalizedRequest, data_set: bytes) -> int:
        with self._watched.keeping(), suppress(DataSetError):
            return 0 if commitment.decode(data_set, request.transfer_syntax).referenced else 0x0115
        return 0x0110


def requestor(data: bytes) -> None:
    """Associations in which a destination answers what it likes; only the documented ends may come of it."""
    destination = DestinationSettings("there", "THERE", "127.0.0.1", 104, response_timeout=2.0)
    with Wire(data) as wire, _connected(wire), suppress(AssociationLostError, ConnectError):
        ours = connect(destination, "HERE", [(DX, EXPLICIT), (DX, IMPLICIT)], echo=True)
        ours.fallback(DX)
        try:
            ours.echo()
            ours.echo()
        finally:
            ours.release()
    with Wire(data) as wire, _connected(wire), suppress(AssociationLostError, ConnectError):
        archive = CommitmentAssociation(destination, "HERE", take_report=_take_report)
        with archive:
            archive.ask(b"")
            archive.await_report(0.0, lambda: False)


def _take_report(event_type: int | None, data_set: bytes, syntax: str) -> int:
    with suppress(DataSetError):
        commitment.decode(data_set, syntax)
    return 0


def _connected(wire: Wire) -> AbstractContextManager[object]:
    return patch("socket.create_connection", return_value=wire)


def header(data: bytes) -> None:
    """Everything that is read of a data set before its pixels: first elements, all elements, values, codestreams."""
    for syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG):
        with suppress(UnreadableError):
            sop_uids(data[132:][:MOST] if data[128:132] == b"DICM" else data[:MOST], syntax)
        plain_texts(data[:MOST], syntax, frozenset({0x00080050, 0x0020000D}))
    path = _file(data)
    for last in (0x7FE00010, 0xFFFFFFFF):
        with suppress(UnparseableError):
            opened = open_data_set(path, last)
            try:
                values(opened, TAGS)
                for tag in list(opened.elements)[:200]:
                    opened.first_item(tag)
                with suppress(UndecodableError):
                    layout(opened)
            finally:
                opened.close()
    frames(data)


def frames(data: bytes) -> None:
    """What a codestream says of itself, wherever one seems to begin."""
    form = Layout(16, 24, 1, 1, 8, 8, "u", 0, "MONOCHROME2")
    starts = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\x00\x00\x00\x0c")
    readers: tuple[Callable[[bytes], object], ...] = (
        codestream.jpeg, codestream.jpeg_ls, codestream.jpeg2000,
        lambda frame: codestream.rle(frame, form), lambda frame: codestream.jpeg_xl(frame, form),
    )  # fmt: skip
    for start in starts:
        at = data.find(start)
        for read in readers if at >= 0 else ():
            with suppress(UndecodableError):
                read(data[at:])


def picture(data: bytes) -> None:
    """All that is ours between native pixels and the picture, and between them and a native copy.

    What a pixel worker turns into a reason comes out here. A decoder may raise what it likes, so there is none here.
    """
    path = _file(data)
    copy = path.with_suffix(".copy")
    with suppress(UnparseableError, UndecodableError, MemoryError), warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_data_set(path)
        try:
            if opened.syntax in NATIVE:
                form = layout(opened)
                reduce = _reduction(form, 8, FINE)
                grey = to_grey(opened, form, thinned(first_frame(opened, form, reduce), form, reduce))
                small, _ = prepare(grey.image, size=16, mask=grey.mask)
                if small.shape != (16, 16):
                    raise WrongError("the picture has another size")
        finally:
            opened.close()
        if opened.syntax in NATIVE:
            try:
                _transcode(path, copy, (EXPLICIT, IMPLICIT)[len(data) % 2])
            except NotTranscodedError:
                return
            finally:
                copy.unlink(missing_ok=True)


def _file(data: bytes) -> Path:
    """In memory, for `open_data_set` takes a path: the only copy, overwritten by the next case."""
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"fuzz-{os.getpid()}.dcm"
    path.write_bytes(data)
    return path


def forget() -> None:
    """Remove the file of the last case."""
    _file(b"").unlink()


IN_PROCESS: dict[str, Callable[[bytes], None]] = {
    "association": association,
    "requestor": requestor,
    "header": header,
    "picture": picture,
}
