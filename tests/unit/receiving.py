"""What the tests of the receiving side share: settings with short limits, a sink in memory, and a raw peer.

The raw peer writes PDUs by hand, so that these tests do not believe the codecs that they test.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.association.messages import Sink, StoreRequest
from router.association.server import AssociationServer
from router.config.settings import (
    ModelSettings,
    NodeSettings,
    Settings,
    SpoolSettings,
    WebSettings,
)
from router.decide import RuleTable

VERIFICATION, DX, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
J2K, J2K_LOSSLESS, JPEG, JPIP = (f"1.2.840.10008.1.2.4.{n}" for n in (91, 90, 50, 94))
INSTANCE = "1.2.826.0.1.3680043.8.498.79.1"

NODE = NodeSettings(address="127.0.0.1", port=0, artim=0.4, idle=0.4)


def settings(node: NodeSettings = NODE) -> Settings:
    """A configuration in which only the node matters."""
    rules: Any = object.__new__(RuleTable)
    return Settings(Path("routing.yaml"), node, SpoolSettings(), ModelSettings(), WebSettings(), {}, rules)


@dataclass
class MemorySink:
    """Keeps what it is given, and says what it is told to."""

    request: StoreRequest
    status: int = 0
    failing: str = ""
    error: Exception = field(default_factory=OSError)
    data: bytearray = field(default_factory=bytearray)
    ended: str = ""

    def write(self, fragment: memoryview) -> None:
        assert not self.ended
        self._maybe_fail("write")
        self.data += fragment

    def finish(self) -> int:
        assert not self.ended
        self.ended = "finished"
        self._maybe_fail("finish")
        return self.status

    def abandon(self) -> None:
        assert not self.ended
        self.ended = "abandoned"

    def _maybe_fail(self, where: str) -> None:
        if self.failing == where:
            raise self.error


@dataclass
class MemoryHandler:
    """A StoreHandler in memory; `make` may be replaced to fail or to refuse."""

    make: Callable[[StoreRequest], Sink | int] = MemorySink
    full: bool = False
    refusals: list[str] = field(default_factory=list)
    sinks: list[Sink | int] = field(default_factory=list)

    def refused(self, peer: str, why: str, **about: str) -> None:
        self.refusals.append(why)

    def refuse_association(self) -> bool:
        return self.full

    def begin(self, request: StoreRequest) -> Sink | int:
        sink = self.make(request)
        self.sinks.append(sink)
        return sink

    @property
    def stored(self) -> list[bytes]:
        return [bytes(sink.data) for sink in self.sinks if isinstance(sink, MemorySink) and sink.ended == "finished"]


@contextmanager
def served(node: NodeSettings = NODE, handler: MemoryHandler | None = None) -> Iterator[tuple[int, MemoryHandler]]:
    """A server on a free port, stopped at the end."""
    handler = handler or MemoryHandler()
    server = AssociationServer(lambda: settings(node), handler)
    port = server.start()
    try:
        yield port, handler
    finally:
        server.stop(time.monotonic() + 5)


def item(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value) if length is None else length) + value


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def context(number: int, abstract: str = VERIFICATION, *syntaxes: str) -> bytes:
    transfer = b"".join(item(0x40, uid.encode()) for uid in syntaxes or (IMPLICIT,))
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + transfer)


CONTEXTS = context(1) + context(3, DX, IMPLICIT)


def request(
    contexts: bytes = CONTEXTS,
    *,
    version: int = 1,
    application: str = "1.2.840.10008.3.1.1.1",
    called: bytes = b"ROUTER".ljust(16),
    calling: bytes = b"RAW".ljust(16),
    reserved: bytes = bytes(32),
    user: bytes | None = None,
    max_pdu: int = 16384,
) -> bytes:
    """An A-ASSOCIATE-RQ."""
    user = item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3")) if user is None else user
    fixed = struct.pack(">HH", version, 0) + called + calling + reserved
    return pdu(1, fixed + item(0x10, application.encode()) + contexts + user)


def pdv(number: int, control: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">IBB", len(data) + 2 if length is None else length, number, control) + data


def p_data(*values: bytes) -> bytes:
    return pdu(4, b"".join(values))


def element(group: int, number: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HHI", group, number, len(raw)) + raw


def command(command_field: int, *, data: bool = False, sop_class: str = VERIFICATION, **extra: int | str) -> bytes:
    """A command set; `extra` may be `message_id`, `instance`, or None-like 0 to leave the message ID out."""
    parts = element(0, 2, sop_class) + element(0, 0x100, struct.pack("<H", command_field))
    if extra.get("message_id", 7):
        parts += element(0, 0x110, struct.pack("<H", int(extra.get("message_id", 7))))
    parts += element(0, 0x800, struct.pack("<H", 0 if data else 0x101))
    if "instance" in extra:
        parts += element(0, 0x1000, str(extra["instance"]))
    return element(0, 0, struct.pack("<I", len(parts))) + parts


ECHO = p_data(pdv(1, 3, command(0x30)))
STORE_COMMAND = command(1, data=True, sop_class=DX, instance=INSTANCE)
STORE = p_data(pdv(3, 3, STORE_COMMAND))
DATA_SET = element(8, 0x16, DX) + element(8, 0x18, INSTANCE) + element(0x7FE0, 0x10, bytes(range(256)) * 8)
RELEASE_RQ, RELEASE_RP, ABORT = pdu(5, bytes(4)), pdu(6, bytes(4)), pdu(7, bytes(4))


def data_set(data: bytes = DATA_SET, step: int = 4096, last: bool = True) -> bytes:
    """A data set in P-DATA-TFs of `step` bytes."""
    pieces = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
    return b"".join(
        p_data(pdv(3, 2 if last and number == len(pieces) - 1 else 0, piece)) for number, piece in enumerate(pieces)
    )


class RawPeer:
    """A peer that sends bytes and names what comes back."""

    def __init__(self, port: int, sock: socket.socket | None = None) -> None:
        self.sock = sock or socket.create_connection(("127.0.0.1", port), 5)
        self.sock.settimeout(5)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *pdus: bytes) -> RawPeer:
        try:
            self.sock.sendall(b"".join(pdus))
        except OSError:
            pass
        return self

    def read(self) -> bytes:
        """The next PDU, or nothing when the other side has closed."""
        head = self._exactly(6)
        return head + self._exactly(struct.unpack(">I", head[2:])[0]) if len(head) == 6 else b""

    def answer(self) -> str:
        """The next PDU in a word: AC, RJ 1/1/3, ABORT 2/1, RP, STATUS 0000 or CLOSED."""
        got = self.read()
        if not got:
            return "CLOSED"
        match got[0]:
            case 2:
                return "AC"
            case 3:
                return "RJ {}/{}/{}".format(*got[7:10])
            case 4:
                at = got.find(b"\0\0\0\x09\2\0\0\0")
                return f"STATUS {struct.unpack_from('<H', got, at + 8)[0]:04x}" if at >= 0 else "P-DATA"
            case 6:
                return "RP"
            case 7:
                return "ABORT {}/{}".format(*got[8:10])
        return f"PDU {got[0]}"

    def answers(self, count: int = 1000) -> list[str]:
        """Everything until the other side closes, at most `count`."""
        got: list[str] = []
        while len(got) < count and "CLOSED" not in got:
            got.append(self.answer())
        return got

    def associate(self, contexts: bytes = CONTEXTS, **options: Any) -> RawPeer:
        assert self.send(request(contexts, **options)).answer() == "AC"
        return self

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                piece = self.sock.recv(count - len(got))
            except ConnectionError:
                return b""
            if not piece:
                return b""
            got += piece
        return got


def echoes(port: int) -> bool:
    """Whether the server still serves: a new association, C-ECHO, release."""
    with RawPeer(port) as peer:
        return peer.associate().send(ECHO, RELEASE_RQ).answers() == ["STATUS 0000", "RP", "CLOSED"]


def node(**changes: Any) -> NodeSettings:
    return replace(NODE, **changes)
