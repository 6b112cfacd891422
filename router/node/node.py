"""The node: builds the stages from the settings, starts, reloads, drains and stops them. No work of its own.

Order of start: spool, web, inference (warm), forward, classify, and the DICOM port last, so that nothing is accepted
before everything that it needs is there; its address is taken before inference, since that takes long and a used port
is known at once. Order of stop: the other way round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from router.association.expiry import expiries
from router.association.listening import listeners
from router.association.tls import client_context, server_context, unusable
from router.classify import Classifier
from router.commitment import Committer
from router.config import ConfigError, Problem, Settings, load
from router.forward import Forwarder
from router.forward.transcoding import Copies
from router.node.control import ControlServer, carry_out
from router.node.models import Serving
from router.observe import log, where
from router.receive import Receiver
from router.spool import FULL, Counts, Signal, Spool, SpoolError, open_spool
from router.web import WebServer

DRAIN_SECONDS = 6.5
"""Docker kills ten seconds after SIGTERM; what hangs at the end of the drain has the rest."""
LATE_AT_END = 2.0
DRAIN_IN_VAIN = 3.0
"""Seconds to stop in if the spool's database does not answer: work under way cannot be finished then."""
LAST_WRITES = 1.0
"""Seconds for what still waits for the database, however late it is."""
SWEEP_EVERY = 60.0
PARTS = ("node", "spool", "model", "web", "destinations", "rules")
"""The parts of the settings that a reload compares."""


TLS_FIX = "correct the file, or name another"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: the file, the parts of it that changed, and those of them that need a restart."""

    file: str
    changed: list[str]
    needs_restart: list[str]


PAUSE = 9.0
"""After each step of retention the next waits this many times as long: arriving instances share disk and database."""
LATE = 4.0
"""Seconds after which changes that the database has not taken are late, to `/healthz` and `/readyz`."""


class Node:
    """One running node. `start` raises AddressError, SpoolError, InferenceError or OSError: one line with the fix."""

    def __init__(self, settings: Settings) -> None:
        self._settings = self._started_with = settings
        self._stopped = threading.Event()
        self._reloading = threading.Lock()
        self._told: dict[str, int] = {}
        self._spool: Spool = open_spool(settings.spool)
        self._serving = Serving(self._spool, self.settings, on_ready=lambda: self._classifier.wake())
        self._inference = self._serving.inference
        self._copies = Copies(self._inference, self._spool.space.for_copy)
        self._forwarder = Forwarder(self._spool, self.settings, self._copies.get)
        self._classifier = Classifier(self._spool, self._inference, self.settings, self._serving.decided)
        self._committer = Committer(self._spool, self.settings)
        self._receiver = Receiver(self.settings, self._spool.intake, (self._committer.callers,))
        self._web = WebServer(settings.web, self)
        self._control = ControlServer(settings.spool.path, self.handle)
        self._sweeper = threading.Thread(target=self._sweep, name="sweep", daemon=True)

    def settings(self) -> Settings:
        """The settings in force; a reload replaces them whole."""
        return self._settings

    def start(self) -> tuple[int, int]:
        """Start everything; returns the DICOM and the web port."""
        try:
            web_port = self._web.start()
            self._receiver.bind()
            self._serving.start()
            self._forwarder.start()
            self._classifier.start()
            self._committer.start()
            self._sweeper.start()
            self._control.start()
            port = self._receiver.start()
        except BaseException:
            self.stop(0.0)
            raise
        node = self._settings.node
        for warning in self._settings.warnings:
            log.warning("configuration", about=warning)
        log.info("serving", ae_title=node.ae_title, address=node.address, port=port, web_port=web_port)
        self._spool.event("started")
        return port, web_port

    def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Close the port, finish what is under way within `seconds`, and let everything go."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._spool.signals.set(FULL)
        if not self._spool.database.answers(LATE_AT_END):
            seconds = min(seconds, DRAIN_IN_VAIN)
        deadline = time.monotonic() + seconds
        log.info("stopping", within_s=seconds)
        self._receiver.stop(deadline)
        self._committer.stop(deadline)
        self._classifier.stop(deadline)
        self._forwarder.stop(deadline)
        self._control.stop()
        self._web.stop()
        self._serving.stop(1.0)
        if self._spool.database.is_working:
            self._spool.event("stopped")
        if self._spool.close(max(LAST_WRITES, deadline - time.monotonic())):
            log.info("stopped")
        else:
            log.error("stopped, but the spool's database did not take the last changes; their work begins again")

    def reload(self, who: str = "") -> Reloaded:
        """Read routing.yaml again: all of it is in force afterwards, or, where something fails, nothing of it.

        Raises ConfigError, SpoolError, NoWorkerError: then the old settings go on, and the next reload starts anew.
        """
        with self._reloading:  # a signal and the control socket may ask at once
            return self._reload(who)

    def _reload(self, who: str) -> Reloaded:
        new, old = load(self._settings.file), self._settings
        self._refuse_orphaned_deliveries(new)
        self._refuse_bad_certificates(new)
        prepared = self._forwarder.prepare(new.destinations)
        self._settings = new
        self._forwarder.take(prepared)
        changed = [part for part in PARTS if getattr(old, part) != getattr(new, part)]
        done = Reloaded(str(new.file), changed, _needing_a_restart(self._started_with, new))
        for part in done.needs_restart:
            log.warning("needs a restart", part=part)
        log.info("reloaded", changed=done.changed, rules=len(new.rules.rules), destinations=len(new.destinations))
        try:
            self._spool.event("reloaded", who=who, changed=done.changed)
        except SpoolError as error:  # the record is poorer, and the settings are in force all the same
            log.error("spool", stage="reload", reason=str(error))
        return done

    def _refuse_bad_certificates(self, new: Settings) -> None:
        """A TLS file that cannot be used is a mistake in routing.yaml."""
        makers: dict[str, Callable[[], object]] = {}
        if new.node.tls is not None:
            makers["node"] = partial(server_context, new.node.tls)
        for name, destination in new.destinations.items():
            if destination.tls is not None and destination != self._settings.destinations.get(name):
                makers[f"destinations.{name}"] = partial(client_context, destination.tls)
        found: dict[str, str] = {}
        for of, make in makers.items():
            try:
                make()
            except (OSError, ValueError) as error:
                found[of] = unusable(error)
        if found:
            raise ConfigError([Problem(str(new.file), 0, f"{of}.tls: {words}", TLS_FIX) for of, words in found.items()])

    def _refuse_orphaned_deliveries(self, new: Settings) -> None:
        problems = [
            Problem(
                str(new.file), 0, f"destination {name} is gone, but {waiting} deliveries wait for it",
                f"keep it until they are done, or: dicom-router queue discard --all --to {name}",
            )
            for name, waiting in self._orphaned(new).items()
        ]  # fmt: skip
        if problems:
            raise ConfigError(problems)

    def _orphaned(self, settings: Settings) -> dict[str, int]:
        """How many deliveries wait for each destination that the settings do not have."""
        counts = self._spool.views.counts()
        gone = sorted((set(counts.open) | set(counts.buried)) - set(settings.destinations))
        return {name: counts.open.get(name, 0) + counts.buried.get(name, 0) for name in gone}

    def _tell_orphaned(self) -> None:
        """Say once what nobody sends: the file changed before a start, or a decision crossed a reload."""
        orphaned = self._orphaned(self._settings)
        for name, waiting in orphaned.items():
            if self._told.get(name) != waiting:
                log.error("deliveries to a destination that is gone", destination=name, waiting=waiting,
                          fix=f"put it back, or: dicom-router queue discard --all --to {name}")  # fmt: skip
        self._told = orphaned

    @property
    def spool(self) -> Spool:
        return self._spool

    # -- what can be seen and asked --------------------------------------------------------------------------------

    def alive(self) -> dict[str, bool]:
        working, deciding, answering = (
            self._spool.database.answers(LATE),
            self._classifier.is_alive,
            self._control.is_alive,
        )
        return {"spool": working, "classify": deciding, "control": answering}

    def ready(self) -> dict[str, bool]:
        answers = self._spool.database.answers(LATE)
        return {
            "inference": self._inference.is_ready, "database": answers,
            "room": answers and self._spool.space.has_room(), "open": self._receiver.is_open,
        }  # fmt: skip

    def counts(self) -> Counts:
        return self._spool.views.counts()

    def associations(self) -> int:
        return self._receiver.associations

    def circuits(self) -> dict[str, bool]:
        return self._forwarder.open_circuits()

    def destinations(self) -> dict[str, bool]:
        """Each destination of the settings, and whether a person has paused it."""
        states = self._spool.destinations.states()
        return {name: name in states and states[name].paused for name in self._settings.destinations}

    def certificates(self) -> dict[str, float]:
        return {where: times[0] for where, times in expiries(self._settings).items() if times}

    def listens(self) -> list[list[Any]]:
        """The addresses that this node took when it started."""
        return [list(one) for one in listeners(self._started_with)]

    def models(self) -> dict[str, str]:
        return self._serving.digests()

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request from the control socket."""
        match request.get("do"):
            case "reload":
                return {"done": True} | asdict(self.reload(str(request.get("who", ""))[:64]))
            case "model":
                return self._serving.order(request)
            case "models":
                return self._serving.report()
            case "health":
                return {**self.alive()}
            case "status":
                about = {"inference": self._inference.info(), "circuits": self.circuits(), "listens": self.listens()}
                return about | self.ready()
        return carry_out(self._spool, request, self._settings.destinations)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        full = self._spool.signals.of(FULL)
        wanted = full.version
        while not self._stopped.is_set():
            try:
                if full.version != wanted:
                    wanted = full.version
                    log.warning("disk full", removed=self._spool.retention.sweep_early())
                self._spool.tidy_up()
                self._tell_orphaned()
                self._expire(full, wanted)
            except SpoolError as error:
                log.error("spool", stage="sweep", reason=str(error))
            except Exception as error:  # nobody else would notice that nothing is removed any more
                log.error("sweep failed", error=where(error), errno=getattr(error, "errno", None))
            full.wait(wanted, SWEEP_EVERY)

    def _expire(self, full: Signal, wanted: int) -> None:
        """Remove what retention says, step by step, until all is gone or the node stops."""
        while not self._stopped.is_set() and full.version == wanted:
            begin = time.monotonic()
            if not self._spool.retention.sweep():
                return
            full.wait(wanted, PAUSE * (time.monotonic() - begin))


def _needing_a_restart(running: Settings, new: Settings) -> list[str]:
    """The parts of routing.yaml that differ from what the node was started with and are not taken over by a reload."""
    parts = [part for part in ("spool", "model", "web") if getattr(running, part) != getattr(new, part)]
    ports = [(settings.node.address, settings.node.port, settings.node.tls) for settings in (running, new)]
    return [*parts, *(["node address, port or tls"] if ports[0] != ports[1] else [])]
