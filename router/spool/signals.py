"""Waking whoever waits for work, without polling: a number that grows, and a wait until it has grown."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable


class Signal:
    """Read `version`, look for work, and if there is none `wait(version)`: nothing that came between is missed."""

    def __init__(self) -> None:
        self.version = 0
        self._changed = threading.Condition()

    def set(self) -> None:
        with self._changed:
            self.version += 1
            self._changed.notify_all()

    def wait(self, version: int, timeout: float | None) -> None:
        """Until the version differs from `version`, or `timeout` seconds have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != version, timeout)


class Signals:
    """One signal for each topic, made when first asked for."""

    def __init__(self) -> None:
        self._signals: dict[str, Signal] = defaultdict(Signal)
        self._lock = threading.Lock()

    def of(self, topic: str) -> Signal:
        with self._lock:
            return self._signals[topic]

    def set(self, topic: str) -> None:
        self.of(topic).set()

    def set_many(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.set(topic)

    def set_all(self) -> None:
        with self._lock:
            signals = list(self._signals.values())
        for signal in signals:
            signal.set()
