"""What the workers of a destination tell each other: that nothing is due, so that not each of them has to ask."""

from __future__ import annotations

import threading
import time

KNOWN = 0.05
"""Seconds for which nothing is due, unless something comes. A delivery that is due again may wait so long."""


class LastLook:
    """One for each destination. Hold `lock` from the question whether anything is due to the answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._version, self._until = -1, 0.0

    def nothing_is_due(self, version: int) -> bool:
        """Whether another worker has just found nothing. `version`: of the destination's signal."""
        return version == self._version and time.monotonic() < self._until

    def found_nothing(self, version: int) -> None:
        """`version`: of the signal, read before the look."""
        self._version, self._until = version, time.monotonic() + KNOWN
