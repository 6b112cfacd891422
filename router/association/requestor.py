"""The requesting side of an association (PS3.8 §7): connect, C-STORE blobs from disk, C-ECHO, release.

A data set goes from the file to the socket by sendfile, each fragment's header before it with MSG_MORE, so that no byte
of it passes through this program (with TLS: through one buffer). Every wait has a time limit that grows with the size.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from router.association import dimse, pdu
from router.association.negotiation import VERIFICATION, ProposedContext
from router.association.pdu import Kind, ProtocolError
from router.association.proposing import associate_rq, parse_accept
from router.association.tls import client_context
from router.config.settings import DestinationSettings

__all__ = ["AssociationLostError", "ConnectError", "Requestor", "connect"]

NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
"""Explicit and Implicit VR Little Endian: what every node must speak (PS3.5 §10.1), and what we fall back to."""
MOST_CONTEXTS = 128
DRAIN = 2.0


class ConnectError(Exception):
    """No association. `kind`: connect, tls, rejected, rejected for good, silent, aborted, protocol."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class AssociationLostError(Exception):
    """The association ended before an answer: what became of the instance is not known."""


class Requestor:
    """An established association. Not for several threads; after an AssociationLostError only `close` makes sense."""

    def __init__(
        self,
        destination: DestinationSettings,
        stream: pdu.Stream,
        proposed: Sequence[ProposedContext],
        accepted: Mapping[int, str],
        peer_max_pdu: int,
    ) -> None:
        self.proposed = frozenset((c.abstract_syntax, s) for c in proposed for s in c.transfer_syntaxes)
        """(SOP class, transfer syntax) pairs that were asked for, accepted or not."""
        self.idle_since = time.monotonic()
        self._destination = destination
        self._stream = stream
        self._contexts = {(c.abstract_syntax, accepted[c.id]): c.id for c in reversed(proposed) if c.id in accepted}
        self._fragment = min(peer_max_pdu or pdu.MAX_PDU, pdu.MAX_PDU) - pdu.PDV_HEADER.size
        self._fragment -= self._fragment % 2
        self._peer_max_pdu = peer_max_pdu or pdu.MAX_PDU
        self._message_id = 0

    def accepts(self, sop_class: str, transfer_syntax: str) -> bool:
        return (sop_class, transfer_syntax) in self._contexts

    def fallback(self, sop_class: str) -> str | None:
        """The native syntax that the peer accepted for a SOP class, if any."""
        return next((syntax for syntax in NATIVE if (sop_class, syntax) in self._contexts), None)

    def store(
        self, path: Path, offset: int, size: int, *, sop_class: str, sop_instance: str, transfer_syntax: str
    ) -> int:
        """C-STORE (PS3.7 §9.1.1) `size` bytes at `offset` of a file; the DIMSE status of the answer.

        Raises AssociationLostError, and OSError when the file cannot be read.
        """
        context_id = self._contexts[sop_class, transfer_syntax]
        command: dict[int, int | str] = {
            dimse.AFFECTED_SOP_CLASS: sop_class,
            dimse.COMMAND_FIELD: dimse.C_STORE_RQ,
            dimse.MESSAGE_ID: self._next_message_id(),
            dimse.PRIORITY: 0,
            dimse.DATA_SET_TYPE: dimse.A_DATA_SET,
            dimse.AFFECTED_SOP_INSTANCE: sop_instance,
        }
        limit = self._destination.response_timeout
        deadline = time.monotonic() + limit + size / self._destination.least_rate
        with path.open("rb") as file, self._losing():
            self._stream.send(pdu.command_pdus(context_id, dimse.encode_command(command), self._peer_max_pdu), limit)
            if isinstance(self._stream.sock, ssl.SSLSocket):
                self._send_copied(file.fileno(), offset, size, context_id, deadline)
            else:
                self._send_file(file.fileno(), offset, size, context_id, deadline)
            status = self._answer(dimse.C_STORE_RSP, limit)
        self.idle_since = time.monotonic()
        return status

    def echo(self) -> int:
        """C-ECHO (PS3.7 §9.1.5). Raises AssociationLostError."""
        command: dict[int, int | str] = {
            dimse.AFFECTED_SOP_CLASS: VERIFICATION,
            dimse.COMMAND_FIELD: dimse.C_ECHO_RQ,
            dimse.MESSAGE_ID: self._next_message_id(),
            dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
        }
        context_id = next(number for (sop_class, _), number in self._contexts.items() if sop_class == VERIFICATION)
        with self._losing():
            data = pdu.command_pdus(context_id, dimse.encode_command(command), self._peer_max_pdu)
            self._stream.send(data, self._destination.response_timeout)
            return self._answer(dimse.C_ECHO_RSP, self._destination.response_timeout)

    def lost(self) -> bool:
        """Whether the peer has closed or spoken while nothing was asked of it: then the association is of no use."""
        if isinstance(self._stream.sock, ssl.SSLSocket) and self._stream.sock.pending():
            return True
        return bool(select.select([self._stream.sock], [], [], 0)[0])

    def release(self) -> None:
        """A-RELEASE, politely and not for long; then close."""
        with contextlib.suppress(OSError, ProtocolError, pdu.PeerClosedError):
            self._stream.send(pdu.release_rq(), DRAIN)
            kind, length = self._stream.read_header(5.0)
            self._stream.read_body(length, 5.0)
            if kind is Kind.RELEASE_RQ:  # a collision: as the requestor we answer first (PS3.8 §7.2.2.7)
                self._stream.send(pdu.release_rp(), DRAIN)
        self._stream.sock.close()

    def abort(self) -> None:
        """A-ABORT, then close."""
        with contextlib.suppress(OSError, pdu.PeerClosedError):
            self._stream.send(pdu.abort(None), DRAIN)
            self._stream.drain(DRAIN)
        self._stream.sock.close()

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _send_file(self, fd: int, offset: int, size: int, context_id: int, deadline: float) -> None:
        sock, end = self._stream.sock, offset + size
        sock.setblocking(False)
        while offset < end:
            count = min(self._fragment, end - offset)
            header = pdu.p_data_header(context_id, count, command=False, last=offset + count == end)
            _send_now(sock, header, deadline)
            stop = offset + count
            while offset < stop:
                try:
                    sent = os.sendfile(sock.fileno(), fd, offset, stop - offset)
                except BlockingIOError:
                    _wait_writable(sock, deadline)
                    continue
                if sent == 0:
                    raise OSError(f"the blob is shorter than its row says (at byte {offset})")
                offset += sent

    def _send_copied(self, fd: int, offset: int, size: int, context_id: int, deadline: float) -> None:
        end, buffer = offset + size, bytearray(12 + self._fragment)
        while offset < end:
            count = min(self._fragment, end - offset)
            buffer[:12] = pdu.p_data_header(context_id, count, command=False, last=offset + count == end)
            if os.preadv(fd, [memoryview(buffer)[12 : 12 + count]], offset) != count:
                raise OSError(f"the blob is shorter than its row says (at byte {offset})")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._stream.send(memoryview(buffer)[: 12 + count], left)
            offset += count

    def _answer(self, expected: int, limit: float) -> int:
        """The status of the answer to the one message that is outstanding."""
        deadline = time.monotonic() + limit
        command = bytearray()
        while True:
            kind, length = self._stream.read_header(max(0.0, deadline - time.monotonic()))
            body = self._stream.read_body(length, max(0.0, deadline - time.monotonic()))
            if kind is Kind.ABORT:
                raise AssociationLostError("the peer aborted")
            if kind is not Kind.P_DATA:
                raise AssociationLostError(f"the peer sent {kind.name} instead of an answer")
            for value in pdu.pdvs(body):
                if not value.is_command:
                    continue
                command += value.fragment
                if len(command) > dimse.MAX_COMMAND:
                    raise ProtocolError("the answer's command set is too long")
                if value.is_last:
                    return self._status(bytes(command), expected)

    def _status(self, command: bytes, expected: int) -> int:
        answer = dimse.decode_command(command)
        status = answer.number(dimse.STATUS)
        if answer.field != expected or status is None:
            raise ProtocolError("an answer to something that was not asked")
        if answer.number(dimse.MESSAGE_ID_RESPONDED_TO) not in (self._message_id, None):
            raise ProtocolError("an answer to another message")
        return status

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Every way in which an association can end, as one exception."""
        try:
            yield
        except TimeoutError as error:
            raise AssociationLostError("no answer in time") from error
        except pdu.PeerClosedError as error:
            raise AssociationLostError("the peer closed the connection") from error
        except (ProtocolError, dimse.CommandError) as error:
            raise AssociationLostError(f"the peer broke the protocol: {error}") from error
        except (ConnectionError, ssl.SSLError) as error:
            raise AssociationLostError("the connection broke") from error


def connect(
    destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]], *, echo: bool = False
) -> Requestor:
    """An association with a destination for the (SOP class, transfer syntax) pairs wanted. Raises ConnectError."""
    contexts = proposals(wanted, destination.syntaxes, echo=echo)
    limit = destination.connect_timeout
    try:
        sock = socket.create_connection((destination.host, destination.port), timeout=limit)
    except OSError as error:
        raise ConnectError("connect", f"cannot connect: {error.strerror or 'timed out or unknown host'}") from error
    try:
        if destination.tls is not None:
            sock = client_context(destination.tls).wrap_socket(sock, server_hostname=destination.host)
        stream = pdu.Stream(sock)
        stream.send(associate_rq(calling_ae, destination.ae_title, contexts), limit)
        kind, length = stream.read_header(limit)
        body = stream.read_body(length, limit)
        if kind is Kind.ASSOCIATE_AC:
            accepted, peer_max_pdu = parse_accept(body)
            return Requestor(destination, stream, contexts, accepted, peer_max_pdu)
        raise _refusal(kind, body)
    except ssl.SSLError as error:
        sock.close()
        raise ConnectError("tls", f"the TLS handshake failed ({error.reason or 'no reason given'})") from error
    except TimeoutError as error:
        sock.close()
        raise ConnectError("silent", "connected, but no answer to the association request in time") from error
    except (OSError, pdu.PeerClosedError) as error:
        sock.close()
        raise ConnectError("aborted", "the peer closed the connection during association") from error
    except ProtocolError as error:
        sock.close()
        raise ConnectError("protocol", f"the peer broke the protocol: {error}") from error
    except ConnectError:
        sock.close()
        raise


def _refusal(kind: Kind, body: memoryview) -> ConnectError:
    if kind is Kind.ASSOCIATE_RJ:
        result, source, reason = body[1], body[2], body[3]
        words = REJECTED.get((source, reason), f"source {source}, reason {reason}")
        if result == 1:
            return ConnectError("rejected for good", f"association rejected: {words}")
        return ConnectError("rejected", f"association rejected for now: {words}")
    if kind is Kind.ABORT:
        return ConnectError("aborted", "the peer aborted the association request")
    return ConnectError("protocol", f"the peer answered an association request with {kind.name}")


REJECTED = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognised there; enter ours in the peer, or set calling_ae_title",
    (1, 7): "called AE title not recognised there; check ae_title",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""PS3.8 table 9-21, with the fix where we know one."""


def proposals(
    wanted: Sequence[tuple[str, str]], syntaxes: tuple[str, ...] | None, *, echo: bool
) -> list[ProposedContext]:
    """For each pair its own syntax, for each SOP class native ones as fallback; at most 128 contexts."""
    allowed = None if syntaxes is None else frozenset(syntaxes)
    asked: list[tuple[str, tuple[str, ...]]] = []
    if echo or not wanted:
        asked.append((VERIFICATION, NATIVE))
    for sop_class, syntax in dict.fromkeys(wanted):
        if allowed is None or syntax in allowed:
            asked.append((sop_class, (syntax,)))
    for sop_class in dict.fromkeys(sop_class for sop_class, _ in wanted):
        native = tuple(s for s in NATIVE if allowed is None or s in allowed)
        if native:
            asked.append((sop_class, native))
    return [ProposedContext(2 * n + 1, sop_class, s) for n, (sop_class, s) in enumerate(asked[:MOST_CONTEXTS])]


def _send_now(sock: socket.socket, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view, socket.MSG_MORE) :]
        except BlockingIOError:
            _wait_writable(sock, deadline)


def _wait_writable(sock: socket.socket, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError
