"""How the node identifies itself to an HTTP server: the value of its Authorization header.

Secrets are read when they are used, so that a renewed file counts at once. None of them is in a message.
"""

from __future__ import annotations

import json
import os
import threading
import time
from base64 import b64encode
from urllib.parse import quote_plus, urlencode, urlsplit

from router.association.connecting import ConnectError, ConnectKind
from router.association.lacks import OwnLimitError
from router.config.secret_files import is_secret, read_secret
from router.config.settings import HOUR, MINUTE, ClientTls, DestinationSettings, HttpAuth, Secret
from router.config.stow import PORTS
from router.forward.http import Answer, Connection, NoAnswerError

SPARE = 30.0
"""Seconds before its end at which a token is not used any more."""
SHORTEST, LONGEST, USUAL = 10.0, HOUR, 5 * MINUTE
"""Seconds for which a token is kept: at least, at most, and if the server does not say for how long."""
MOST_TOKENS = 256


def authorization(destination: DestinationSettings, refused: str = "") -> str:
    """The header's value; empty if none is wanted. `refused`: the value that the server has just refused, so that a
    token is asked for again. Raises ConnectError."""
    auth = destination.auth
    if auth is None:
        return ""
    if auth.bearer is not None:
        return f"Bearer {_read(auth.bearer, 'bearer')}"
    if auth.password is not None:
        return _basic(auth.user or "", _read(auth.password, "password"))
    with _LOCK:
        if len(_TOKENS) > MOST_TOKENS:
            _TOKENS.clear()
        token = _TOKENS.setdefault((destination.name, auth), _Token())
    return f"Bearer {token.get(destination, auth, refused.removeprefix('Bearer '))}"


class _Token:
    """What a token server gave, for all workers of one destination."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text, self._until = "", 0.0

    def get(self, destination: DestinationSettings, auth: HttpAuth, refused: str) -> str:
        with self._lock:
            if time.monotonic() >= self._until or self._text == refused:
                self._until = 0.0
                self._text, seconds = _asked(destination, auth)
                self._until = time.monotonic() + seconds
            return self._text


_LOCK = threading.Lock()
_TOKENS: dict[tuple[str, HttpAuth], _Token] = {}


def _asked(destination: DestinationSettings, auth: HttpAuth) -> tuple[str, float]:
    """A token and the seconds for which it is good: a client credentials grant (RFC 6749 §4.4)."""
    if auth.client_secret is None:
        raise AssertionError("a token needs a client_secret, and the configuration has seen to it")
    secret = _read(auth.client_secret, "client_secret")
    form = {"grant_type": "client_credentials"} | ({"scope": auth.scope} if auth.scope else {})
    body = urlencode(form).encode()
    headers = {
        "Authorization": _basic(quote_plus(auth.client_id or ""), quote_plus(secret)),
        "Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json",
    }  # fmt: skip
    parts = urlsplit(auth.token_url or "")
    tls = (ClientTls(ca=auth.ca) if auth.ca else destination.tls or ClientTls()) if parts.scheme == "https" else None
    try:
        connection = Connection(
            parts.hostname or "", parts.port or PORTS[parts.scheme], tls, destination.connect_timeout,
            destination.response_timeout, destination.least_rate, destination.proxy,
        )  # fmt: skip
    except ConnectError as error:
        raise ConnectError(error.kind, f"the token server: {error.reason}") from error
    try:
        answer = connection.request("POST", target_of(auth.token_url or ""), headers, [body], len(body))
    except OwnLimitError as error:
        raise ConnectError(ConnectKind.OURS, str(error)) from error
    except NoAnswerError as error:
        raise ConnectError(ConnectKind.CREDENTIALS, f"the token server: {error}") from error
    finally:
        connection.close()
    return _token(answer)


def _token(answer: Answer) -> tuple[str, float]:
    if answer.status != 200:
        raise ConnectError(ConnectKind.CREDENTIALS, f"the token server answered {answer.status}: check auth")
    try:
        found = json.loads(answer.body)
        text, seconds = found["access_token"], found.get("expires_in", USUAL)
        seconds = float(seconds)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        text, seconds = "", 0.0
    if not isinstance(text, str) or not is_secret(text) or not seconds > 0:
        raise ConnectError(ConnectKind.CREDENTIALS, "the token server's answer has no token")
    return text, max(min(seconds, LONGEST) - SPARE, SHORTEST)


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def _read(secret: Secret, key: str) -> str:
    """Raises ConnectError."""
    if secret.env is not None:
        text, where = os.environ.get(secret.env, ""), f"the environment variable {secret.env}"
    elif secret.file is not None:
        where = f"the file {secret.file.name}"
        try:
            text = read_secret(secret.file)
        except OSError as error:
            words = f"auth.{key}: {where} cannot be read ({error.strerror or type(error).__name__})"
            raise ConnectError(ConnectKind.CREDENTIALS, words) from error
    else:
        raise AssertionError("a secret is somewhere")
    if not text:
        raise ConnectError(ConnectKind.CREDENTIALS, f"auth.{key}: {where} is not set, or is empty")
    if not is_secret(text):
        raise ConnectError(ConnectKind.CREDENTIALS, f"auth.{key}: {where} is longer than one line of printable ASCII")
    return text


def target_of(address: str) -> str:
    """What a request line says of an address."""
    parts = urlsplit(address)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
