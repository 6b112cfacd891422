"""TLS contexts for both sides (PS3.15 annex B, BCP 195): TLS 1.2 or newer, with forward secrecy and AEAD."""

from __future__ import annotations

import ssl

from router.config.settings import ClientTls, ServerTls
from router.observe import log

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK"
"""For TLS 1.2. Every cipher of TLS 1.3 is allowed."""


def server_context(settings: ServerTls) -> ssl.SSLContext:
    """For receiving. With `ca`, callers need a certificate of that authority. Raises OSError (ssl.SSLError)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.load_cert_chain(settings.certificate, settings.key)
    if settings.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.ca)
    return context


class Certificates:
    """The server's TLS context. It is read again when its files have changed. For one thread for each listener.

    Programs renew certificates every few months. That must not need a restart, and a failed renewal must not close
    the port. So the last good context stays in use, and the log says so.
    """

    def __init__(self) -> None:
        self._read: tuple[ServerTls, tuple[int, ...]] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self, settings: ServerTls) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError) only if there has never been a good one."""
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
            log.error("certificate not read", file=settings.certificate.name, reason=unusable(error))
        return self._context


def client_context(settings: ClientTls) -> ssl.SSLContext:
    """For connections to a destination. `verify_host: false` still demands a certificate of the authority."""
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    _harden(context)
    context.check_hostname = settings.verify_host
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    return context


def unusable(error: Exception) -> str:
    """Why the files in the settings cannot be used for TLS."""
    if isinstance(error, ssl.SSLError):
        return f"certificate, key or ca cannot be used ({error.reason or 'not in PEM'})"
    return f"certificate, key or ca cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"


ALERTS = {
    "UNKNOWN_CA": "the other side does not know the authority of this node's certificate",
    "CERTIFICATE_EXPIRED": "the other side says that this node's certificate has expired",
    "CERTIFICATE_REQUIRED": "the other side demands a client certificate",
    "BAD_CERTIFICATE": "the other side does not accept this node's certificate",
    "CERTIFICATE_UNKNOWN": "the other side does not accept this node's certificate",
    "UNSUPPORTED_CERTIFICATE": "the other side does not accept this node's certificate",
    "HANDSHAKE_FAILURE": "the other side found no common cipher, or demands a client certificate",
    "PROTOCOL_VERSION": "no common version of TLS: 1.2 or newer is spoken here",
}
"""How OpenSSL's reasons end when the other side sent an alert."""
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and one is demanded",
    "WRONG_VERSION_NUMBER": "it does not speak TLS: plain DICOM, or another port",
    "HTTP_REQUEST": "it does not speak TLS, but HTTP",
    "HTTPS_PROXY_REQUEST": "it does not speak TLS, but HTTP",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection during the handshake",
    "UNSUPPORTED_PROTOCOL": "no common version of TLS: 1.2 or newer is spoken here",
    "NO_PROTOCOLS_AVAILABLE": "no common version of TLS: 1.2 or newer is spoken here",
    "WRONG_SSL_VERSION": "no common version of TLS: 1.2 or newer is spoken here",
    "NO_SHARED_CIPHER": "no common cipher",
}
VERIFIED = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed, and is not in ca",
    19: "the authority of its certificate is not in ca",
    20: "the authority of its certificate is not in ca",
    21: "the authority of its certificate is not in ca",
    62: "its certificate is for another name (set host to that name, or verify_host: false)",
    64: "its certificate is for another address (set host to its name, or verify_host: false)",
}
"""X509_V_ERR of OpenSSL, and what to do."""


def tls_words(error: OSError) -> str:
    """Why TLS failed, for people; nothing that the other side sent is quoted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return VERIFIED.get(error.verify_code, f"its certificate was not accepted (X.509 error {error.verify_code})")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        alert = next((words for end, words in ALERTS.items() if "ALERT" in reason and reason.endswith(end)), None)
        return alert or REASONS.get(reason, reason.lower().replace("_", " ") or "it closed without a word")
    if isinstance(error, TimeoutError):
        return "it took too long"
    return "it closed the connection during the handshake"


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
