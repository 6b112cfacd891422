"""One worker of one destination: claim due deliveries, send them on a pooled association, note the outcomes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress

from router.association.lacks import OwnLimitError
from router.association.requestor import AssociationLostError, ConnectError, ConnectKind
from router.config.settings import DestinationSettings, Settings
from router.flow import Delivery
from router.forward.backoff import FEW_WHILE_OPEN, few_retry_after, retry_after
from router.forward.circuit import Circuit
from router.forward.delivery import Transcode, attempt, came_from
from router.forward.last_look import LastLook
from router.forward.outcomes import Fate, Outcome, Sign
from router.forward.pool import Pool
from router.forward.sender import Sender
from router.forward.senders import answers_echo
from router.forward.together import MOST, Habit, attempt_together, group
from router.observe import log, where
from router.observe.metrics import BURIED, DELIVERED, RETRIED
from router.spool import ChangedError, DeliveryState, DestinationState, Spool, SpoolError, StoreError
from router.spool.owing import CAME_FROM_THERE

BATCH = 8
"""Deliveries that are claimed together; to a web server as many as one request may have."""
STUDY_BATCH = 250
"""Deliveries of one study that are claimed together, so that they go in one association."""
LONGEST_LOOK = 60.0
"""Seconds after which a worker looks again whether a pause is over: the clock may have been set."""
OWN_LIMIT = 5.0
"""Seconds that a worker rests if this machine lacks a descriptor or memory. That counts as no try."""
STORE_AGAIN = 10.0
"""Seconds after which a blob is asked for again that the object store did not give."""
LONGEST_REST = 60.0
"""The most seconds that a worker rests because the destination asks it to. What was refused waits for longer."""
TOO_MANY = 30.0
"""Seconds that a worker rests if the peer refuses its association for now and other workers have associations."""


class Worker(threading.Thread):
    """Works until it is told to stop. The settings may change at every turn."""

    def __init__(
        self,
        name: str,
        spool: Spool,
        settings: Callable[[], Settings],
        circuit: Circuit,
        last_look: LastLook,
        transcode: Transcode,
    ) -> None:
        super().__init__(name=f"forward {name}", daemon=True)
        self._to = name
        self._spool = spool
        self._settings = settings
        self._circuit = circuit
        self._last_look = last_look
        self._transcode = transcode
        self._pool = Pool(circuit.hold)
        self._habit = Habit()
        self._rests_until = 0.0
        self._study = ""
        """The study of the last deliveries, if the destination gathers."""
        self._stopping = threading.Event()
        self._signal = spool.signals.of(name)
        self._version = self._signal.version
        """Of the signal, at the beginning of this turn."""

    @property
    def to(self) -> str:
        """The destination's name."""
        return self._to

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self._signal.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._version = self._signal.version
            try:
                wait = self._turn()
            except SpoolError as error:
                log.error("spool", destination=self._to, reason=str(error))
                wait = 1.0
            except Exception as error:  # without this, nobody would notice that this destination is served no longer
                log.error("forward failed", destination=self._to, error=where(error))
                self._pool.abort()
                wait = 5.0
            finally:
                self._circuit.end_probe()
            if wait is None or wait > 0:
                self._signal.wait(self._version, wait)
        self._pool.release()

    def _turn(self) -> float | None:
        """Do what can be done now. Returns the seconds until the next turn (None: until something happens)."""
        destination = self._settings().destinations.get(self._to)
        state = self._circuit.look()
        if destination is None or not destination.enabled or state.paused:
            self._pool.release()
            return self._until_resumed(state)
        if (closed := self._closed(destination, state)) > 0:
            self._pool.release()
            return closed
        self._circuit.heed()
        wait = max(self._circuit.wait(untried=True), self._rests_until - time.monotonic())
        if wait > 0:
            self._pool.abort()
            return wait
        if self._circuit.is_open and destination.echo and not self._circuit.by_storing:
            self._probe(destination)
            if self._circuit.wait() > 0 or self._rests_until > time.monotonic():
                return 0.0
        wait = self._circuit.wait()
        deliveries = (
            self._spool.deliveries.claim_untried(self._to, rate=destination.limit_rate)
            if self._circuit.by_instances
            else []
        )
        if not deliveries and wait <= 0:
            with self._last_look.lock:
                deliveries = self._claim(destination)
        if deliveries:
            if destination.gather is not None:
                self._begin_study(deliveries[0].study)
            self._deliver_all(destination, deliveries)
            return 0.0
        if wait > 0:
            self._pool.abort()
            return wait
        return self._rest(destination)

    def _claim(self, destination: DestinationSettings) -> list[Delivery]:
        """What is due, unless another worker has just found nothing."""
        if self._last_look.nothing_is_due(self._version):
            return []
        deliveries, rate = self._spool.deliveries, destination.limit_rate
        if destination.gather is None:
            batch = MOST if destination.stow is not None else BATCH
            claimed = deliveries.claim(self._to, 1 if self._circuit.is_open else batch, rate=rate)
        else:
            claimed = deliveries.claim_study(self._to, 1 if self._circuit.is_open else STUDY_BATCH, rate=rate)
        if not claimed:
            self._last_look.found_nothing(self._version)
        return claimed

    def _begin_study(self, study: str) -> None:
        """End the association of another study: what gathers may take all that came on one for the same patient."""
        if study != self._study:
            self._pool.release()
        self._study = study

    def _until_resumed(self, state: DestinationState) -> float | None:
        """End a pause whose time is over. Returns the seconds until the next look; None: until something happens."""
        if state.pause_left is None:
            return None
        if state.pause_left <= 0:
            self._spool.orders.end_pause(self._to)
            return 0.0
        return min(state.pause_left, LONGEST_LOOK)

    def _closed(self, destination: DestinationSettings, state: DestinationState) -> float:
        """Seconds until the next look at a destination outside of its hours; 0 within them. The spool is told, so that
        the time does not count, and people see it."""
        now = time.time()
        until = destination.closed_until(now)
        if until != state.closed_until:
            self._spool.destinations.set_closed(self._to, until)
        return min(until - now, LONGEST_LOOK) if until else 0.0

    def _rest(self, destination: DestinationSettings) -> float | None:
        """Nothing is due. Decide how long to keep the association. Returns the seconds until the next try."""
        waits = []
        if self._pool.is_open:
            left = self._pool.idle_since + destination.idle - time.monotonic()
            if left <= 0:
                self._pool.release()
            else:
                waits.append(left)
        gathers = destination.gather is not None
        deliveries = self._spool.deliveries
        due = deliveries.next_study_due(self._to) if gathers else deliveries.next_due(self._to)
        if due is not None:
            if destination.limit_rate is not None:
                due = max(due, deliveries.wait_for_rate(self._to, destination.limit_rate))
            waits.append(max(0.05, due))
        return min(min(waits), 3600.0) if waits else None

    def _probe(self, destination: DestinationSettings) -> None:
        """Send a C-ECHO when an open circuit's time has ended. If the peer answers without success, try a delivery."""
        try:
            if answers_echo(destination, self._settings().calling_ae(destination)):
                self._circuit.succeeded()
        except ConnectError as error:
            if error.kind is ConnectKind.OURS:
                self._rest_for_want(error.reason)
            else:
                self._circuit.failed(error.reason, for_good=error.kind is ConnectKind.REJECTED_FOR_GOOD)
        except AssociationLostError:
            self._circuit.failed("no answer to C-ECHO")

    def _deliver_all(self, destination: DestinationSettings, deliveries: list[Delivery]) -> None:
        """Try one after the other, or several at once. Give back those that were not tried, also after an error."""
        wanted = [(d.instance.sop_class, d.instance.transfer_syntax) for d in deliveries]
        noted: list[Future[bool]] = []
        back: list[Future[bool]] = []
        left, alone = list(deliveries), set[int]()
        try:
            while left:
                for note in noted:
                    note.result()  # so that a crash makes one duplicate, and not one for each claimed delivery
                if self._stopping.is_set():
                    break
                several = self._may_go_together(destination, left, alone)
                alone |= {one.id for one in several}
                notes = self._deliver_together(destination, several, wanted) if several else {}
                if notes == {}:
                    note_of_one = self._deliver(destination, left[0], wanted)
                    notes = None if note_of_one is None else {left[0].id: note_of_one}
                if notes is None:
                    break
                noted = list(notes.values())
                left = [one for one in left if one.id not in notes]
                if self._circuit.is_open or self._has_changed(destination) or self._rests_until > time.monotonic():
                    break
        finally:
            # A failed one gets a time. So it comes after the untried ones, whose `ready_at` is 0.
            back += [self._spool.deliveries.retry(d, min(d.tries, 1), "", tried=False) for d in left]
        for future in noted + back:
            future.result()
        if back:
            self._signal.set()  # another worker of this destination may be resting, and this one may be about to stop

    def _may_go_together(
        self, destination: DestinationSettings, left: list[Delivery], alone: set[int]
    ) -> list[Delivery]:
        """The next deliveries for one request; none where the next one goes alone."""
        if destination.stow is None or self._circuit.is_open or self._habit.alone():
            return []
        found = group([one for one in left if not came_from(one, destination)], alone)
        return found if len(found) > 1 else []

    def _deliver_together(
        self, destination: DestinationSettings, deliveries: list[Delivery], wanted: list[tuple[str, str]]
    ) -> dict[int, Future[bool]] | None:
        """Try several in one request. Returns the notes of those that arrived; None if nothing could be tried."""
        started = time.monotonic()
        with ExitStack() as stack:
            here = []
            for one in deliveries:
                with suppress(StoreError, ChangedError):  # alone it gets its reason
                    stack.enter_context(self._spool.local(one.instance))
                    here.append(one)
            if (sender := self._sender(destination, wanted)) is None:
                return None
            try:
                outcomes = attempt_together(here, sender, self._transcode)
            except OwnLimitError as error:
                self._rest_for_want(str(error))
                return None
            except SpoolError:
                raise
            except Exception as error:  # nobody foresaw it; alone it is that of one instance
                log.error("forward failed", destination=self._to, error=where(error))
                self._pool.abort()
                outcomes = {}
            if sender.closed:
                self._pool.abort()
        self._habit.went(len(outcomes))
        seconds = (time.monotonic() - started) / max(1, len(outcomes))
        return {one.id: self._note(destination, one, outcomes[one.id], seconds) for one in here if one.id in outcomes}

    def _has_changed(self, destination: DestinationSettings) -> bool:
        """Whether a person has paused the destination or changed its settings, or its hours are over."""
        now = self._settings().destinations.get(self._to)
        is_closed = destination.closed_until(time.time()) > 0
        return now != destination or is_closed or self._spool.destinations.state(self._to).paused

    def _deliver(
        self, destination: DestinationSettings, delivery: Delivery, wanted: list[tuple[str, str]]
    ) -> Future[bool] | None:
        """Try one delivery. Returns the note of its outcome, or None if it could not be tried."""
        if came_from(delivery, destination):
            return self._spool.deliveries.close(delivery, DeliveryState.SKIPPED, CAME_FROM_THERE)
        try:
            with self._spool.local(delivery.instance):
                return self._attempt(destination, delivery, wanted)
        except StoreError as error:  # nothing was tried, and neither instance nor destination is at fault
            log.warning("not brought", instance=delivery.instance.id, destination=self._to, reason=str(error),
                        again_in_s=STORE_AGAIN)  # fmt: skip
            return self._spool.deliveries.retry(delivery, STORE_AGAIN, "", tried=False)
        except ChangedError as error:
            return self._note(destination, delivery, Outcome(Fate.BURY, str(error), sign=Sign.OURS), 0.0)

    def _attempt(
        self, destination: DestinationSettings, delivery: Delivery, wanted: list[tuple[str, str]]
    ) -> Future[bool] | None:
        """Send a blob that lies here. Raises SpoolError."""
        if (sender := self._sender(destination, wanted)) is None:
            return None
        started = time.monotonic()
        try:
            outcome = attempt(
                delivery, sender, self._transcode,
                lambda: self._spool.deliveries.known_digests(self._to, delivery.instance.sop_instance),
                self._spool.bring_again,
            )  # fmt: skip
        except OwnLimitError as error:
            self._rest_for_want(str(error))
            return None
        except SpoolError:
            raise
        except Exception as error:  # nobody foresaw it, so it must not be tried for ever
            log.error("forward failed", destination=self._to, error=where(error))
            self._pool.abort()
            outcome = Outcome(Fate.FEW, f"failed here ({type(error).__name__})", sign=Sign.OURS)
        if sender.closed:
            self._pool.abort()
        self._habit.went_alone(arrived=outcome.fate is Fate.DONE)
        return self._note(destination, delivery, outcome, time.monotonic() - started)

    def _sender(self, destination: DestinationSettings, wanted: list[tuple[str, str]]) -> Sender | None:
        """An open way to the destination. None if there is none now; then it is noted why."""
        try:
            return self._pool.get(destination, self._settings().calling_ae(destination), wanted)
        except ConnectError as error:
            if error.kind is ConnectKind.OURS:
                self._rest_for_want(error.reason)
            elif error.kind is ConnectKind.REJECTED and self._circuit.associations:
                self._rests_until = time.monotonic() + TOO_MANY
            else:
                self._circuit.failed(error.reason, for_good=error.kind is ConnectKind.REJECTED_FOR_GOOD)
            return None

    def _rest_for_want(self, lacking: str) -> None:
        """This machine lacks a resource, so deliveries wait. That says nothing about the destination."""
        log.error("out of resources", destination=self._to, reason=lacking)
        self._pool.abort()
        self._rests_until = time.monotonic() + OWN_LIMIT

    def _note(
        self, destination: DestinationSettings, delivery: Delivery, outcome: Outcome, seconds: float
    ) -> Future[bool]:
        about = {"instance": delivery.instance.id, "destination": self._to}
        if outcome.fate is Fate.DONE:
            future = self._spool.deliveries.close(
                delivery, DeliveryState.DONE, outcome.reason, outcome.status, expect=destination.expect_result,
                took=seconds,
            )  # fmt: skip
            self._circuit.succeeded()
            DELIVERED.labels(self._to).inc()
            log.info(
                "delivered", **about, ms=round(1000 * seconds, 1), size=delivery.instance.size, note=outcome.reason
            )
            return future
        opened = self._circuit.attempt_failed(delivery.instance.id, outcome)
        after = self._next_try(destination, delivery, outcome, opened)
        if outcome.after:
            self._rests_until = time.monotonic() + min(outcome.after, LONGEST_REST)
            after = after and max(after, outcome.after)
        if after is None:
            BURIED.labels(self._to).inc()
            log.error("buried", **about, reason=outcome.reason, tries=delivery.tries + 1)
            return self._spool.deliveries.close(delivery, DeliveryState.BURIED, outcome.reason, outcome.status)
        RETRIED.labels(self._to).inc()
        log.warning("not delivered", **about, reason=outcome.reason, tries=delivery.tries + 1, again_in_s=round(after))
        buriable = outcome.fate is Fate.FEW and not opened
        return self._spool.deliveries.retry(delivery, after, outcome.reason, outcome.status, buriable=buriable)

    def _next_try(
        self, destination: DestinationSettings, delivery: Delivery, outcome: Outcome, opened: bool
    ) -> float | None:
        """Seconds until the next try; None: bury it."""
        if outcome.fate is Fate.BURY or (opened and outcome.fate is Fate.FEW and delivery.tries >= FEW_WHILE_OPEN):
            return None
        if delivery.owed_for > destination.give_up_after:
            return None
        if outcome.fate is Fate.FEW and not opened:
            return few_retry_after(delivery.buriable_tries, random.random())  # noqa: S311 - jitter
        return retry_after(delivery.tries, random.random())  # noqa: S311 - jitter
