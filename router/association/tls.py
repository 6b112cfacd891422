"""TLS contexts for both sides (PS3.15 annex B, BCP 195): TLS 1.2 at least, forward secrecy and AEAD only."""

from __future__ import annotations

import ssl

from router.config.settings import ClientTls, ServerTls

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


def client_context(settings: ClientTls) -> ssl.SSLContext:
    """Towards a destination; `verify_host: false` still demands a certificate of the authority."""
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    _harden(context)
    context.check_hostname = settings.verify_host
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
