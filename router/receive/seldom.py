"""Limits how often the same event is recorded: a hostile caller must not fill the database."""

from __future__ import annotations

import threading
import time

EVERY = 600.0
"""Seconds between two records of the same kind from one peer."""
MOST_KINDS = 256
"""The most kinds in that time, of all peers together. Further ones are only in the log."""


class Seldom:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def may(self, peer: str, kind: str) -> int | None:
        """None if this must not be recorded now. Else how often it was left out since the last record."""
        now, key = time.monotonic(), (peer, kind)
        with self._lock:
            at, unsaid = self._said.get(key, (None, 0))
            if at is not None and now - at < EVERY:
                self._said[key] = (at, unsaid + 1)
                return None
            if at is None and len(self._said) >= MOST_KINDS:
                self._said = {one: last for one, last in self._said.items() if now - last[0] < EVERY}
                if len(self._said) >= MOST_KINDS:
                    return None
            self._said[key] = (now, 0)
            return unsaid
