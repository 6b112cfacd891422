"""Opens an association: connect, TLS, A-ASSOCIATE-RQ and its answer. If it fails, says why in words for people."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from router.association import pdu
from router.association.lacks import lacks_descriptors, own_limit
from router.association.negotiation import ProposedContext
from router.association.pdu import AbortReason, Kind, ProtocolError
from router.association.proposing import associate_rq, parse_accept
from router.association.tls import client_context, tls_words, unusable
from router.config.settings import ClientTls, DestinationSettings
from router.errors import RouterError

ALERT = 0.5
"""Seconds to wait for the TLS alert that says why the peer closed. The peer sent it before it closed."""
NO_DICOM = "it answers, but not in DICOM: check host and port, and whether tls is wanted there"


class ConnectKind(StrEnum):
    """Why there is no association."""

    CONNECT = "connect"
    """No connection: nothing listens there, the host is unknown or unreachable, or it took too long."""
    TLS = "tls"
    """A file for TLS cannot be used, or the peers did not agree on TLS."""
    REJECTED = "rejected"
    """A-ASSOCIATE-RJ, transient: the peer may accept later."""
    REJECTED_FOR_GOOD = "rejected for good"
    """A-ASSOCIATE-RJ, permanent: only a person can help."""
    REFUSED = "refused"
    """The peer accepted the association, but refused the presentation context that we need."""
    SILENT = "silent"
    """The peer took the connection, but did not answer the request in time."""
    ABORTED = "aborted"
    """The peer aborted or closed before it answered."""
    PROTOCOL = "protocol"
    """The answer is not DICOM, or breaks PS3.8."""
    CREDENTIALS = "credentials"
    """This node has no credentials for the peer, or got none."""
    OURS = "ours"
    """This machine lacks descriptors or memory. The peer is not at fault."""


class ConnectError(RouterError):
    """There is no association. `kind` says why; `reason` says it for people, with the fix if one is known."""

    def __init__(self, kind: ConnectKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Established:
    """An agreed association. `accepted` maps context IDs to transfer syntaxes. `peer_max_pdu` 0 means no limit."""

    stream: pdu.Stream
    proposed: Sequence[ProposedContext]
    accepted: Mapping[int, str]
    peer_max_pdu: int

    @property
    def contexts(self) -> dict[tuple[str, str], int]:
        """Maps (SOP class, transfer syntax) to the first context that was accepted with that proposed syntax."""
        return {
            (c.abstract_syntax, self.accepted[c.id]): c.id
            for c in reversed(self.proposed)
            if self.accepted.get(c.id) in c.transfer_syntaxes
        }


def associate(
    destination: DestinationSettings,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    roles: Sequence[bytes] = (),
) -> Established:
    """Connect and ask for an association; `roles` are values of role selection items. Raises ConnectError."""
    sock = connected(destination.host, destination.port, destination.tls, destination.connect_timeout)
    try:
        request = associate_rq(calling_ae, destination.ae_title, contexts, roles)
        stream = pdu.Stream(sock)
        return Established(stream, contexts, *_requested(stream, request, destination.connect_timeout))
    except BaseException:
        sock.close()
        raise


def connected(
    host: str, port: int, tls: ClientTls | None, limit: float, way: Callable[[], socket.socket] | None = None
) -> socket.socket:
    """A connection, encrypted if `tls` says how. `way` opens one that leads there. Raises ConnectError."""
    try:
        context = client_context(tls) if tls else None
    except (OSError, ValueError) as error:
        raise _not_connected(ConnectKind.TLS, unusable(error), error) from error
    sock = way() if way else _reached(host, port, limit)
    try:
        return _secured(sock, context, host) if context else sock
    except BaseException:
        sock.close()
        raise


def _reached(host: str, port: int, limit: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=limit)
    except OSError as error:
        if isinstance(error, socket.gaierror) and (lacking := lacks_descriptors()):
            raise ConnectError(ConnectKind.OURS, lacking) from error
        words = f"cannot connect: {error.strerror or 'timed out or unknown host'}"
        raise _not_connected(ConnectKind.CONNECT, words, error) from error
    except UnicodeError as error:
        raise ConnectError(ConnectKind.CONNECT, "cannot connect: the host is neither a name nor an address") from error


def _secured(sock: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    try:
        return tls.wrap_socket(sock, server_hostname=host)
    except TimeoutError as error:
        raise ConnectError(ConnectKind.SILENT, "connected, but no answer to the TLS handshake in time") from error
    except OSError as error:
        raise _not_connected(ConnectKind.TLS, f"the TLS handshake failed: {tls_words(error)}", error) from error


def _requested(stream: pdu.Stream, request: bytes, limit: float) -> tuple[dict[int, str], int]:
    """Send an A-ASSOCIATE-RQ and read the answer: accepted contexts and the peer's maximum PDU length."""
    try:
        stream.send(request, limit)
        deadline = time.monotonic() + limit
        kind, length = stream.read_header(limit)
        body = stream.read_body(length, deadline - time.monotonic())
        if kind is Kind.ASSOCIATE_AC:
            return parse_accept(body)
        raise _refusal(kind, body)
    except TimeoutError as error:
        words = "connected, but no answer to the association request in time"
        raise ConnectError(ConnectKind.SILENT, words) from error
    except pdu.PeerClosedError as error:
        if failure := _tls_failure(stream):
            raise ConnectError(ConnectKind.TLS, f"TLS was refused: {tls_words(failure)}") from error
        raise ConnectError(ConnectKind.ABORTED, "the peer closed the connection during association") from error
    except ProtocolError as error:
        strange = error.reason is AbortReason.UNRECOGNIZED_PDU
        words = NO_DICOM if strange else f"the peer broke the protocol: {error}"
        raise ConnectError(ConnectKind.PROTOCOL, words) from error


def _tls_failure(stream: pdu.Stream) -> ssl.SSLError | None:
    """Why TLS ended right after the handshake. With TLS 1.3 the peer refuses a certificate only then. If sending saw
    only that the connection ended, the alert that says why can still be read."""
    failure = stream.failure if isinstance(stream.failure, ssl.SSLError) else None
    if isinstance(stream.sock, ssl.SSLSocket) and (failure is None or not failure.reason):
        try:
            stream.sock.settimeout(ALERT)
            stream.sock.recv(1)
        except ssl.SSLError as error:
            return error if error.reason else failure
        except OSError:
            pass
    return failure


def _not_connected(kind: ConnectKind, words: str, error: BaseException) -> ConnectError:
    """An error of this kind, or OURS if this machine is at fault."""
    lacking = own_limit(error)
    return ConnectError(ConnectKind.OURS, lacking) if lacking else ConnectError(kind, words)


def _refusal(kind: Kind, body: memoryview) -> ConnectError:
    if kind is Kind.ASSOCIATE_RJ:
        result, source, reason = body[1], body[2], body[3]
        words = REJECTED.get((source, reason), f"source {source}, reason {reason}")
        if result == 1:
            return ConnectError(ConnectKind.REJECTED_FOR_GOOD, f"association rejected: {words}")
        return ConnectError(ConnectKind.REJECTED, f"association rejected for now: {words}")
    if kind is Kind.ABORT:
        return ConnectError(ConnectKind.ABORTED, f"the peer aborted the association request ({pdu.abort_words(body)})")
    return ConnectError(ConnectKind.PROTOCOL, f"the peer answered an association request with {kind.name}")


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
"""PS3.8 table 9-21, with the fix if one is known."""
