"""One worker of one destination: claim what is due, send it on a pooled association, write down what came of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from router.association.requestor import AssociationLostError, ConnectError, connect
from router.config.settings import DestinationSettings, Settings
from router.flow import Delivery
from router.forward.backoff import few_retry_after, retry_after
from router.forward.circuit import Circuit
from router.forward.delivery import CHANGED, Pool, Transcode, attempt, came_from
from router.forward.outcomes import Fate, Outcome
from router.observe import log
from router.observe.metrics import BURIED, DELIVERED, RETRIED
from router.spool import BURIED as STATE_BURIED
from router.spool import DONE, SKIPPED, Spool, SpoolError

BATCH = 8
AT_ONCE_BURIED = (CHANGED, "the destination holds another version under the same UID")
"""No further try can help; a person must look."""


class Worker(threading.Thread):
    """Works until it is told to stop; its settings may change under it at every turn."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        settings: Callable[[], Settings],
        circuit: Circuit,
        transcode: Transcode,
    ) -> None:
        super().__init__(name=f"forward {name}", daemon=True)
        self._to = name
        self._spool = spool
        self._settings = settings
        self._circuit = circuit
        self._transcode = transcode
        self._pool = Pool()
        self._stopping = threading.Event()
        self._signal = spool.signal(name)

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self._signal.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            version = self._signal.version
            try:
                wait = self._turn()
            except SpoolError as error:
                log.error("spool", destination=self._to, reason=str(error))
                wait = 1.0
            except Exception as error:  # nobody else would notice that this destination is no longer served
                log.error("forward failed", destination=self._to, error=type(error).__name__, exc_info=True)
                self._pool.abort()
                wait = 5.0
            if wait is None or wait > 0:
                self._signal.wait(version, wait)
        self._pool.release()

    def _turn(self) -> float | None:
        """Do what can be done; seconds to wait before the next turn (None: until something happens)."""
        destination = self._settings().destinations.get(self._to)
        if destination is None or not destination.enabled or self._spool.destination_state(self._to).paused:
            self._pool.release()
            return None
        wait = self._circuit.wait()
        if wait > 0:
            self._pool.abort()
            return wait
        if self._circuit.is_open and destination.echo and not self._probe(destination):
            return self._circuit.wait()
        deliveries = self._spool.claim_deliveries(self._to, 1 if self._circuit.is_open else BATCH)
        if deliveries:
            self._deliver_all(destination, deliveries)
            return 0.0
        self._circuit.no_probe()
        return self._rest(destination)

    def _rest(self, destination: DestinationSettings) -> float | None:
        """Nothing is due: how long to keep the association, and when the next try is."""
        waits = []
        if self._pool.is_open:
            left = self._pool.idle_since + destination.idle - time.monotonic()
            if left <= 0:
                self._pool.release()
            else:
                waits.append(left)
        due = self._spool.next_due(self._to)
        if due is not None:
            waits.append(max(0.05, due - time.time()))
        return min(min(waits), 3600.0) if waits else None

    def _probe(self, destination: DestinationSettings) -> bool:
        """A C-ECHO at the end of an open circuit's time."""
        try:
            association = connect(destination, self._calling_ae(destination), (), echo=True)
            try:
                status = association.echo()
            finally:
                association.release()
        except ConnectError as error:
            self._circuit.failed(error.reason, for_good=error.kind == "rejected for good")
            return False
        except (AssociationLostError, StopIteration):
            self._circuit.failed("no answer to C-ECHO")
            return False
        if status != 0:
            self._circuit.failed(f"C-ECHO answered 0x{status:04X}")
            return False
        self._circuit.succeeded()
        return True

    def _deliver_all(self, destination: DestinationSettings, deliveries: list[Delivery]) -> None:
        wanted = [(d.instance.sop_class, d.instance.transfer_syntax) for d in deliveries]
        written: list[Future[bool]] = []
        for number, delivery in enumerate(deliveries):
            if self._stopping.is_set() or not self._deliver(destination, delivery, wanted, written):
                written += [self._spool.retry_delivery(d, 0, "", tried=False) for d in deliveries[number:]]
                break
        for future in written:
            future.result()

    def _deliver(
        self,
        destination: DestinationSettings,
        delivery: Delivery,
        wanted: list[tuple[str, str]],
        written: list[Future[bool]],
    ) -> bool:
        """Try one delivery and note its end; False when the destination failed before it was this one's turn."""
        if came_from(delivery, destination):
            written.append(self._spool.close_delivery(delivery, SKIPPED, "came from there"))
            return True
        try:
            association = self._pool.get(destination, self._calling_ae(destination), wanted)
        except ConnectError as error:
            self._circuit.failed(error.reason, for_good=error.kind == "rejected for good")
            return False
        started = time.monotonic()
        try:
            outcome = attempt(
                delivery, association, self._transcode,
                lambda: self._spool.known_digests(self._to, delivery.instance.sop_instance),
            )  # fmt: skip
        except AssociationLostError as error:
            self._pool.abort()
            outcome = Outcome(Fate.LATER, str(error))
        written.append(self._note(destination, delivery, outcome, time.monotonic() - started))
        return not self._circuit.is_open or outcome.fate is Fate.DONE

    def _note(
        self, destination: DestinationSettings, delivery: Delivery, outcome: Outcome, seconds: float
    ) -> Future[bool]:
        about = {"instance": delivery.instance.id, "destination": self._to}
        if outcome.fate is Fate.DONE:
            self._circuit.succeeded()
            DELIVERED.labels(self._to).inc()
            log.info(
                "delivered", **about, ms=round(1000 * seconds, 1), size=delivery.instance.size, note=outcome.reason
            )
            return self._spool.close_delivery(delivery, DONE, outcome.reason, outcome.status)
        opened = self._circuit.instance_failed(delivery.instance.id, outcome.reason)
        after = self._next_try(destination, delivery, outcome, opened)
        if after is None:
            BURIED.labels(self._to).inc()
            log.error("buried", **about, reason=outcome.reason, tries=delivery.tries + 1)
            return self._spool.close_delivery(delivery, STATE_BURIED, outcome.reason, outcome.status)
        RETRIED.labels(self._to).inc()
        log.warning("not delivered", **about, reason=outcome.reason, tries=delivery.tries + 1, again_in_s=round(after))
        buriable = outcome.fate is Fate.FEW and not opened
        return self._spool.retry_delivery(delivery, after, outcome.reason, outcome.status, buriable=buriable)

    def _next_try(
        self, destination: DestinationSettings, delivery: Delivery, outcome: Outcome, opened: bool
    ) -> float | None:
        """Seconds until the next try; None: bury it."""
        if outcome.reason in AT_ONCE_BURIED:
            return None
        if time.time() - delivery.owed_since > destination.give_up_after:
            return None
        if outcome.fate is Fate.FEW and not opened:
            return few_retry_after(delivery.buriable_tries, random.random())  # noqa: S311 - jitter
        return retry_after(delivery.tries, random.random())  # noqa: S311 - jitter

    def _calling_ae(self, destination: DestinationSettings) -> str:
        return destination.calling_ae_title or self._settings().node.ae_title
