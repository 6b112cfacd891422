"""How long a destination has answered nothing but failures: what a circuit that opens and closes does not show."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

MOST_INSTANCES = 100
"""Instances that are told apart."""


@dataclass(frozen=True, slots=True)
class Failing:
    """Since its last success, a destination has failed these tries. `since`: Unix time in seconds of the first."""

    since: float
    tries: int
    instances: int
    reason: str
    """Of the last one."""


class Failures:
    """Those of one destination in a row. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since, self._tries, self._reason = 0.0, 0, ""
        self._instances: set[str] = set()

    def note(self, instance_id: str, reason: str) -> None:
        with self._lock:
            self._since = self._since or time.time()
            self._tries, self._reason = self._tries + 1, reason
            if len(self._instances) < MOST_INSTANCES:
                self._instances.add(instance_id)

    def end(self) -> None:
        """It has taken one."""
        with self._lock:
            self._since, self._tries, self._reason = 0.0, 0, ""
            self._instances.clear()

    def so_far(self) -> Failing | None:
        with self._lock:
            if not self._tries:
                return None
            return Failing(self._since, self._tries, len(self._instances), self._reason)
