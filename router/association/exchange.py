"""DIMSE messages on an association that this node has opened: send one, and read whole messages of limited size.

The callers know what the messages are for: `requestor` stores and sends C-ECHO, `commitment` asks for commitment.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum

from router.association import dimse, pdu
from router.association.connecting import Established
from router.association.dimse import Command
from router.association.pdu import Kind, ProtocolError
from router.association.services import MOST_BYTES
from router.errors import RouterError

DRAIN, RELEASE = 2.0, 5.0
"""Seconds for a peer to close after our A-ABORT, or to answer our A-RELEASE."""
NETWORK_ERRORS = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
"""Errors of a socket that are no ConnectionError in Python. Any other OSError while sending comes from the file."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which a close resets the connection."""


class Loss(StrEnum):
    """How an association was lost."""

    SILENT = "silent"
    """The peer let a time limit pass."""
    ENDED = "ended"
    """The peer closed, aborted or broke the protocol, or the network broke."""


class AssociationLostError(RouterError):
    """There is no answer, and the association cannot be used any more. What became of the request is not known."""

    def __init__(self, reason: str, kind: Loss = Loss.ENDED) -> None:
        super().__init__(reason)
        self.kind = kind


@contextlib.contextmanager
def losing() -> Iterator[None]:
    """Turns every failure of an association into an AssociationLostError. Any other OSError goes through."""
    try:
        yield
    except TimeoutError as error:
        raise AssociationLostError("no answer in time", Loss.SILENT) from error
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


class Exchange:
    """Sends messages and reads answers. For one thread. After a loss only `abort` may be called.

    Its methods raise TimeoutError, PeerClosedError, ProtocolError and OSError; `losing` makes one error of them.
    """

    def __init__(self, established: Established, limit: float) -> None:
        """`limit`: the seconds that the peer may take to answer, and to accept what we send."""
        self.stream = established.stream
        self.limit = limit
        self.max_pdu = established.peer_max_pdu or pdu.MAX_PDU
        """Bytes that the body of a P-DATA-TF to the peer may have."""
        self.inside_pdu = False
        """Whether only part of a PDU was sent. The peer would read the next bytes as the rest of it."""
        self._accepted = frozenset(established.accepted)
        self._message_id = 0
        self._fragments: deque[pdu.Pdv] = deque()

    @property
    def closed(self) -> bool:
        return self.stream.sock.fileno() < 0

    def next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def send(self, data: bytes | bytearray, seconds: float | None = None) -> None:
        """Send whole PDUs within so many seconds (default: the limit)."""
        self.inside_pdu = True
        self.stream.send(data, self.limit if seconds is None else seconds)
        self.inside_pdu = False

    def send_message(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a command set, and the small data set that it announces, as they are."""
        self.send(pdu.command_pdus(context_id, command, self.max_pdu))
        if data_set:
            self.send(pdu.data_set_pdus(context_id, data_set, self.max_pdu))

    def message(self, deadline: float) -> tuple[Command, bytes, int]:
        """The next whole message: command set, data set where it has one, and their presentation context."""
        self._fill(deadline)
        context_id = self._fragments[0].context_id
        if context_id not in self._accepted:
            raise ProtocolError("a message in a presentation context that was not accepted")
        command = dimse.decode_command(self._part(context_id, deadline, dimse.MAX_COMMAND, command=True))
        if command.field in (dimse.C_STORE_RSP, dimse.C_ECHO_RSP):
            return command, b"", context_id  # these have none, even if their Data Set Type says so
        data_set = self._part(context_id, deadline, MOST_BYTES, command=False) if command.has_data_set else b""
        return command, data_set, context_id

    def status(self, answer: Command, expected: int) -> int:
        """The status of the answer to the last message, which must have the command field expected."""
        status = answer.number(dimse.STATUS)
        if answer.field != expected or status is None:
            raise ProtocolError("an answer to something that was not asked")
        if answer.number(dimse.MESSAGE_ID_RESPONDED_TO) not in (self._message_id, None):
            raise ProtocolError("an answer to another message")
        return status

    def lost(self) -> bool:
        """Whether the peer has closed or spoken unasked. Such an association cannot be used."""
        sock = self.stream.sock
        if self._fragments or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def release(self) -> None:
        """Send an A-RELEASE-RQ, wait a short time for the answer, then close."""
        deadline = time.monotonic() + RELEASE
        with contextlib.suppress(OSError, ProtocolError, pdu.PeerClosedError):
            self.stream.send(pdu.release_rq(), DRAIN)
            while (kind := self._read(deadline)[0]) not in (Kind.RELEASE_RP, Kind.ABORT):
                if kind is Kind.RELEASE_RQ:
                    # A collision: the requestor answers first, and then gets its own answer (PS3.8 §7.2.2.7).
                    self.stream.send(pdu.release_rp(), DRAIN)
                elif kind is not Kind.P_DATA:  # what the peer sent before it knew of the release
                    break
        self.stream.sock.close()

    def abort(self) -> None:
        """Send an A-ABORT, then close. In the middle of a PDU only close: the peer would read the A-ABORT as data."""
        with contextlib.suppress(OSError, pdu.PeerClosedError):
            if self.inside_pdu:
                self.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                self.stream.send(pdu.abort(None), DRAIN)
                self.stream.drain(DRAIN)
        self.stream.sock.close()

    def _read(self, deadline: float) -> tuple[Kind, memoryview]:
        kind, length = self.stream.read_header(deadline - time.monotonic())
        return kind, self.stream.read_body(length, deadline - time.monotonic())

    def _part(self, context_id: int, deadline: float, most: int, *, command: bool) -> bytes:
        """A whole command set or data set."""
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
        """Read at least one more fragment. Keep all fragments of a PDU: the next message may begin in the same PDU."""
        while not self._fragments:
            kind, body = self._read(deadline)
            if kind is Kind.ABORT:
                raise AssociationLostError(f"the peer aborted ({pdu.abort_words(body)})")
            if kind is not Kind.P_DATA:
                raise AssociationLostError(f"the peer sent {kind.name} instead of an answer")
            self._fragments += [replace(one, fragment=memoryview(bytes(one.fragment))) for one in pdu.pdvs(body)]
