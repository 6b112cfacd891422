"""Takes an address early and listens on it late: one that cannot be had is known before anything slow begins."""

from __future__ import annotations

import os
import socket


class AddressError(Exception):
    """An address cannot be had, as the machine is now: one line with the fix. The configuration may be right."""


def bind(address: str, port: int, setting: str) -> socket.socket:
    """A socket that has the address; connections are refused until `listen`.

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
    """Raises AddressError: two may have bound an address of which neither listened yet."""
    try:
        sock.listen(backlog)
    except OSError as error:
        address, port = sock.getsockname()[:2]
        raise _refused(address, port, setting, error) from error


def _refused(address: str, port: int, setting: str, error: OSError) -> AddressError:
    why = os.strerror(error.errno) if error.errno else str(error)
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return AddressError(f"{where}: {why} (end what listens there, or set another {setting})")
