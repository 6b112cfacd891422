"""Stage 2: claim what waits, ask inference, decide by the rules, write decision and deliveries in one transaction.

One thread. Answers come back in any order; everything that they change goes through the spool's writer, so a crash at
any point leaves either an instance without a decision or a decision with all its deliveries.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from router.config.settings import Settings
from router.decide import decide, header_tags
from router.flow import Decision, Instance, Seen
from router.inference import Inference, InferenceError
from router.observe import log, where
from router.observe.metrics import DECIDE_SECONDS, DECISIONS, INVERTED, VIEWS_SEEN
from router.spool import INSTANCES, Claim, Spool, SpoolError

IN_FLIGHT = 32
TRIES = 3
"""So often may inference die over an instance before it goes on without a prediction."""
AGAIN_AFTER = 1.0


class Classifier:
    """Asks about everything that the spool holds without a decision."""

    def __init__(
        self,
        spool: Spool,
        inference: Inference,
        settings: Callable[[], Settings],
        then: Callable[[Instance, Path, Seen, Decision], None] = lambda *_: None,
    ) -> None:
        """`then` gets instance, blob, what was seen and the decision once they are written; it must not wait."""
        self._spool = spool
        self._inference = inference
        self._settings = settings
        self._then = then
        self._answers: queue.SimpleQueue[tuple[Claim, Future[Seen]]] = queue.SimpleQueue()
        self._in_flight = 0
        self._one_by_one = False
        """Whether something waits that was asked about before and not answered. It may be what killed inference, so it
        is asked about alone, that no other die with it; and before what came later, or it would wait for ever."""
        self._signal = spool.signal(INSTANCES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="classify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Take nothing more, and record what comes back until `deadline` (monotonic seconds)."""
        self._stopping.set()
        self._signal.set()
        if self._thread.is_alive():  # a node that could not start stops what it has
            self._thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """Inference is there (again)."""
        self._signal.set()

    def _run(self) -> None:
        while True:
            version = self._signal.version
            try:
                answered = self._record_answers()
                if self._stopping.is_set():
                    if self._in_flight == 0:
                        return
                    wait: float | None = None
                else:
                    wait = self._ask()
            except SpoolError as error:
                log.error("spool", stage="classify", reason=str(error))
                answered, wait = 0, AGAIN_AFTER
            except Exception as error:  # nobody else would notice that nothing is decided any more
                log.error("classify failed", error=where(error))
                answered, wait = 0, AGAIN_AFTER
            if not answered:
                self._signal.wait(version, wait)

    def _ask(self) -> float | None:
        """Claim and ask as much as may be under way; seconds until there may be more (None: until a signal)."""
        if not self._inference.is_ready:
            return AGAIN_AFTER
        if self._one_by_one and self._in_flight:
            return None
        free = 1 if self._one_by_one else IN_FLIGHT - self._in_flight
        claims = self._spool.claim_instances(free) if free > 0 else []
        tags = header_tags(self._settings().rules)
        for claim in claims:
            if claim.tries >= TRIES:
                self._record(claim, Seen("failed", reason="inference died each time"))
            elif claim.tries > 0 and not self._one_by_one:
                self._spool.release_instance(claim, forget_try=True)
            else:
                self._in_flight += 1
                self._inference.look(claim.path, tags).add_done_callback(self._back(claim))
        self._one_by_one = any(claim.tries > 0 for claim in claims)
        if claims or free <= 0:
            return None if self._in_flight else 0.0
        due = self._spool.next_instance_due()
        return None if due is None else max(0.05, min(due - time.time(), 3600.0))

    def _back(self, claim: Claim) -> Callable[[Future[Seen]], None]:
        def put(future: Future[Seen]) -> None:
            self._answers.put((claim, future))
            self._signal.set()

        return put

    def _record_answers(self) -> int:
        count = 0
        while True:
            try:
                claim, future = self._answers.get_nowait()
            except queue.Empty:
                return count
            count += 1
            self._in_flight -= 1
            try:
                seen = future.result()
            except InferenceError as error:
                log.warning("no prediction yet", instance=claim.instance.id, reason=str(error), tries=claim.tries + 1)
                self._spool.release_instance(claim, after=AGAIN_AFTER)
                continue
            self._record(claim, seen)

    def _record(self, claim: Claim, seen: Seen) -> None:
        settings = self._settings()
        instance = claim.instance
        decision = decide(settings.rules, instance, seen, enabled=settings.enabled, dry_run=settings.node.dry_run)
        limits = {name: settings.destinations[name].limit for name in decision.destinations}
        self._spool.record(claim, seen, decision, limits).add_done_callback(
            lambda written: self._written(claim, seen, decision, written)
        )

    def _written(self, claim: Claim, seen: Seen, decision: Decision, written: Future[bool]) -> None:
        if written.exception() is None and written.result():
            _tell(claim, seen, decision)
            self._then(claim.instance, claim.path, seen, decision)


def _tell(claim: Claim, seen: Seen, decision: Decision) -> None:
    prediction = seen.prediction
    seconds = time.time() - claim.instance.received_at
    DECISIONS.labels(prediction.class_name if prediction else seen.pixels, decision.rule).inc()
    DECIDE_SECONDS.observe(max(0.0, seconds))
    if prediction and prediction.view:
        VIEWS_SEEN.labels(prediction.view).inc()
    if prediction and prediction.inverted:
        INVERTED.inc()
    log.info(
        "decided",
        instance=claim.instance.id,
        seen=prediction.class_name if prediction else seen.pixels,
        confidence=round(prediction.confidence, 3) if prediction else None,
        view=(prediction.view or None) if prediction else None,
        inverted=prediction.inverted if prediction else None,
        rule=decision.rule,
        destinations=list(decision.destinations),
        ms=round(1000 * seconds),
        render_ms=round(seen.render_ms, 1),
        model_ms=round(seen.model_ms, 1),
    )
