"""When the certificates that the settings name expire.

The standard library gives the dates of a certificate only in a verified handshake. So this module reads the PEM files
and walks through their DER.
"""

from __future__ import annotations

import re
import ssl
from calendar import timegm
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from router.config.settings import ClientTls, Settings

LARGEST_FILE = 4 * 1024 * 1024
"""Bytes of a certificate file that are read."""
_PEM = re.compile(r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.+?-----END (?:TRUSTED )?CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0
"""Tags."""


def expiries(settings: Settings) -> dict[str, list[float]]:
    """For each setting that names a certificate file: when its certificates expire, the soonest first (Unix seconds).

    The list is empty if the file cannot be read.
    """
    found: dict[str, list[float]] = {}
    for where, path in certificate_files(settings):
        try:
            found[where] = expiry_times(path)
        except (OSError, ValueError):
            found[where] = []
    return found


def certificate_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """(setting, file) of every certificate: the ports', those shown to destinations, and the authorities."""
    server = settings.node.tls
    if server is not None:
        yield "node.tls.certificate", server.certificate
        if server.ca is not None:
            yield "node.tls.ca", server.ca
    if settings.web.tls is not None:
        yield "web.tls.certificate", settings.web.tls.certificate
    for name, destination in settings.destinations.items():
        yield from _client(f"destinations.{name}.tls", destination.tls)
        if destination.auth is not None and destination.auth.ca is not None:
            yield f"destinations.{name}.auth.ca", destination.auth.ca
    for line in settings.node.accept or ():
        if line.commitment is not None:
            yield from _client(f"node.accept.{line.ae_title}.commitment.tls", line.commitment.tls)


def _client(where: str, tls: ClientTls | None) -> Iterator[tuple[str, Path]]:
    if tls is not None and tls.certificate is not None:
        yield f"{where}.certificate", tls.certificate
    if tls is not None and tls.ca is not None:
        yield f"{where}.ca", tls.ca


def expiry_times(path: Path) -> list[float]:
    """When the certificates of a PEM file expire, the soonest first. Raises OSError, ValueError."""
    with path.open("rb") as file:
        text = file.read(LARGEST_FILE).decode("ascii", "replace")
    return sorted(_not_after(ssl.PEM_cert_to_DER_cert(pem.replace("TRUSTED ", ""))) for pem in _PEM.findall(text))


def _not_after(der: bytes) -> float:
    """`notAfter` of a certificate (RFC 5280 §4.1). Raises ValueError."""
    fields = list(_elements(_inside(_inside(der))))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    times = list(_elements(fields[3][1])) if len(fields) > 3 else []  # after serial number, algorithm and issuer
    if len(times) != 2 or times[1][0] not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("not a certificate")
    text = times[1][1].decode("ascii")
    if times[1][0] == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return float(timegm(datetime.strptime(text, "%Y%m%d%H%M%SZ").timetuple()))


def _inside(der: bytes) -> bytes:
    """The content of the first element."""
    return next(_elements(der), (0, b""))[1]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of successive elements. Raises ValueError if one is longer than its container."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1] if at + 1 < len(der) else 0x80, at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
            if not 1 <= size <= 4:
                raise ValueError("not DER")
        if at + length > len(der):
            raise ValueError("not DER")
        yield tag, der[at : at + length]
        at += length
