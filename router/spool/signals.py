"""Wakes the threads that wait for work: a number that grows, and a wait until it has grown.

There is a signal for each destination, under its name, and for each of the topics below.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

INSTANCES = "instances"
"""The topic that is signalled when an instance waits for its decision."""
COMMITMENTS = "commitments"
"""The topic that is signalled when a request for storage commitment has come, or an archive's answer."""
BULK = "bulk"
"""The topic that is signalled when there is a bulk job to work on."""
SHARED = "shared"
"""The topic that is signalled when settings or models were published that all nodes share."""
FULL = "the disk is full"
"""The topic that is signalled when finished blobs must go before their time."""


class Signal:
    """Read `version`, look for work, and if there is none `wait(version)`: nothing that came between is missed.

    `longest` limits each wait: other processes may make work without a signal here.
    """

    def __init__(self, longest: Callable[[], float | None] = lambda: None) -> None:
        self.version = 0
        self._longest = longest
        self._changed = threading.Condition()

    def set(self) -> None:
        with self._changed:
            self.version += 1
            self._changed.notify_all()

    def wait(self, version: int, timeout: float | None) -> None:
        """Wait until the version differs, `timeout` seconds have passed, or it is time to look again."""
        longest = self._longest()
        limits = [seconds for seconds in (timeout, longest) if seconds is not None]
        with self._changed:
            self._changed.wait_for(lambda: self.version != version, min(limits, default=None))


class Signals:
    """One signal for each topic, made when first asked for. The topics in `own` concern this process alone."""

    def __init__(self, longest: Callable[[], float | None] = lambda: None, own: Iterable[str] = ()) -> None:
        self._own = frozenset(own)
        self._signals: dict[str, Signal] = {topic: Signal() for topic in self._own}
        self._longest = longest
        self._lock = threading.Lock()

    def of(self, topic: str) -> Signal:
        with self._lock:
            if topic not in self._signals:
                self._signals[topic] = Signal(self._longest)
            return self._signals[topic]

    def set(self, topic: str) -> None:
        self.of(topic).set()

    def set_many(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.set(topic)

    def set_all_of_others(self) -> None:
        """Others may have made work of any kind. No other process says that a disk of this one is full."""
        with self._lock:
            signals = [signal for topic, signal in self._signals.items() if topic not in self._own]
        for signal in signals:
            signal.set()
