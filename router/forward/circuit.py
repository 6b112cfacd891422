"""A destination's circuit: closed while it answers, open while it does not, half-open for one probe at a time.

A dead destination must cost nothing and bury nothing: while its circuit is open no delivery is tried, and the time does
not count towards giving up. The state lives in the spool, so that a restart does not hammer what is down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from router.forward.backoff import circuit_after
from router.observe import log
from router.spool import Spool

SAME_ERROR = 3
"""So many different instances in a row with the same error mean the destination, not the instances."""


class Circuit:
    """One for each destination, shared by its workers."""

    def __init__(self, name: str, spool: Spool, chance: Callable[[], float]) -> None:
        state = spool.destination_state(name)
        self._name = name
        self._spool = spool
        self._chance = chance
        self._lock = threading.Lock()
        self._until = state.circuit_until
        self._failures = state.circuit_failures
        self._probing = False
        self._same: tuple[str, set[str]] = ("", set())

    def wait(self) -> float:
        """Seconds until something may be tried: 0 when closed, or for the one caller that must probe."""
        with self._lock:
            if not self._until:
                return 0.0
            left = self._until - time.time()
            if left > 0:
                return min(left, 3600.0)
            if self._probing:
                return 1.0
            self._probing = True
            return 0.0

    def no_probe(self) -> None:
        """There was nothing to probe with: whoever has something next may."""
        with self._lock:
            self._probing = False

    @property
    def is_open(self) -> bool:
        return self._until > 0

    def succeeded(self) -> None:
        """The destination answered as it should."""
        with self._lock:
            self._same = ("", set())
            self._probing = False
            if not self._until:
                return
            self._until, self._failures = 0.0, 0
            self._spool.set_circuit(self._name, 0.0, 0, "")
        log.info("circuit closed", destination=self._name)
        self._spool.event("circuit closed", destination=self._name)
        self._spool.signals.set(self._name)

    def failed(self, reason: str, *, for_good: bool = False) -> None:
        """The destination itself failed: nothing is tried for a while."""
        with self._lock:
            was_open = self._until > 0
            seconds = circuit_after(self._failures, self._chance(), for_good=for_good)
            self._until = time.time() + seconds
            self._failures += 1
            self._probing = False
            self._same = ("", set())
            self._spool.set_circuit(self._name, self._until, self._failures, reason)
        if not was_open:
            log.warning("circuit opened", destination=self._name, reason=reason, seconds=round(seconds, 1))
            self._spool.event("circuit opened", destination=self._name, reason=reason)

    def instance_failed(self, instance_id: str, reason: str) -> bool:
        """One instance failed; True when this was the same error from several instances in a row: now it is open."""
        with self._lock:
            self._probing = False
            same, instances = self._same
            instances = instances if same == reason else set()
            instances.add(instance_id)
            self._same = (reason, instances)
            opens = len(instances) >= SAME_ERROR or self._until > 0
        if opens:
            self.failed(f"several instances in a row: {reason}")
        return opens
