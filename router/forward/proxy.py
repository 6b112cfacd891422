"""A connection through an HTTP proxy: CONNECT, then TLS with the server itself. So the proxy sees only its name."""

from __future__ import annotations

import re
import socket
import time

from router.association.connecting import ConnectError, ConnectKind, connected
from router.association.lacks import own_limit
from router.config.settings import ClientTls, HttpProxy

MOST_HEAD = 16 * 1024
"""Bytes of a proxy's answer."""
REFUSALS = {
    403: "it does not let this node go there",
    405: "it does not know CONNECT: is it a proxy?",
    407: "it wants credentials, which this node does not have: let it know the node by its address",
}
"""Only a person can help."""
TROUBLES = {502: "it does not reach the server", 503: "it is busy", 504: "it does not reach the server"}
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")


def connected_by(proxy: HttpProxy | None, host: str, port: int, tls: ClientTls | None, limit: float) -> socket.socket:
    """A connection for requests to a server: to itself; to the proxy, which reads them; or through it. Raises
    ConnectError."""
    if proxy is None:
        return connected(host, port, tls, limit)
    if tls is None:
        return _to(proxy, limit)
    return connected(host, port, tls, limit, lambda: _tunnel(proxy, host, port, limit))


def _to(proxy: HttpProxy, limit: float) -> socket.socket:
    try:
        return connected(proxy.host, proxy.port, None, limit)
    except ConnectError as error:
        ours = error.kind is ConnectKind.OURS
        raise ConnectError(error.kind, error.reason if ours else f"the proxy: {error.reason}") from error


def _tunnel(proxy: HttpProxy, host: str, port: int, limit: float) -> socket.socket:
    sock = _to(proxy, limit)
    try:
        status = _asked(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", limit)
        if not 200 <= status < 300:
            kind = ConnectKind.REJECTED_FOR_GOOD if status in REFUSALS else ConnectKind.CONNECT
            words = (REFUSALS | TROUBLES).get(status, "no way there")
            raise ConnectError(kind, f"the proxy answered {status} ({words})")
        sock.settimeout(limit)
        return sock
    except BaseException:
        sock.close()
        raise


def _asked(sock: socket.socket, there: str, limit: float) -> int:
    """The status of a proxy's answer. What follows its head is the server's, so no byte more is read."""
    deadline = time.monotonic() + limit
    head = bytearray()
    try:
        sock.settimeout(limit)
        sock.sendall(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode("ascii"))
        while not head.endswith(b"\r\n\r\n") and len(head) < MOST_HEAD:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            if not (byte := sock.recv(1)):
                break
            head += byte
    except TimeoutError as error:
        raise ConnectError(ConnectKind.SILENT, "the proxy: no answer in time") from error
    except OSError as error:
        if lacking := own_limit(error):
            raise ConnectError(ConnectKind.OURS, lacking) from error
        raise ConnectError(ConnectKind.ABORTED, "the proxy: it closed the connection") from error
    found = _STATUS.match(head)
    if found is None or not head.endswith(b"\r\n\r\n"):
        raise ConnectError(ConnectKind.PROTOCOL, "the proxy answers, but not in HTTP: check proxy")
    return int(found[1])
