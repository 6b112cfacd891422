"""The latest look at the node, which visitors share."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from router.commands.status import Status, status_of
from router.page.running import Running
from router.spool import Spool
from router.spool.overview import Minute

FRESH = 2.0
"""Seconds for which all visitors see the same figures: any number of them costs as much as one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read, and when (time.monotonic)."""

    status: Status
    minutes: tuple[Minute, ...]
    at: float


class Latest:
    """The latest look at the node; one visitor looks, the others wait for it."""

    def __init__(self, node: Running) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._seen: Seen | None = None

    def look(self, spool: Spool) -> Seen:
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen.at > FRESH:
                node, settings = self._node, self._node.settings()
                found = status_of(settings, spool, node.view.status(), node.spool.views.bytes_in_use)
                minutes = spool.overview.minutes([one.name for one in found.destinations])
                self._seen = Seen(found, minutes, time.monotonic())
            return self._seen

    def forget(self) -> None:
        """Something was ordered: the next visitor must see what came of it."""
        with self._lock:
            self._seen = None
