"""A destination that does as it is told: it accepts one association after another and runs a script on each.

It reads with `router.association.pdu` and writes by hand, so that it can answer what no sane peer would.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from router.association import dimse, pdu
from router.association.negotiation import Proposal, item, parse_request
from router.association.pdu import Kind
from router.config.settings import DestinationSettings
from tests.unit.listener import Listener

T = TypeVar("T")
DX, CT, CR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
J2K, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50"
UID = "1.2.826.0.1.3680043.8.498.80"


@dataclass(frozen=True)
class Stored:
    """A C-STORE as it came."""

    sop_class: str
    sop_instance: str
    data: bytes
    context_id: int
    message_id: int


class Talk:
    """One association, from the acceptor's side."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        self.stream = pdu.Stream(sock, 2 * pdu.MAX_PDU)
        self.proposal: Proposal | None = None
        self.bodies: list[int] = []
        """Body lengths of the P-DATA-TFs with the last data set."""

    def read(self) -> tuple[Kind, memoryview]:
        kind, length = self.stream.read_header(10)
        return kind, self.stream.read_body(length, 10)

    def request(self) -> Proposal:
        kind, body = self.read()
        assert kind is Kind.ASSOCIATE_RQ
        self.proposal = parse_request(body)
        self.peer.proposals.append(self.proposal)
        return self.proposal

    def accept(self) -> None:
        proposal = self.request()
        body = b"\0\1\0\0" + proposal.titles + item(0x10, proposal.application_context.encode())
        for one in proposal.contexts:
            chosen = self.peer.choose(one.abstract_syntax, one.transfer_syntaxes)
            head = bytes((one.id, 0, 0 if chosen else 3, 0))
            body += item(0x21, head + item(0x40, (chosen or one.transfer_syntaxes[0]).encode()))
        user = b"" if self.peer.max_pdu is None else item(0x51, struct.pack(">I", self.peer.max_pdu))
        self.send(pdu.HEADER.pack(Kind.ASSOCIATE_AC, len(body + item(0x50, user))) + body + item(0x50, user))

    def message(self) -> Stored | Kind:
        """The next whole C-STORE or C-ECHO (empty data), or the kind of the PDU that is no P-DATA-TF."""
        command, data = bytearray(), bytearray()
        whole: dimse.Command | None = None
        self.bodies = []
        while True:
            kind, body = self.read()
            if kind is not Kind.P_DATA:
                return kind
            for value in pdu.pdvs(body):
                if value.is_command:
                    command += value.fragment
                    if not value.is_last:
                        continue
                    whole = dimse.decode_command(bytes(command))
                    if whole.has_data_set:
                        continue
                else:
                    self.bodies.append(len(body))
                    data += value.fragment
                    if not value.is_last:
                        continue
                assert whole is not None
                return Stored(
                    whole.text(dimse.AFFECTED_SOP_CLASS), whole.text(dimse.AFFECTED_SOP_INSTANCE), bytes(data),
                    value.context_id, whole.message_id,
                )  # fmt: skip

    def answer(self, to: Stored, status: int, *, message_id: int | None = None) -> None:
        self.send(answer(to, status, message_id=message_id))

    def serve(self) -> None:
        """As a good peer: answer everything until the release."""
        self.accept()
        self.serve_on()

    def serve_on(self) -> None:
        while True:
            got = self.message()
            if got is Kind.RELEASE_RQ:
                self.peer.ends.append("released")
                return self.send(pdu.release_rp())
            if isinstance(got, Kind):
                self.peer.ends.append(got.name)
                return None
            if got.sop_class == VERIFICATION:
                self.peer.echoes += 1
                self.answer(got, 0)
                continue
            self.peer.stored.append(got)
            self.answer(got, self.peer.status(got))

    def send(self, data: bytes) -> None:
        self.stream.send(data, 10)

    def until_closed(self, *, release: bool = True) -> bytes:
        """The last bytes until the requestor closes; a release is answered."""
        got = b""
        self.sock.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while piece := self.sock.recv(1 << 16):
                got = (got + piece)[-256:]
                if release and got.endswith(pdu.release_rq()):
                    self.send(pdu.release_rp())
        return got

    def reset(self) -> None:
        """Close so that the other side sees ECONNRESET."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def answer(to: Stored, status: int, *, message_id: int | None = None, context_id: int | None = None) -> bytes:
    """A response in one P-DATA-TF."""
    echo = to.sop_class == VERIFICATION
    command: dict[int, int | str] = {
        dimse.AFFECTED_SOP_CLASS: to.sop_class,
        dimse.COMMAND_FIELD: dimse.C_ECHO_RSP if echo else dimse.C_STORE_RSP,
        dimse.MESSAGE_ID_RESPONDED_TO: to.message_id if message_id is None else message_id,
        dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
        dimse.STATUS: status,
    }
    return pdu.command_pdus(context_id or to.context_id, dimse.encode_command(command), 16384)


Script = Callable[[Talk], None]


def first_offered(_: str, syntaxes: Sequence[str]) -> str | None:
    return syntaxes[0]


def silent_until_closed(talk: Talk) -> None:
    """The script of a peer that takes a connection and never answers."""
    talk.until_closed()


@dataclass
class Peer(Listener[Talk]):
    """A DICOM destination; each connection is one association."""

    script: Script = Talk.serve
    status: Callable[[Stored], int] = lambda _: 0
    choose: Callable[[str, Sequence[str]], str | None] = first_offered
    max_pdu: int | None = 16384
    stored: list[Stored] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    echoes: int = 0

    def talk(self, sock: socket.socket) -> Talk:
        return Talk(self, sock)

    def cut(self) -> None:
        self.ends.append("closed")

    def destination(self, **changes: object) -> DestinationSettings:
        """This peer as a destination, with short limits."""
        values: dict[str, object] = {
            "name": "dest", "ae_title": "DEST", "host": "127.0.0.1", "port": self.port, "connect_timeout": 2.0,
            "response_timeout": 2.0, "idle": 0.2,
        }  # fmt: skip
        return DestinationSettings(**(values | changes))  # type: ignore[arg-type]


def aborting_on(is_poison: Callable[[Stored], bool]) -> Script:
    """Aborts on some instances, as DCMTK does where pixels are followed by garbage; takes everything else."""

    def script(talk: Talk) -> None:
        talk.accept()
        while isinstance(got := talk.message(), Stored):
            if is_poison(got):
                talk.send(pdu.abort(None))
                talk.until_closed()
                return
            talk.peer.stored.append(got)
            talk.answer(got, 0)
        talk.send(pdu.release_rp())

    return script


def rejecting(*how: int) -> Script:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(pdu.associate_rj(*how))
        talk.until_closed()

    return script


def wait_for(condition: Callable[[], T | None], seconds: float = 60.0) -> T:
    """What a condition gives, as soon as that is true; an assertion after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return found
