"""A destination's circuit: closed while it answers, open while it does not, half-open for one probe at a time.

A dead destination must cost nothing and bury nothing. While its circuit is open, only one probe at a time is tried, and
the time does not count towards giving up. (A probe that is itself refused `FEW_WHILE_OPEN` times is buried.) The state
is in the spool, so that the node does not flood a dead destination after a restart. Within a process the monotonic
clock counts. Several nodes (PostgreSQL) share the state: each turn of a worker reads it, and one node at a time probes.

If failing instances opened the circuit, they may be at fault and not the destination. Then only the tried instances
wait for the whole growing time. An untried one may be the probe after the first, short time, however often others
failed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from router.forward.backoff import CIRCUIT_LONGEST, circuit_after
from router.forward.failing import Failures
from router.forward.outcomes import Outcome, Sign
from router.observe import log
from router.spool import DestinationState, Spool, SpoolError

SAME_ERROR = 3
"""If so many different instances in a row meet the same error, the destination is at fault, not the instances."""
BY_INSTANCES = "instances failed: "
"""How the reason begins if C-STORE failed and not the connection. Then only a delivery can show that it works again."""
REFUSES = "refuses this node: "
"""How the reason begins if the destination refuses this node as a whole when something is to be stored."""
PROBE_SECONDS = 90.0
"""Seconds for which a node that probes keeps the others from it. If it ends meanwhile, another one probes then."""
WORDS = {Sign.SILENT: "no answer in time", Sign.ENDED: "the association ended"}


def _until(state: DestinationState) -> float:
    """The time (monotonic) of an open circuit's next try; 0: it is closed."""
    if state.circuit_left is None:
        return 0.0
    # A longer time means that the clock was set: no circuit is open for so long.
    return max(0.001, time.monotonic() + min(state.circuit_left, 1.25 * CIRCUIT_LONGEST))


class Circuit:
    """One for each destination, shared by its workers."""

    def __init__(self, name: str, spool: Spool, chance: Callable[[], float]) -> None:
        state = spool.destinations.state(name)
        self._is_shared = spool.destinations.are_shared
        self._name = name
        self._spool = spool
        self._chance = chance
        self._lock = threading.RLock()
        self._until = _until(state)
        self._untried_from = 0.0
        self._failures = state.circuit_failures
        self._reason = state.circuit_reason
        self._prober: int | None = None
        self._claimed = False
        """Whether no other node may probe, because this one does."""
        self._same: tuple[str, frozenset[str]] = ("", frozenset())
        self._associations = 0
        self.failures = Failures()

    @property
    def is_open(self) -> bool:
        return self._until > 0

    @property
    def by_instances(self) -> bool:
        """Whether instances failed while the destination answered. Then a C-ECHO proves nothing."""
        return self.is_open and self._reason.startswith(BY_INSTANCES)

    @property
    def by_storing(self) -> bool:
        """Whether it failed when something was to be stored. Then only storing shows that it works again."""
        return self.is_open and self._reason.startswith((BY_INSTANCES, REFUSES))

    def look(self) -> DestinationState:
        """The destination's state in the spool. What other nodes have found out about it counts here too."""
        if not self._is_shared:
            return self._spool.destinations.state(self._name)
        with self._lock:  # so that what is read is no older than what was written here
            state = self._spool.destinations.state(self._name)
            was_open, self._until = self.is_open, _until(state)
            self._failures, self._reason = state.circuit_failures, state.circuit_reason
            if self.is_open and not was_open:
                self._untried_from = time.monotonic() + circuit_after(0, self._chance())
            if was_open and not self.is_open:
                self._same = ("", frozenset())
            return state

    def wait(self, *, untried: bool = False) -> float:
        """Seconds until something may be tried (`untried`: an instance without a try). 0 if the circuit is closed, and
        for the one thread that must probe."""
        with self._lock:
            if not self._until:
                return 0.0
            until = min(self._until, self._untried_from) if untried and self.by_instances else self._until
            left = until - time.monotonic()
            if left > 0:
                return left
            if self._prober not in (None, threading.get_ident()):
                return 1.0
            if self._is_shared and not self._claimed:
                self._claimed = self._spool.destinations.claim_probe(self._name, PROBE_SECONDS)
                if not self._claimed:
                    return 1.0
            self._prober = threading.get_ident()
            return 0.0

    def end_probe(self) -> None:
        """This thread's turn is over. If it had to probe and could not, another thread may."""
        with self._lock:
            if self._prober == threading.get_ident():
                self._prober = None
                if self._claimed:
                    self._claimed = False
                    with suppress(SpoolError):  # then it ends by itself
                        self._spool.destinations.end_probe(self._name)

    def hurry(self) -> None:
        """Try soon: the settings of the destination have changed, or a person has ordered it."""
        with self._lock:
            if self._until:
                self._until, self._failures = time.monotonic(), 0

    def heed(self) -> None:
        """Follow a person's order. It is read from the spool, because another process may have taken it."""
        with self._lock:
            if self._until and self._spool.destinations.state(self._name).try_ordered:
                self.hurry()

    def hold(self, change: int) -> None:
        """Count one association more (1) or less (-1)."""
        with self._lock:
            self._associations += change

    @property
    def associations(self) -> int:
        """How many associations the workers hold together."""
        return self._associations

    def succeeded(self) -> None:
        """The destination took something: close the circuit."""
        self.failures.end()
        with self._lock:
            self._same = ("", frozenset())
            if self._until:
                self._close()

    def failed(self, reason: str, *, for_good: bool = False) -> None:
        """The destination itself failed: open the circuit for a while."""
        with self._lock:
            if self._until > time.monotonic() and self._prober != threading.get_ident():
                return  # another worker has noted the same failure just now
            self.heed()  # an order came while this probe was under way: the next one is soon
            was_open = self.is_open
            seconds = circuit_after(self._failures, self._chance(), for_good=for_good)
            self._until, self._reason = time.monotonic() + seconds, reason
            self._untried_from = time.monotonic() + circuit_after(0, self._chance())
            self._failures += 1
            self._same = ("", frozenset())
            self._spool.destinations.set_circuit(self._name, seconds, self._failures, reason)
            self._claimed = False
            if not was_open:
                log.warning("circuit opened", destination=self._name, reason=reason, seconds=round(seconds, 1))
                self._spool.event("circuit opened", destination=self._name, reason=reason)

    def attempt_failed(self, instance_id: str, outcome: Outcome) -> bool:
        """Note that one instance failed. Returns whether the destination is at fault, so that the circuit is open now.

        It is at fault if it was silent, or refuses this node as a whole. It is also at fault if several instances in a
        row met the same answer or the same end of the association. While the circuit is open, a new kind of answer
        shows that the destination is back.
        """
        if outcome.sign is Sign.OURS:
            return False
        error = WORDS.get(outcome.sign, outcome.reason)
        self.failures.note(instance_id, error)
        with self._lock:
            if self.is_open and outcome.sign is Sign.ANSWERED and self._reason != BY_INSTANCES + error:
                self._close()
            if outcome.sign is Sign.REFUSED:
                self.failed(REFUSES + error, for_good=True)
                return self.is_open
            same, instances = self._same
            self._same = (error, (instances if same == error else frozenset()) | {instance_id})
            if self.is_open or outcome.sign is Sign.SILENT or len(self._same[1]) >= SAME_ERROR:
                self.failed(BY_INSTANCES + error)
            return self.is_open

    def _close(self) -> None:
        self._until, self._failures, self._reason = 0.0, 0, ""
        self._spool.destinations.set_circuit(self._name, None, 0, "")
        self._claimed = False
        log.info("circuit closed", destination=self._name)
        self._spool.event("circuit closed", destination=self._name)
        self._spool.signals.set(self._name)
