"""The requesting side of an association (PS3.8 §7): connect, C-STORE blobs from disk, C-ECHO, release.

A data set goes from the file to the socket by sendfile, each fragment's header before it with MSG_MORE, so that no
byte of it passes through this program (with TLS: through one buffer). Behind one of odd length goes a NUL: fragments
must be even (PS3.8 annex E), and DCMTK and Orthanc refuse one that is not. A peer that takes nothing for as long as it
may take to answer is silent, and so is one that falls below its least rate.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from router.association import dimse, pdu
from router.association.connecting import ConnectError, ConnectKind, associate
from router.association.dimse import Command
from router.association.messages import SUCCESS, UNRECOGNIZED_OPERATION, response
from router.association.negotiation import ProposedContext
from router.association.pdu import Kind, Pace, ProtocolError
from router.association.proposing import NATIVE, proposals
from router.association.reports import MOST_BYTES
from router.config.settings import DestinationSettings
from router.dicom.uids import VERIFICATION
from router.errors import RouterError

DRAIN, RELEASE = 2.0, 5.0
"""Seconds that an end may take: for a peer to close after our A-ABORT, and to answer our A-RELEASE."""
NETWORK_ERRORS = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
"""What a socket can raise that Python calls no ConnectionError; any other OSError while sending is the file's."""
RESET = struct.pack("ii", 1, 0)
MOST_REQUESTS = 16
"""The most requests that a peer may send before it answers."""


__all__ = ["AssociationLostError", "ConnectError", "ConnectKind", "Requestor", "associate", "connect", "proposals"]


class AssociationLostError(RouterError):
    """No answer, and the association is of no more use: what became of the instance is not known.

    `kind`: silent (the peer let a time limit pass) or ended (it closed, aborted or broke the protocol).
    """

    def __init__(self, reason: str, kind: Literal["silent", "ended"] = "ended") -> None:
        super().__init__(reason)
        self.kind = kind


class Requestor:
    """An established association. Not for several threads; after an AssociationLostError only `close` makes sense."""

    def __init__(
        self,
        destination: DestinationSettings,
        stream: pdu.Stream,
        proposed: Sequence[ProposedContext],
        accepted: Mapping[int, str],
        peer_max_pdu: int,
        excluded: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.idle_since = time.monotonic()
        self._destination = destination
        self._stream = stream
        self._contexts = {
            (c.abstract_syntax, accepted[c.id]): c.id
            for c in reversed(proposed)
            if accepted.get(c.id) in c.transfer_syntaxes
        }
        alone = {(c.abstract_syntax, c.transfer_syntaxes[0]) for c in proposed if len(c.transfer_syntaxes) == 1}
        self.proposed = excluded | alone | self._contexts.keys()
        """(SOP class, transfer syntax) pairs for which a new association would bring nothing: they were proposed in a
        context of their own, were accepted, or are excluded by the settings."""
        room = min(peer_max_pdu or pdu.MAX_PDU, pdu.MAX_PDU) - pdu.PDV_HEADER.size
        self._fragment = max(1, room - room % 2)
        self._peer_max_pdu = peer_max_pdu or pdu.MAX_PDU
        self._accepted = frozenset(accepted)
        self._message_id = 0
        self._fragments: deque[pdu.Pdv] = deque()
        self._declined = 0
        """Requests of the peer that were answered here."""
        self._inside_pdu = False
        """Whether part of a PDU was sent: the peer would take what follows for the rest of it."""

    @property
    def closed(self) -> bool:
        return self._stream.sock.fileno() < 0

    @property
    def accepts_echo(self) -> bool:
        return any(sop_class == VERIFICATION for sop_class, _ in self._contexts)

    def accepts(self, sop_class: str, transfer_syntax: str) -> bool:
        return (sop_class, transfer_syntax) in self._contexts

    def fallback(self, sop_class: str) -> str | None:
        """The native syntax that the peer accepted for a SOP class, if any."""
        return next((syntax for syntax in NATIVE if (sop_class, syntax) in self._contexts), None)

    def store(
        self,
        path: Path,
        offset: int,
        size: int,
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        padded: bool = True,
    ) -> int:
        """C-STORE (PS3.7 §9.1.1) `size` bytes at `offset` of a file; the DIMSE status of the answer.

        With `padded` false a data set of odd length is sent as it is. Tests do so, as some real senders do.
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
        with path.open("rb") as file, self._losing():
            self._send(pdu.command_pdus(context_id, dimse.encode_command(command), self._peer_max_pdu), self._limit)
            early, declined = self._send_data_set(file.fileno(), offset, size, context_id, padded), self._declined
            status = self._answer(dimse.C_STORE_RSP)
            if early and declined == self._declined and _claims_to_have_it(status):
                raise ProtocolError("it answered before the data set was complete")
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
        if not self.accepts_echo:
            raise AssociationLostError("the peer refused the presentation context for C-ECHO")
        context_id = next(number for (sop_class, _), number in self._contexts.items() if sop_class == VERIFICATION)
        with self._losing():
            self._send(pdu.command_pdus(context_id, dimse.encode_command(command), self._peer_max_pdu), self._limit)
            return self._answer(dimse.C_ECHO_RSP)

    def lost(self) -> bool:
        """Whether the peer has closed or spoken while nothing was asked of it: then the association is of no use."""
        sock = self._stream.sock
        if self._fragments or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def release(self) -> None:
        """A-RELEASE, politely and not for long; then close."""
        deadline = time.monotonic() + RELEASE
        with contextlib.suppress(OSError, ProtocolError, pdu.PeerClosedError):
            self._stream.send(pdu.release_rq(), DRAIN)
            while (kind := self._read(deadline)[0]) not in (Kind.RELEASE_RP, Kind.ABORT):
                if kind is Kind.RELEASE_RQ:
                    # A collision: the requestor answers first, and then gets its own answer (PS3.8 §7.2.2.7).
                    self._stream.send(pdu.release_rp(), DRAIN)
                elif kind is not Kind.P_DATA:  # what the peer sent before it knew of the release
                    break
        self._stream.sock.close()

    def abort(self) -> None:
        """A-ABORT, then close; in the middle of a PDU without a word, for its bytes would become data there."""
        with contextlib.suppress(OSError, pdu.PeerClosedError):
            if self._inside_pdu:
                self._stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                self._stream.send(pdu.abort(None), DRAIN)
                self._stream.drain(DRAIN)
        self._stream.sock.close()

    @property
    def _limit(self) -> float:
        return self._destination.response_timeout

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _send(self, data: bytes | bytearray, seconds: float) -> None:
        self._inside_pdu = True
        self._stream.send(data, seconds)
        self._inside_pdu = False

    def _send_data_set(self, fd: int, offset: int, size: int, context_id: int, padded: bool) -> bool:
        """All fragments; whether the peer had spoken before it could have the last one."""
        send = self._copy_fragment if isinstance(self._stream.sock, ssl.SSLSocket) else self._send_fragment
        pace, end, early = Pace(self._limit, self._destination.least_rate), offset + size, False
        while True:
            count = min(self._fragment, end - offset)
            last = offset + count == end
            early = last and self.lost()
            pad = b"\0" * (size % 2) if last and padded and self._fragment > 1 else b""
            header = pdu.p_data_header(context_id, count + len(pad), command=False, last=last)
            send(fd, offset, count, header, pad, pace)
            pace.received += count
            offset += count
            if last:
                return early

    def _send_fragment(self, fd: int, offset: int, count: int, header: bytes, pad: bytes, pace: Pace) -> None:
        sock, stop = self._stream.sock, offset + count
        sock.setblocking(False)
        self._inside_pdu = True
        self._send_bytes(header, pace, socket.MSG_MORE if count else 0)
        while offset < stop:
            try:
                sent = os.sendfile(sock.fileno(), fd, offset, stop - offset)
            except BlockingIOError:
                self._wait_writable(pace)
                continue
            if sent == 0:
                raise OSError(f"the blob is shorter than its row says (at byte {offset})")
            offset += sent
        self._send_bytes(pad, pace)
        self._inside_pdu = False

    def _send_bytes(self, data: bytes, pace: Pace, flags: int = 0) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._stream.sock.send(view, flags) :]
            except BlockingIOError:
                self._wait_writable(pace)

    def _copy_fragment(self, fd: int, offset: int, count: int, header: bytes, pad: bytes, pace: Pace) -> None:
        data = bytearray(len(header) + count + len(pad))
        data[: len(header)] = header
        if os.preadv(fd, [memoryview(data)[len(header) : len(header) + count]], offset) != count:
            raise OSError(f"the blob is shorter than its row says (at byte {offset})")
        started = time.monotonic()
        self._send(data, self._patience(pace))
        pace.waited += time.monotonic() - started

    def _patience(self, pace: Pace) -> float:
        """Seconds that the peer may let us wait now. Raises TimeoutError when there are none."""
        seconds = min(pace.left(), self._limit)
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _wait_writable(self, pace: Pace) -> None:
        poll = select.poll()
        poll.register(self._stream.sock, select.POLLOUT)
        started = time.monotonic()
        if not poll.poll(self._patience(pace) * 1000):
            raise TimeoutError
        pace.waited += time.monotonic() - started

    def _read(self, deadline: float) -> tuple[Kind, memoryview]:
        kind, length = self._stream.read_header(deadline - time.monotonic())
        return kind, self._stream.read_body(length, deadline - time.monotonic())

    def _answer(self, expected: int) -> int:
        """The status of the answer to the one message that is outstanding, on whichever accepted context it comes.

        Some peers answer on another context of the same SOP class: the message ID says what is answered (PS3.7 §6.3).
        """
        deadline = time.monotonic() + self._limit
        for _ in range(MOST_REQUESTS + 1):
            command, _, context_id = self._message(deadline)
            if command.field & dimse.RESPONSE:
                return self._status(command, expected)
            self._decline(command, context_id)
        raise ProtocolError("request after request instead of an answer")

    def _decline(self, request: Command, context_id: int) -> None:
        """Answer a request that the peer sends while it owes an answer: success for C-ECHO, a refusal for all else."""
        self._declined += 1
        if request.field != dimse.C_CANCEL_RQ:
            status = SUCCESS if request.field == dimse.C_ECHO_RQ else UNRECOGNIZED_OPERATION
            self._send(pdu.command_pdus(context_id, response(request, status), self._peer_max_pdu), self._limit)

    def _message(self, deadline: float) -> tuple[Command, bytes, int]:
        """The next whole message: command set, data set where it has one, and their presentation context."""
        self._fill(deadline)
        context_id = self._fragments[0].context_id
        if context_id not in self._accepted:
            raise ProtocolError("a message in a presentation context that was not accepted")
        command = dimse.decode_command(self._part(context_id, deadline, dimse.MAX_COMMAND, command=True))
        if command.field in (dimse.C_STORE_RSP, dimse.C_ECHO_RSP):
            return command, b"", context_id  # these have none, whatever their Data Set Type says
        data_set = self._part(context_id, deadline, MOST_BYTES, command=False) if command.has_data_set else b""
        return command, data_set, context_id

    def _part(self, context_id: int, deadline: float, most: int, *, command: bool) -> bytes:
        part, count = bytearray(), 0
        while True:
            self._fill(deadline)
            value, count = self._fragments.popleft(), count + 1
            part += value.fragment
            pdu.check_fragments(count, len(part))
            if (value.context_id, value.is_command) != (context_id, command):
                raise ProtocolError("a message whose command set and data set are out of order or mixed with another")
            if len(part) > most:
                raise ProtocolError("a message that is too long")
            if value.is_last:
                return bytes(part)

    def _fill(self, deadline: float) -> None:
        """Read at least one more fragment. All fragments of a PDU are kept: the next message may begin in it."""
        while not self._fragments:
            kind, body = self._read(deadline)
            if kind is Kind.ABORT:
                raise AssociationLostError(f"the peer aborted ({pdu.abort_words(body)})")
            if kind is not Kind.P_DATA:
                raise AssociationLostError(f"the peer sent {kind.name} instead of an answer")
            self._fragments += [replace(one, fragment=memoryview(bytes(one.fragment))) for one in pdu.pdvs(body)]

    def _status(self, answer: Command, expected: int) -> int:
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
            raise AssociationLostError("no answer in time", "silent") from error
        except pdu.PeerClosedError as error:
            raise AssociationLostError("the peer closed the connection") from error
        except ProtocolError as error:
            raise AssociationLostError(f"the peer broke the protocol: {error}") from error
        except (ConnectionError, ssl.SSLError) as error:
            raise AssociationLostError("the connection broke") from error
        except OSError as error:
            if error.errno not in NETWORK_ERRORS:
                raise
            raise AssociationLostError("the connection broke") from error


def connect(
    destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]], *, echo: bool = False
) -> Requestor:
    """An association with a destination for the (SOP class, transfer syntax) pairs wanted. Raises ConnectError."""
    contexts = proposals(wanted, destination.syntaxes, echo=echo)
    allowed = destination.syntaxes
    excluded = frozenset(pair for pair in wanted if allowed is not None and pair[1] not in allowed)
    return Requestor(destination, *associate(destination, calling_ae, contexts), excluded)


def _claims_to_have_it(status: int) -> bool:
    """Success and warnings (PS3.7 annex C)."""
    return status in (0x0000, 0x0001, 0x0107, 0x0116) or status >> 12 == 0xB
