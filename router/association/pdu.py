"""PDUs of PS3.8 §9.3 on a socket: read one with a deadline and a bound, take its PDVs, build the short ones.

Received bytes are not copied here. A PDU lies in the stream's one buffer, and its PDVs are views of that buffer. The
views are valid until the next PDU is read. The reader decides what a PDU means.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

MAX_PDU = 131072
"""Bytes. The maximum length that we announce, and the most that the body of a P-DATA-TF may have (PS3.8 annex D.1)."""
MAX_ASSOCIATE = 512 * 1024
"""The most bytes of an A-ASSOCIATE body. 128 contexts that each offer every transfer syntax of PS3.5 need half."""
DEFAULT_MAX_PDU = 16384
"""Bytes of a P-DATA-TF body for a peer that announced no maximum."""

LONG = 4096
"""Bytes. A body of this length or more belongs to a data set. The next header is read with it: one system call less."""

FREE_FRAGMENTS, FREE_BY_MESSAGE, LEAST_FRAGMENT = 2560, 8, 128
"""An association may have FREE_FRAGMENTS fragments, FREE_BY_MESSAGE more for each message, and one more for each
LEAST_FRAGMENT bytes. Real peers send fragments of kilobytes. Empty ones, or single bytes, cost a thousand times as much
work as their bytes would."""

HEADER = Struct(">BxI")
PDV_HEADER = Struct(">IBB")
COMMAND_BIT, LAST_BIT = 1, 2
"""Bits of the control header of a PDV: it belongs to a command set; it is the last of its command set or data set."""


class Kind(IntEnum):
    """PDU types (PS3.8 §9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


STRANGERS = {
    0x15: "it answers in TLS (set tls for this peer)",
    0x16: "it speaks TLS on a port without TLS (node.tls.port has it)",
    ord("G"): "it speaks HTTP",
    ord("H"): "it speaks HTTP",
    ord("P"): "it speaks HTTP",
}
"""What the first byte of other protocols says: alert and handshake of TLS, GET, HEAD or HTTP, POST or PUT."""
KINDS = {int(kind): kind for kind in Kind}


PROVIDER = 2
"""The source in an A-ABORT by the service provider. 0 is the service user, who gives no reason."""


class AbortReason(IntEnum):
    """Reason/Diag. of an A-ABORT by the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ProtocolError(Exception):
    """The peer broke PS3.7 or PS3.8. `reason` is None if the service user (DIMSE) aborts."""

    def __init__(self, message: str, reason: AbortReason | None = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


class PeerClosedError(Exception):
    """The peer closed or lost the transport connection (Evt17)."""


@dataclass(frozen=True, slots=True)
class Pdv:
    """A presentation data value (PS3.8 §9.3.5.1): `fragment` is a view of the stream's buffer."""

    context_id: int
    is_command: bool
    is_last: bool
    fragment: memoryview


@dataclass(slots=True)
class Pace:
    """How long a transfer may still make us wait, if it must keep a least average rate.

    That is `grace` seconds, plus the time that the bytes received so far take at `least_rate` (bytes a second). Only
    time spent waiting for the peer counts. So a slow disk here is not counted against the peer.
    """

    grace: float
    least_rate: int
    received: int = 0
    waited: float = 0.0

    def left(self) -> float:
        return self.grace + self.received / self.least_rate - self.waited


class Stream:
    """The PDUs of one connection, read into one buffer that holds the longest body and the next header.

    Every wait has a limit. TimeoutError: the peer took longer. PeerClosedError: it closed. ProtocolError: it sent a PDU
    of an unknown kind, or one longer than its kind may be. This is raised before the body is read.
    """

    def __init__(self, sock: socket.socket, max_pdu: int = MAX_PDU) -> None:
        self.sock = sock
        self._max_pdu = max_pdu
        self._buffer = memoryview(bytearray(max_pdu + HEADER.size))
        self._header = memoryview(bytearray(HEADER.size))
        self.failure: OSError | None = None
        """The error that broke the connection; None if the peer closed it."""
        self._ahead = 0
        """Bytes of the next PDU's header that came along with a long body."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def read_header(self, seconds: float) -> tuple[Kind, int]:
        """Kind and body length of the next PDU. All six bytes must come within `seconds`."""
        self._fill(self._header[self._ahead :], time.monotonic() + seconds)
        self._ahead = 0
        code, length = HEADER.unpack(self._header)
        kind = KINDS.get(code)
        if kind is None:
            words = STRANGERS.get(code, f"a PDU of unknown type {code:#04x}")
            raise ProtocolError(words, AbortReason.UNRECOGNIZED_PDU)
        if kind is Kind.P_DATA:
            fits = 0 < length <= self._max_pdu
        elif kind in (Kind.ASSOCIATE_RQ, Kind.ASSOCIATE_AC):
            fits = length <= MAX_ASSOCIATE
        else:
            fits = length == 4
        if not fits:
            raise ProtocolError(f"a {kind.name} PDU of impossible length")
        return kind, length

    def read_body(self, length: int, seconds: float) -> memoryview:
        """The body of the PDU whose header was just read. The view is valid until the next PDU."""
        deadline = time.monotonic() + seconds
        if LONG <= length <= self._max_pdu:
            came = self._fill(self._buffer[: length + HEADER.size], deadline, least=length)
            self._ahead = came - length
            self._header[: self._ahead] = self._buffer[length:came]
            return self._buffer[:length]
        body = self._buffer[:length] if length <= self._max_pdu else memoryview(bytearray(length))
        self._fill(body, deadline)
        return body

    def send(self, data: bytes | bytearray | memoryview, seconds: float) -> None:
        """Send all of `data` within `seconds`. Raises TimeoutError, or PeerClosedError if the connection is gone."""
        self.sock.settimeout(seconds)
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            self.failure = error
            raise PeerClosedError from error

    def wake(self) -> None:
        """Called from another thread. A waiting read ends as if the peer had closed. Sending still works."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RD)
        except OSError:
            pass

    def drain(self, seconds: float, most: int = 16 * 1024 * 1024) -> None:
        """Shut down sending, and read and drop what still comes, so that no reset overtakes our last PDU.

        Waits until the peer closes, at most for `seconds` or `most` bytes (Sta13 of PS3.8 table 9-10).
        """
        deadline = time.monotonic() + seconds
        try:
            # Not SSLSocket.shutdown: it would drop the TLS session, and reads would see ciphertext.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            while most > 0 and (count := self._receive(self._buffer, deadline)):
                most -= count
        except (OSError, ValueError):
            pass

    def _fill(self, view: memoryview, deadline: float, least: int | None = None) -> int:
        """Fill a view, or stop when at least `least` bytes are there. Returns how many came."""
        at, enough = 0, len(view) if least is None else least
        while at < enough:
            count = self._receive(view[at:], deadline)
            if not count:
                raise PeerClosedError
            at += count
        return at

    def _receive(self, view: memoryview, deadline: float) -> int:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        try:
            count = self.sock.recv_into(view)
            # Linux resets it by itself. Without it a sender with Nagle's algorithm waits 40 ms for our ACK.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except (TimeoutError, ssl.SSLWantReadError):
            raise TimeoutError from None
        except OSError as error:
            self.failure = error
            return 0
        return count


def check_fragments(count: int, size: int, messages: int = 1) -> None:
    """Raise ProtocolError if `messages` of `size` bytes in all came in more fragments than allowed."""
    if count > FREE_FRAGMENTS + FREE_BY_MESSAGE * messages + size // LEAST_FRAGMENT:
        raise ProtocolError("a message in countless tiny fragments", None)


def pdvs(body: memoryview) -> Iterator[Pdv]:
    """The PDVs of a P-DATA-TF body (PS3.8 §9.3.5, annex E.2); reserved bits of the control header are ignored."""
    at, end = 0, len(body)
    while at < end:
        if end - at < PDV_HEADER.size:
            raise ProtocolError("a PDV header is cut")
        length, context_id, control = PDV_HEADER.unpack_from(body, at)
        if not 2 <= length <= end - at - 4:
            raise ProtocolError("a PDV has an impossible length")
        start, at = at + PDV_HEADER.size, at + 4 + length
        yield Pdv(context_id, bool(control & COMMAND_BIT), bool(control & LAST_BIT), body[start:at])


def p_data_header(context_id: int, length: int, *, command: bool, last: bool) -> bytes:
    """The twelve bytes before a fragment of `length` bytes that travels alone in its P-DATA-TF."""
    control = COMMAND_BIT * command | LAST_BIT * last
    return HEADER.pack(Kind.P_DATA, length + PDV_HEADER.size) + PDV_HEADER.pack(length + 2, context_id, control)


def command_pdus(context_id: int, command: bytes, max_pdu: int) -> bytes:
    """A whole command set as P-DATA-TF PDUs that the peer takes. Its `max_pdu` is at least 7."""
    return _p_data(context_id, command, max_pdu, command=True)


def data_set_pdus(context_id: int, data_set: bytes, max_pdu: int) -> bytes:
    """The same for a small data set that is in memory."""
    return _p_data(context_id, data_set, max_pdu, command=False)


def _p_data(context_id: int, data: bytes, max_pdu: int, *, command: bool) -> bytes:
    step = min(max_pdu, MAX_PDU) - PDV_HEADER.size
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    last = len(pieces) - 1
    return b"".join(
        p_data_header(context_id, len(piece), command=command, last=number == last) + piece
        for number, piece in enumerate(pieces)
    )


def associate_rj(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21): result 1 permanent or 2 transient."""
    return HEADER.pack(Kind.ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def release_rq() -> bytes:
    return HEADER.pack(Kind.RELEASE_RQ, 4) + bytes(4)


def release_rp() -> bytes:
    return HEADER.pack(Kind.RELEASE_RP, 4) + bytes(4)


def abort_words(body: bytes | memoryview) -> str:
    """What an A-ABORT says, for people (PS3.8 table 9-26)."""
    if body[2] != PROVIDER:
        return "without a reason"
    reason = next((one for one in AbortReason if one == body[3]), AbortReason.NOT_SPECIFIED)
    return "reason: " + reason.name.lower().replace("_", " ").replace("pdu", "PDU")


def abort(reason: AbortReason | None) -> bytes:
    """A-ABORT by the service provider for `reason`, or by the service user if `reason` is None."""
    source_and_reason = bytes((0, 0)) if reason is None else bytes((PROVIDER, reason))
    return HEADER.pack(Kind.ABORT, 4) + bytes(2) + source_and_reason
