"""Takes an address early and listens on it late. So a used address is known before anything slow begins."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from router.config.settings import Settings
from router.errors import RouterError

WEB = "web.port"
PRIVILEGED = 1024
"""Ports below this one need a privilege."""


class AddressError(RouterError):
    """An address cannot be used on this machine now. One line with the fix. The configuration may be right."""

    def __init__(self, message: str, *, in_use: bool = False) -> None:
        super().__init__(message)
        self.in_use = in_use


def listeners(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """(setting, address, port) of everything that a node listens on."""
    node, web = settings.node, settings.web
    if "receive" in node.roles:
        yield "node.port", node.address, node.port
        if node.tls is not None:
            yield "node.tls.port", node.address, node.tls.port
    yield WEB, web.address, web.port


def bind(address: str, port: int, setting: str) -> socket.socket:
    """A socket that has the address. Connections are refused until `listen`.

    Raises AddressError, naming the `setting` that the port comes from.
    """
    six = ":" in address
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise _refused(address, port, setting, error) from error
    return sock


def listen(sock: socket.socket, backlog: int, setting: str) -> None:
    """Raises AddressError: two processes may have bound one address before either listens."""
    try:
        sock.listen(backlog)
    except OSError as error:
        address, port = sock.getsockname()[:2]
        raise _refused(address, port, setting, error) from error


def _refused(address: str, port: int, setting: str, error: OSError) -> AddressError:
    why = os.strerror(error.errno) if error.errno else str(error)
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return AddressError(f"{where}: {why} ({_fix(port, setting, error.errno)})", in_use=error.errno == errno.EADDRINUSE)


def _fix(port: int, setting: str, why: int | None) -> str:
    if why in (errno.EACCES, errno.EPERM) and port < PRIVILEGED:
        return (
            f"ports below {PRIVILEGED} need rights: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, "
            f"or sysctl net.ipv4.ip_unprivileged_port_start={port}; or set another {setting}"
        )
    if why == errno.EADDRNOTAVAIL:
        return f"this machine has no such address; set another {setting.rpartition('.')[0].split('.')[0]}.address"
    if why == errno.EADDRINUSE:
        return f"end what listens there, or set another {setting}"
    return f"set another {setting}"
