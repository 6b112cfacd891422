"""Sends one message to one address: a webhook, or whatever Apprise knows. No failure repeats an address."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from router.config import Settings
from router.errors import to_install
from router.notify.ledger import TEST, Message
from router.observe import where

WITHIN = 15.0
"""Seconds for one try."""
MOST_MEMORY = 256 << 20
"""Bytes that Apprise may take to send a message and to read the answer."""


class SendError(Exception):
    """A message was not taken; the text names no address."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a test message."""

    address: str
    """Masked."""
    failure: str
    """Empty: it was taken."""


def try_addresses(settings: Settings) -> Iterable[Tried]:
    """Send a test message to each address; each is tried when it is asked for."""
    now = time.time()
    message = Message(TEST, "test", "", "a test: notifications reach you", now, now)
    for address in settings.notify.to:
        try:
            send(address, message, settings.node.ae_title)
        except SendError as error:
            yield Tried(masked(address), str(error))
        else:
            yield Tried(masked(address), "")


def masked(address: str) -> str:
    """An address without its secrets: of a webhook the host, of others the scheme, for tokens stand behind it."""
    found = re.match(r"(https?)://(?:[^/?#@]*@)?([A-Za-z0-9._:\[\]-]*)", address)
    if found:
        return f"{found[1]}://{found[2]}/…"
    return address.partition("://")[0][:32] + "://…"


def send(address: str, message: Message, node: str) -> None:
    """Raises SendError."""
    try:
        if address.startswith(("http://", "https://")):
            _post(address, _as_json(message, node))
        else:
            _by_apprise(address, message, node)
    except SendError:
        raise
    except Exception as error:  # a library's exception may hold the address
        raise SendError(where(error)) from None


def _as_json(message: Message, node: str) -> dict[str, Any]:
    return {
        "node": node, "event": message.event, "condition": message.condition, "about": message.about or None,
        "text": f"{node}: {message.text}", "at": _utc(message.at), "since": _utc(message.since),
    }  # fmt: skip


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A message goes where the configuration says, and nowhere else."""
        return


class _Watched(http.client.HTTPConnection):
    """A connection that others can end, also while it agrees on TLS."""

    lines: list[socket.socket]
    """Where it is handed out."""

    def connect(self) -> None:
        super().connect()
        self.lines.append(self.sock.dup())


class _WatchedTls(http.client.HTTPSConnection, _Watched):
    """The same with TLS."""


class _Within(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Ends its connections after WITHIN: a time limit of a socket begins again with each byte that comes."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[socket.socket] = []
        self._timer = threading.Timer(WITHIN, self._end)
        self._timer.daemon = True
        self.is_over = False

    def __enter__(self) -> _Within:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for line in self._lines:
            line.close()

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._watched, _Watched), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._watched, _WatchedTls), request)

    def _watched(self, kind: type[_Watched], host: str, **more: Any) -> _Watched:
        connection = kind(host, **more)
        connection.lines = self._lines
        return connection

    def _end(self) -> None:
        self.is_over = True
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _post(address: str, about: dict[str, Any]) -> None:
    with _Within() as within:
        try:
            _post_by(within, address, about)
        except Exception:
            if within.is_over:
                raise SendError(f"no answer within {WITHIN:g} s") from None
            raise


def _post_by(within: _Within, address: str, about: dict[str, Any]) -> None:
    request = urllib.request.Request(  # noqa: S310 - the configuration allows http and https only
        address, json.dumps(about).encode(), {"Content-Type": "application/json", "User-Agent": "dicom-router"}
    )
    try:
        with urllib.request.build_opener(_NoRedirects, within).open(request, timeout=WITHIN):
            return
    except urllib.error.HTTPError as error:
        with error:
            raise SendError(f"the answer was {error.code}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        raise SendError(type(reason).__name__ if isinstance(reason, Exception) else "no connection") from None


def why_not(address: str) -> str:
    """Why nothing could ever be sent to an address; empty if it can be."""
    if address.startswith(("http://", "https://")):
        return ""
    try:
        apprise_for(address)
    except SendError as error:
        return str(error)
    except Exception as error:  # a library's exception may hold the address
        return where(error)
    return ""


def apprise_for(address: str) -> Any:
    """An `Apprise` with one address. Raises SendError."""
    try:
        import apprise
    except ImportError:
        raise SendError(f"Apprise is not installed: {to_install('notify')}") from None
    to = apprise.Apprise(asset=apprise.AppriseAsset(secure_logging=True, app_id="dicom-router", async_mode=False))
    if not to.add(address):
        raise SendError("Apprise does not understand the address")
    return to


def _by_apprise(address: str, message: Message, node: str) -> None:
    apprise_for(address)
    kind = {"began": "failure", "goes on": "warning", "is over": "success"}.get(message.event, "info")
    about = {
        "address": address, "title": f"dicom-router {node}: {message.condition} {message.event}", "kind": kind,
        "body": f"{message.text}\nsince {_utc(message.since)}", "memory": MOST_MEMORY,
    }  # fmt: skip
    try:
        child = subprocess.run(
            [sys.executable, "-m", "router.notify.apprise_child"], input=json.dumps(about).encode(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=WITHIN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SendError(f"no answer within {WITHIN:g} s") from None
    if child.returncode:
        raise SendError("Apprise could not send it")
