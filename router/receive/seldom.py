"""How often the same may be written down, whoever brings it about: a hostile caller must not fill the database."""

from __future__ import annotations

import threading
import time

EVERY = 600.0
"""Seconds between two records of the same kind from one peer."""
MOST_KINDS = 256
"""Different ones in such a time, of all peers together; what is beyond stands in the log alone."""


class Seldom:
    """For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def may(self, peer: str, kind: str) -> int | None:
        """Whether this may be written down now: how often it was not since the last time; None where it may not."""
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
