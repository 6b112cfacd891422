"""TLS contexts for both sides (PS3.15 annex B, BCP 195): TLS 1.2 at least, forward secrecy and AEAD only."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from router.config.settings import ClientTls, ServerTls
from router.observe import log

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK"
"""For TLS 1.2; every cipher of TLS 1.3 is fine as it is."""


def server_context(settings: ServerTls) -> ssl.SSLContext:
    """For receiving; with `ca`, a caller without a certificate of it is turned away. Raises OSError (ssl.SSLError)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.load_cert_chain(settings.certificate, settings.key)
    if settings.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.ca)
    return context


class Certificates:
    """The server's TLS context, read again when its files have changed; for one thread for each listener.

    A certificate is renewed every few months and by a robot: that must need no restart, and a renewal that went wrong
    must not close the port. What was good last stays in force, and the log says so.
    """

    def __init__(self) -> None:
        self._read: tuple[ServerTls, tuple[int, ...]] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self, settings: ServerTls) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError) only where there has never been a good one."""
        files = (settings.certificate, settings.key, settings.ca)
        try:
            now = (settings, tuple(file.stat().st_mtime_ns for file in files if file is not None))
            if self._context is None or now != self._read:
                self._context = server_context(settings)
                self._read = now
                log.info("certificate read", file=settings.certificate.name)
        except OSError as error:
            if self._context is None:
                raise
            log.error("certificate not read", file=settings.certificate.name, error=type(error).__name__)
        return self._context


def client_context(settings: ClientTls) -> ssl.SSLContext:
    """Towards a destination; `verify_host: false` still demands a certificate of the authority."""
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    _harden(context)
    context.check_hostname = settings.verify_host
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    return context


def unusable(make: Callable[[], object]) -> str:
    """Why a TLS context cannot be made of its files; empty where it can."""
    try:
        make()
    except ssl.SSLError as error:
        return f"certificate, key or ca cannot be used ({error.reason or 'not in PEM'})"
    except (OSError, ValueError) as error:
        return f"certificate, key or ca cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
    return ""


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
