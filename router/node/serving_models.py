"""Which model serves and which shadows: starts and swaps them, and remembers the choice across restarts.

An order takes as long as a model needs to warm up, so it has its own thread. `report` says whether it is still under
way. The choice is written down before it takes effect. A model that does not start is not chosen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.config import Settings
from router.decide import decide, header_tags
from router.flow import Decision, Instance, Prediction, Seen
from router.inference import Inference, InferenceError, Shadow
from router.node.model_store import Chosen, ModelStore, State, StoreError
from router.node.orders import NAMES, ModelOrder, Promote, RollBack, SetShadow
from router.observe import log, where
from router.spool import SHADOW_PREDICTION, Spool, SpoolError
from router.spool.nodes import lagging
from router.spool.shared import OvertakenError

STOP_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
"""Seconds between two starts of a failing shadow: the first and the longest. They double."""


class ServingModels:
    """The model that serves and the one that shadows, each in a process of its own.

    `inference` stays the same object when another model serves.
    """

    def __init__(self, spool: Spool, settings: Callable[[], Settings], on_ready: Callable[[], None]) -> None:
        """Raises StoreError if the choice of models cannot be read."""
        self._spool, self._settings = spool, settings
        self._model = settings().model
        self._store = store_of(spool, self._model.path)
        _share_file(self._store)
        self._in_force = self._store.state()
        self._follow_again = 0.0
        self._follow_problem = ""
        path = self._store.path(self._in_force.serving) or self._model.path
        self.inference = Inference(replace(self._model, path=path), on_ready)
        self._shadow: Shadow | None = None
        self._coming: Shadow | None = None
        self._lock = threading.Lock()
        self._order: threading.Thread | None = None
        self._error = ""
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the serving model; it is warm when this returns. The shadow starts later. Raises InferenceError."""
        if self._store.is_overruled():
            log.warning("configuration", about="model.path was changed after a promotion: the model of the file serves")
        self.inference.start()
        if self._store.state().shadow:
            threading.Thread(target=self._resume_shadow, name="shadow", daemon=True).start()

    def stop(self, _deadline: float = 0.0) -> None:
        """End both processes within STOP_SECONDS. Nobody may ask them any more."""
        with self._lock:
            self._stopping.set()
            shadows = [shadow for shadow in (self._shadow, self._coming) if shadow]
        for shadow in shadows:
            shadow.stop()
        self.inference.stop(STOP_SECONDS)

    # -- orders ----------------------------------------------------------------------------------------------------

    def begin(self, order: ModelOrder, who: str) -> dict[str, Any]:
        """Begin an order of a person. Raises StoreError. `report` says how the order ended."""
        plan = None if self._is_busy() else self._store.plan(order, who)
        if plan is None or not self._in_background(lambda: self._carry_out(plan, order, who)):
            raise StoreError("another order is under way; see dicom-router model show")
        return {"begun": True}

    def report(self) -> dict[str, Any]:
        """What is chosen and what runs, whether an order is under way, and why the last one failed (else empty)."""
        shadow, state = self._shadow, self._store.state()
        return state.as_dict() | {
            "inference": self.inference.info(), "shadow_ready": shadow is not None and shadow.is_ready,
            "busy": self._is_busy(), "error": self._error, "behind": behind(self._spool, state),
        }  # fmt: skip

    @property
    def is_ready(self) -> bool:
        """Whether the serving model answers."""
        return self.inference.is_ready

    def info(self) -> dict[str, Any]:
        """What the serving model runs on."""
        return self.inference.info()

    def digests(self) -> dict[str, str]:
        """The digests of the weights in use, by role."""
        found, shadow = {"serving": str(self.inference.info().get("model", ""))}, self._shadow
        if shadow is not None and shadow.is_ready:
            found["shadow"] = shadow.digest
        return found

    # -- other nodes -----------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version of the shared choice that is in force here (0: it is not shared)."""
        return self._in_force.version

    @property
    def problem(self) -> str:
        """Why the newest choice is not in force here; empty if it is."""
        return self._follow_problem

    def follow(self) -> None:
        """Take over what another node's order has chosen, in a thread. Raises SpoolError, StoreError."""
        newest = self._store.state()
        if newest.version <= self._in_force.version or time.monotonic() < self._follow_again:
            return
        before = self._follow_problem
        self._follow_problem = before or "it starts the models that were chosen"  # before the thread says how it ended
        if not self._in_background(lambda: self._adopt(newest)):
            self._follow_problem = before

    def _adopt(self, newest: State) -> None:
        self._follow_again = time.monotonic() + FIRST_PAUSE
        old = self._in_force
        try:
            if _name(newest.serving) != _name(old.serving):
                self.inference.swap(self._store.path(newest.serving) or self._model.path, lambda: None)
                self._in_force = replace(old, serving=newest.serving)  # if its shadow fails, this need not be repeated
            if _name(newest.shadow) != _name(old.shadow):
                self._change_shadow(newest)
        except (InferenceError, StoreError, OSError) as error:
            self._follow_problem = str(error)
            raise
        except Exception as error:
            self._follow_problem = where(error)
            raise
        self._in_force, self._follow_again, self._follow_problem = newest, 0.0, ""
        self._store.forget_unused()

    # -- shadow ----------------------------------------------------------------------------------------------------

    def decided(self, instance: Instance, path: Path, seen: Seen, decision: Decision) -> None:
        """Called when an instance has its decision: let the shadow predict, and record its answer. Never waits."""
        shadow, served = self._shadow, seen.prediction
        if shadow is None or served is None:
            return
        settings = self._settings()

        def record(other: Seen) -> None:
            assert other.prediction is not None
            as_seen = replace(other, result_of=seen.result_of)
            would = decide(settings.rules, instance, as_seen, enabled=settings.enabled, dry_run=settings.node.dry_run)
            ours, theirs = _brief(served, decision), _brief(other.prediction, would) | {"model": shadow.name}
            try:
                self._spool.event(SHADOW_PREDICTION, instance.id, served=ours, shadow=theirs)
            except SpoolError:  # the node is stopping
                pass

        shadow.look(path, header_tags(settings.rules), served, record)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        return self._order is not None and self._order.is_alive()

    def _in_background(self, work: Callable[[], None]) -> bool:
        """Do work in a thread. Returns False if other work is still under way."""

        def run() -> None:
            try:
                work()
            except (InferenceError, StoreError, SpoolError, OSError) as error:
                self._error = str(error)
            except Exception as error:  # the person who gave the order must learn that it failed
                self._error = where(error)
            if self._error and not self._stopping.is_set():
                log.error("model not changed", reason=self._error)

        with self._lock:
            if self._is_busy():
                return False
            self._error = ""
            self._order = threading.Thread(target=run, name="model", daemon=True)
            self._order.start()
        return True

    def _carry_out(self, plan: State, order: ModelOrder, who: str) -> None:
        old = self._store.state()
        if plan == old:
            return  # there was no shadow to end, so nothing has changed
        if plan.serving != old.serving:
            self.inference.swap(self._store.path(plan.serving), lambda: self._write(plan, who))
        if plan.shadow != old.shadow:
            self._change_shadow(plan, who)
        write_down(self._spool, plan, order, who)

    def _resume_shadow(self) -> None:
        """Try to start the chosen shadow until it runs, or until a person makes another choice.

        The cause of a failure may pass, for example a lack of memory. Between two tries a person can give an order.
        """
        over, pause = threading.Event(), FIRST_PAUSE

        def resume() -> None:
            state = self._store.state()
            if state.shadow and self._shadow is None:
                self._change_shadow(state)
            over.set()

        while not (over.is_set() or self._stopping.is_set()):
            self._in_background(resume)
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _write(self, plan: State, who: str) -> None:
        """Write down a choice that this node makes, unless it is written down already."""
        if plan != self._store.state():
            self._in_force = self._store.write(plan, who)

    def _change_shadow(self, plan: State, who: str = "") -> None:
        path = self._store.path(plan.shadow)
        coming = None
        try:
            if path:
                with self._lock:
                    if self._stopping.is_set():
                        return
                    coming = self._coming = Shadow(self._model, path)
                coming.start()
            self._write(plan, who)
        except BaseException:
            if coming:
                coming.stop()
            raise
        with self._lock:
            old, self._shadow, self._coming = self._shadow, coming, None
        if old:
            old.stop()


def store_of(spool: Spool, configured: Path | None) -> ModelStore:
    """The models of a spool. `configured`: model.path."""
    shared = None if spool.database.is_sqlite else spool.shared
    return ModelStore(spool.settings.path, configured, shared)


def _share_file(store: ModelStore) -> None:
    try:
        store.share_file()
    except OvertakenError:
        pass  # another node was first
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("configuration", about=f"the choice of models in {store.folder} cannot be read ({where(error)})")


def behind(spool: Spool, state: State) -> list[dict[str, str]]:
    """The nodes that run, and in which an older choice of models is in force; and why."""
    if not state.version:
        return []
    found = lagging(spool.nodes.running("classify"), choice=state.version)
    return [{"node": one.name, "problem": one.state.problem} for one in found]


def _name(chosen: Chosen | None) -> str:
    return chosen.name if chosen else ""


EVENTS = {Promote: "model promoted", RollBack: "model rolled back", SetShadow: "shadow changed"}


def write_down(spool: Spool, plan: State, order: ModelOrder, who: str) -> None:
    """Write to the log and the record of events what was ordered, and what is chosen now."""
    names = {role: chosen.name if chosen else None for role, chosen in
             (("serving", plan.serving), ("previous", plan.previous), ("shadow", plan.shadow))}  # fmt: skip
    tested = order.tested[:80] if isinstance(order, Promote) else ""
    log.info("model changed", order=NAMES[type(order)], **names)
    spool.event(EVENTS[type(order)], who=who, tested=tested, **names)


def _brief(prediction: Prediction, decision: Decision) -> dict[str, Any]:
    return {
        "model": prediction.model[:16], "class": prediction.class_name, "top": prediction.top,
        "confidence": round(prediction.confidence, 3), "view": prediction.view or None, "rule": decision.rule,
        "destinations": list(decision.destinations),
    }  # fmt: skip
