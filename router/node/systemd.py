"""Tells systemd (or whatever else names a NOTIFY_SOCKET) that the node is ready, well, or stopping."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress

from router.observe import log

FEEDS = 4
"""How often the watchdog is fed in its time: one that comes late must not end a node that is well."""


class Systemd:
    """What is said on the socket (sd_notify). Without one, nothing happens."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes the address out of the environment, so that child processes do not speak for the node."""
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._seconds = _watchdog_seconds(environ)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def ready(self, health: Callable[[], Mapping[str, bool]]) -> None:
        """The node serves. From now on the watchdog is fed as long as all parts of `health` are true."""
        self._say("READY=1")
        if self._address and self._seconds:
            self._thread = threading.Thread(target=self._feed, args=(health,), name="watchdog", daemon=True)
            self._thread.start()

    def stopping(self) -> None:
        self._stopped.set()
        self._say("STOPPING=1")

    def _feed(self, health: Callable[[], Mapping[str, bool]]) -> None:
        was_well = True
        while not self._stopped.is_set():
            failed = sorted(part for part, works in health().items() if not works)
            if not failed:
                self._say("WATCHDOG=1")
            elif was_well:
                log.error("watchdog not fed", failed=failed, restart_in_s=round(self._seconds))
            was_well = not failed
            self._stopped.wait(self._seconds / FEEDS)

    def _say(self, words: str) -> None:
        """Nobody waits for the listener, and one that is gone does not matter."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(words.encode(), self._address)


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """The time after which a hungry watchdog restarts this process; 0: there is none, or it is another's."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdecimal() else 0.0
