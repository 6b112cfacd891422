"""Stage 2: claim what waits, ask inference, decide by the rules, write decision and deliveries in one transaction.

Callers take turns here as in inference: each has a limited number of instances under way. Slowly decoded instances are
not counted, so one caller's slow or hostile images do not delay another caller.

There is one thread. Answers come back in any order. All changes go through the spool's writer. So a crash leaves either
an instance without a decision, or a decision with all its deliveries.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from router.config.settings import Settings
from router.decide import agreement, decide, header_tags
from router.decide.age import TAGS as AGE_TAGS
from router.decide.decision import places
from router.decide.header_facts import FIXED_TAGS, VERSION
from router.flow import Decision, Instance, Seen
from router.inference import Inference, InferenceError
from router.observe import log, where
from router.observe.metrics import AGREEMENT, DECIDE_SECONDS, DECISIONS, INVERTED, VIEWS_SEEN
from router.spool import INSTANCES, ChangedError, Claim, Spool, SpoolError, StoreError
from router.spool.keyed import TAGS as FOUND_BY
from router.spool.matching import NO_MATCH, Match, may_be_result

FACTS = FIXED_TAGS[VERSION] | AGE_TAGS
"""What each decision keeps of a header, and what an age is understood from."""

IN_FLIGHT, OF_ONE_CALLER = 64, 32
"""The most instances for which inference is asked at once."""
SLOW, SLOW_OF_ONE_CALLER = 256, 32
"""The most slow ones beside them. A caller with this many waits until one is done."""
TRIES = 3
"""If inference has died so often over an instance, the instance goes on without a prediction."""
STORE_AGAIN = 10.0
"""Seconds after which a blob is asked for again that the object store did not give."""
AGAIN_AFTER = 1.0
"""Seconds between two looks at the spool if no signal is expected."""


class Classifier:
    """Gets a decision for every instance in the spool that has none."""

    def __init__(
        self,
        spool: Spool,
        inference: Inference,
        settings: Callable[[], Settings],
        then: Callable[[Instance, Path, Seen, Decision], None] = lambda *_: None,
    ) -> None:
        """`then` is called with instance, blob, what was seen, and the written decision. It must not block."""
        self._spool = spool
        self._inference = inference
        self._settings = settings
        self._then = then
        self._answers: queue.SimpleQueue[tuple[Claim, Future[Seen] | None]] = queue.SimpleQueue()
        """None: the pixels are decoded slowly, and the answer will come later."""
        self._asked: dict[str, Claim] = {}
        self._slow: set[str] = set()
        self._one_by_one = False
        """Whether an instance waits for which inference was asked before without an answer. It may have killed
        inference. So it is asked for alone, and no other is lost with it. It goes first, or it would wait for ever."""
        self._signal = spool.signals.of(INSTANCES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="classify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Claim no more, and record the answers that come until `deadline` (monotonic seconds)."""
        self._stopping.set()
        self._signal.set()
        if self._thread.is_alive():  # a node that fails to start stops what it has
            self._thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """Inference is ready (again)."""
        self._signal.set()

    def _run(self) -> None:
        while True:
            version = self._signal.version
            try:
                answered = self._record_answers()
                if self._stopping.is_set():
                    if not self._asked:
                        return
                    wait: float | None = None
                else:
                    wait = self._ask()
            except SpoolError as error:
                log.error("spool", stage="classify", reason=str(error))
                answered, wait = 0, AGAIN_AFTER
            except Exception as error:  # without this, nobody would notice that decisions have stopped
                log.error("classify failed", error=where(error))
                answered, wait = 0, AGAIN_AFTER
            if not answered:
                self._signal.wait(version, wait)

    def _ask(self) -> float | None:
        """Claim and ask as much as the limits allow. Returns the seconds until the next look (None: until a signal)."""
        if not self._inference.is_ready:
            return AGAIN_AFTER
        in_flight = len(self._asked) - len(self._slow)
        if self._one_by_one and in_flight:
            return None
        free = 1 if self._one_by_one else min(IN_FLIGHT - in_flight, IN_FLIGHT + SLOW - len(self._asked))
        claims = self._spool.decisions.claim(free, self._taken(), OF_ONE_CALLER) if free > 0 else []
        tags = header_tags(self._settings().rules) | FOUND_BY | FACTS
        for claim in claims:
            if claim.tries >= TRIES:
                self._record(claim, Seen("failed", reason="inference died each time"))
            elif claim.tries > 0 and not self._one_by_one:
                self._spool.decisions.release(claim, forget_try=True)
            else:
                self._asked[claim.instance.id] = claim
                self._spool.bring(claim.instance).add_done_callback(partial(self._look, claim, tags))
        self._one_by_one = any(claim.tries > 0 for claim in claims)
        if claims or free <= 0:
            return None if self._asked else 0.0
        due = self._spool.decisions.next_due()
        if due is None:
            return None
        # Due instances that were not claimed belong to callers with enough under way. The next answer is the signal.
        return max(AGAIN_AFTER if self._asked else 0.05, min(due, 3600.0))

    def _look(self, claim: Claim, tags: frozenset[int], brought: Future[bool]) -> None:
        """The blob lies here, or cannot be brought. Called by any thread."""
        if brought.cancelled() or brought.exception() is not None:
            self._answers.put((claim, cast("Future[Seen]", brought)))
            self._signal.set()
            return
        asked = self._inference.look(claim.path, tags, claim.instance.caller, partial(self._came, claim))
        if brought.result():
            asked.add_done_callback(lambda _: self._spool.let_go(claim.instance))
        asked.add_done_callback(partial(self._came, claim))

    def _taken(self) -> Counter[tuple[str, str]]:
        """How many each caller has under way. One with too many slow ones counts as full."""
        taken, slow = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for instance_id, claim in self._asked.items():
            caller = claim.instance.caller
            (slow if instance_id in self._slow else taken)[caller.calling_ae, caller.peer] += 1
        return taken | Counter({who: OF_ONE_CALLER for who, many in slow.items() if many >= SLOW_OF_ONE_CALLER})

    def _record_answers(self) -> int:
        count = 0
        while True:
            try:
                claim, future = self._answers.get_nowait()
            except queue.Empty:
                return count
            count += 1
            if future is None:
                self._slow.add(claim.instance.id)
                log.info("slow pixels", instance=claim.instance.id, calling_ae=claim.instance.caller.calling_ae)
                continue
            self._asked.pop(claim.instance.id, None)
            self._slow.discard(claim.instance.id)
            try:
                seen = future.result()
            except InferenceError as error:
                log.warning("no prediction yet", instance=claim.instance.id, reason=str(error), tries=claim.tries + 1)
                # The node must stop. The instances under way are not at fault.
                ends = self._stopping.is_set()
                self._spool.decisions.release(claim, after=0.0 if ends else AGAIN_AFTER, forget_try=ends)
                continue
            except StoreError as error:
                log.warning("not brought", instance=claim.instance.id, reason=str(error), again_in_s=STORE_AGAIN)
                self._spool.decisions.release(claim, after=STORE_AGAIN, forget_try=True)
                continue
            except ChangedError as error:
                seen = Seen("failed", reason=str(error))
            except Exception as error:  # unforeseen: if the claim were kept, the instance would never be decided
                log.error("classify failed", instance=claim.instance.id, error=where(error))
                self._spool.decisions.release(claim, after=AGAIN_AFTER)
                continue
            self._record(claim, seen)

    def _record(self, claim: Claim, seen: Seen) -> None:
        settings = self._settings()
        instance = claim.instance
        try:
            found = self._match(instance, seen, settings)
        except SpoolError:
            self._spool.decisions.release(claim, after=AGAIN_AFTER, forget_try=True)
            raise
        seen = replace(seen, result_of=found.names)
        decision = decide(settings.rules, instance, seen, enabled=settings.enabled, dry_run=settings.node.dry_run)
        # In a dry run nothing follows: nothing goes where a rule sends it.
        named = decision.destinations if settings.node.dry_run else settings.limits
        limits = {name: settings.destinations[name].limit for name in {*named, *decision.destinations}}

        words = None if claim.is_new_decision else settings.header_words
        agrees = agreement(words, instance, seen) if words else None

        def tell(written: Future[bool]) -> None:
            if written.exception() is None and written.result():
                _tell(claim, seen, decision)
                if agrees is not None:
                    AGREEMENT.add(agrees)
                self._then(instance, claim.path, seen, decision)

        written = self._spool.decisions.record(claim, seen, decision, limits, settings.rules, settings.gathers, found)
        written.add_done_callback(tell)

    def _match(self, one: Instance, seen: Seen, settings: Settings) -> Match:
        """Whose result it is; most instances are none, and nothing is asked. Raises SpoolError."""
        givers = settings.results_from
        if not may_be_result(one, givers):
            return NO_MATCH
        key = self._spool.decisions.key
        study = key.found_by(seen.header)["study"] if key else None
        return self._spool.results.match(one, study, seen.references, givers, settings.ae_titles)

    def _came(self, claim: Claim, answer: Future[Seen] | None = None) -> None:
        """An answer has come. None: the claim has gone to the slow lane."""
        self._answers.put((claim, answer))
        self._signal.set()


def _tell(claim: Claim, seen: Seen, decision: Decision) -> None:
    prediction = seen.prediction
    # The time of the order is not known here, and the time since the instance came would be hours.
    seconds = None if claim.is_new_decision else max(0.0, time.time() - claim.instance.received_at)
    DECISIONS.labels(prediction.class_name if prediction else seen.pixels, decision.rule).inc()
    if seconds is not None:
        DECIDE_SECONDS.observe(seconds)
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
        destinations=list(places(decision)),
        ms=None if seconds is None else round(1000 * seconds),
        render_ms=round(seen.render_ms, 1),
        model_ms=round(seen.model_ms, 1),
    )
