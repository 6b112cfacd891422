"""Files for TLS and files with secrets: whether each can be used as what it is for.

One that is missing is a mistake. One that is there and broken is not: a file that a program renewed badly must not keep
the node from its start. `Settings.unusable` names it, with its line; `check` fails over it, and a reload is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from router.config.document import Node, Scalar
from router.config.fields import Context, existing_file
from router.config.settings import Unusable

MOST_SECRET = 16 * 1024
"""Bytes of a secret."""
PEM = "name a file in PEM, or correct this one"
READABLE = "let the node's user read it"


def read_secret(file: Path) -> str:
    """The line that a file holds; empty if it is longer than a secret. Raises OSError."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        return opened.read(MOST_SECRET + 1).decode("utf-8", "replace").strip()


def is_secret(text: str) -> bool:
    """Whether it can stand in a header: one line of printable ASCII."""
    return 0 < len(text) <= MOST_SECRET and all(" " <= one <= "~" for one in text)


def secret_file(where: str, node: Node, context: Context) -> Path:
    def look(file: Path) -> str:
        text = read_secret(file)
        return "" if is_secret(text) else "is empty" if not text else "is longer than one line of printable ASCII"

    return _looked_at(where, node, context, look, "write the secret into the file, and nothing else")


def authorities(where: str, node: Node, context: Context) -> Path:
    """A parser of `ca`."""

    def look(file: Path) -> str:
        import ssl

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(file)
        return "" if tls.cert_store_stats()["x509"] else "has no certificate"

    return _looked_at(where, node, context, look, PEM)


def check_pair(where: str, node: Node, certificate: Path, key: Path, context: Context) -> None:
    """Note if a certificate and its key cannot be used together. `node`: the one that names the certificate."""

    def look(file: Path) -> str:
        import ssl

        # Without a password OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(file, key, password="")
        return ""

    _look(where, node, context, look, certificate, "name a certificate in PEM, and its own key without a passphrase")


def _looked_at(where: str, node: Node, context: Context, look: Callable[[Path], str], fix: str) -> Path:
    file = existing_file(where, node, context)
    _look(where, node, context, look, file, fix)
    return file


def _look(where: str, node: Node, context: Context, look: Callable[[Path], str], file: Path, fix: str) -> None:
    from ssl import SSLError

    try:
        words = look(file)
    except SSLError as error:
        words = f"cannot be used ({(error.reason or 'not in PEM').lower().replace('_', ' ')})"
    except OSError as error:
        words, fix = f"cannot be read ({error.strerror or type(error).__name__})", READABLE
    if words:
        variable = node.origin if isinstance(node, Scalar) else ""
        place = f"environment variable {variable}" if variable else context.problems.file
        line = 0 if variable else node.line
        context.problems.unusable.append(Unusable(where, place, line, f"the file {file} {words}", fix))
