"""The node: builds its parts from the settings, starts, reloads, drains and stops them. It does no other work.

The DICOM port opens last, so that nothing is accepted before every part is ready. Its address is taken before inference
starts: that takes long, and a used port must be known at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol, cast

from starlette.types import ASGIApp

from router.classify import Classifier
from router.commitment import Committer
from router.config import Settings, load
from router.forward import Forwarder
from router.forward.transcoding import Copies
from router.inference import CopyWorkers
from router.node import carrying_out
from router.node.api import application
from router.node.bulk_worker import BulkWorker
from router.node.client import socket_name
from router.node.local_socket import ControlServer
from router.node.orders import (
    ApplyRules,
    Order,
    OrderError,
    Promote,
    Reload,
    RollBack,
    RollBackRules,
    SetShadow,
)
from router.node.other_models import OtherModels
from router.node.reloading import (
    Reloaded,
    not_followed,
    refuse_orphaned_deliveries,
    refuse_unusable_files,
    reloaded,
)
from router.node.rule_changes import RuleChanges
from router.node.serving_models import ServingModels
from router.node.shared_settings import InForce, at_start, following, publish
from router.node.sweeper import Sweeper
from router.node.together import SettingsFollower, Together
from router.node.view import NodeView
from router.notify import Notifier
from router.observe import log
from router.receive import Receiver
from router.spool import Spool, SpoolError, open_spool
from router.web import WebServer
from router.web.access import Access, protected

DRAIN_SECONDS = 6.5
"""Docker kills ten seconds after SIGTERM. The rest of that time is for parts that hang at the end of the drain."""
LATE_AT_END = 3.0
"""Seconds after which the database counts as silent when the node stops."""
DRAIN_IN_VAIN = 3.0
"""Seconds to stop in if the spool's database does not answer. Work under way cannot be finished then."""
DIFFERS = (
    "the routing.yaml of this node differs from the settings in force, which another node has published: change the "
    "rules there, or make this file the same (dicom-router nodes)"
)
"""Why rules cannot be changed here."""
LAST_WRITES = 1.0
"""The least seconds for changes that still wait for the database."""


class Part(Protocol):
    """A part of the node. It may be stopped without having been started."""

    def start(self) -> object: ...

    def stop(self, deadline: float) -> None:
        """End by a deadline (time.monotonic)."""
        ...


class WebPage(Part, Protocol):
    """What people see of the node in a browser (`router.page`)."""

    @property
    def app(self) -> ASGIApp: ...


class Node:
    """One running node. `start` raises AddressError, SpoolError, InferenceError or OSError: one line with the fix."""

    def __init__(self, settings: Settings, page: Callable[[Node], WebPage] | None = None) -> None:
        """`page` makes what the web port shows beside health and metrics."""
        self._stopped = threading.Event()
        self._reloading = threading.Lock()
        roles = frozenset(settings.node.roles)
        self._spool: Spool = open_spool(settings.spool)
        self._in_force = self._at_start(settings)
        self._started_with = settings = self._in_force.settings
        self._follower = SettingsFollower(self._spool, self._in_force.version, self._follow)
        self._rule_changes = RuleChanges(self.settings, self.reload, self._spool)
        self._models, classifier = self._models_and_classifier(roles)
        self._forwarder, copy_workers = self._forwarder_and_workers(roles)
        committer = Committer(self._spool, self.settings, asks="forward" in roles)
        services = (committer.callers,)
        self._receiver = Receiver(self.settings, self._spool.intake, services) if "receive" in roles else None
        self.view = view = NodeView(
            started_with=settings, settings=self.settings, spool=self._spool, models_in_use=self._models,
            classifier=classifier, forwarder=self._forwarder, receiver=self._receiver,
            takes_orders=lambda: control.is_alive,
        )  # fmt: skip
        shown = page(self) if page and "web" in roles else None
        gate = protected(shown.app, Access(settings.web, self._spool)) if shown else None
        self._web = WebServer(settings.web, view, gate)
        states = {"health": lambda: {**view.alive()}, "status": view.status, "models": self._models.report,
                  "node": view.node}  # fmt: skip
        name = socket_name(self._spool.start_among_others)
        control = ControlServer(settings.spool.path, application(self.carry_out, states), name)
        commits = committer if roles & {"receive", "forward"} else None
        sweeper = Sweeper(self._spool, self.settings)
        bulk = BulkWorker(self._spool, self._follow_studies, self._miss_results)
        notifier = Notifier(view, self._spool.notices, self.settings)
        self._together = None if self._spool.database.is_sqlite else self._among_others()
        parts: tuple[Part | None, ...] = (
            shown, self._web, self._models, control, self._together, copy_workers, self._forwarder, classifier, commits,
            sweeper, bulk, notifier, self._receiver,
        )  # fmt: skip
        self._parts = tuple(part for part in parts if part is not None)
        """In the order in which they start. They stop in the opposite order."""

    def _models_and_classifier(self, roles: frozenset[str]) -> tuple[ServingModels | OtherModels, Classifier | None]:
        if "classify" not in roles:
            return OtherModels(self._spool, self.settings), None
        models = ServingModels(self._spool, self.settings, on_ready=lambda: classifier.wake())
        classifier = Classifier(self._spool, models.inference, self.settings, models.decided)
        return models, classifier

    def _forwarder_and_workers(self, roles: frozenset[str]) -> tuple[Forwarder | None, CopyWorkers | None]:
        """Copies are made beside the model where there is one."""
        if "forward" not in roles:
            return None, None
        workers = None if isinstance(self._models, ServingModels) else CopyWorkers(self.settings().model)
        transcoder = workers or cast(ServingModels, self._models).inference
        copies = Copies(transcoder, self._spool.space.for_copy)
        return Forwarder(self._spool, self.settings, copies.get), workers

    def _at_start(self, own: Settings) -> InForce:
        try:
            return at_start(own, self._spool)
        except BaseException:
            self._spool.close()
            raise

    def _among_others(self) -> Together:
        def about() -> dict[str, Any]:
            return self.view.about() | {"file_differs": self._in_force.file_differs}

        return Together(self._spool, self.settings().node, self._follower, self._models, about)

    def settings(self) -> Settings:
        """The settings in force. A reload replaces all of them at once."""
        return self._in_force.settings

    def _follow_studies(self) -> float | None:
        """Let instances follow their study; nothing does in a dry run. See `Studies.step`."""
        now = self.settings()
        return None if now.node.dry_run else self._spool.studies.step(now.limits, now.gathers, now.results_from)

    def _miss_results(self) -> float | None:
        """Note results that have not come in time. See `Results.step`."""
        now = self.settings()
        return self._spool.results.step(now.expects, now.limits, now.gathers, now.results_from)

    @property
    def spool(self) -> Spool:
        return self._spool

    def health(self) -> dict[str, bool]:
        """The parts of the node, and whether each works: what /healthz says. Never waits."""
        return self._web.alive()

    def start(self) -> tuple[int, int]:
        """Start everything. Returns the DICOM port (0: it does not receive) and the web port."""
        ports: dict[Part | None, object] = {None: 0}
        try:
            with self._reloading:  # the local socket may ask for a reload before the stages are there
                for part in self._parts:
                    ports[part] = part.start()
                    if part is self._web and self._receiver:
                        self._receiver.bind()
        except BaseException:
            self.stop(0.0)
            raise
        self._web.look()
        node, port, web_port = self.settings().node, cast(int, ports[self._receiver]), cast(int, ports[self._web])
        for warning in self.settings().warnings:
            log.warning("configuration", about=warning)
        for unusable in self.settings().unusable:
            log.error("configuration", about=str(unusable))
        log.info(
            "serving", ae_title=node.ae_title, roles=list(node.roles), address=node.address, port=port,
            web_port=web_port,
        )  # fmt: skip
        self._rule_changes.finish()
        self._spool.event("started")
        return port, web_port

    def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Close the port, finish work under way within `seconds`, and stop every part.

        Before that, associations that are open may go on for `node.drain`.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._receiver and (drain := self.settings().node.drain):
            log.info("draining", associations=self._receiver.associations, within_s=drain)
            self._receiver.drain(time.monotonic() + drain)
        if not self._spool.database.answers(LATE_AT_END):
            seconds = min(seconds, DRAIN_IN_VAIN)
        deadline = time.monotonic() + seconds
        log.info("stopping", within_s=seconds)
        for part in reversed(self._parts):
            part.stop(deadline)
        if self._spool.database.is_working:
            self._spool.event("stopped")
        if self._spool.close(max(LAST_WRITES, deadline - time.monotonic())):
            log.info("stopped")
        else:
            log.error("stopped, but the spool's database did not take the last changes; their work begins again")

    def reload(self, who: str = "") -> Reloaded:
        """Read routing.yaml again. Afterwards all of it is in force, or if something fails, nothing of it.

        Of several nodes each follows. Raises ConfigError, SpoolError, NoWorkerError. Then the old settings stay in
        force, and a person may try again.
        """
        with self._reloading:  # a signal and the local socket may ask at once
            new, old = load(self.settings().file), self.settings()
            refuse_orphaned_deliveries(self._spool, new)
            refuse_unusable_files(old, new)
            self._take(new, lambda: publish(new, self._spool, who))
            self._follower.now_in_force(self._in_force.version)
            done = reloaded(self._started_with, old, new, self._in_force.version)
            for part in done.needs_restart:
                log.warning("needs a restart", part=part)
            log.info("reloaded", changed=done.changed, rules=len(new.rules.rules), destinations=len(new.destinations))
            try:
                self._spool.event("reloaded", who=who, changed=done.changed)
            except SpoolError as error:  # the record of events lacks this one, but the settings are in force
                log.error("spool", stage="reload", reason=str(error))
            return done

    def _follow(self) -> int:
        """Take over the newest settings that another node has published. Returns their version.

        Raises ConfigError, SpoolError, NoWorkerError.
        """
        with self._reloading:
            newest, old = self._spool.shared.settings(), self.settings()
            if newest is None or newest.version <= self._in_force.version:
                return self._in_force.version
            found = following(old, newest)
            refuse_unusable_files(old, found.settings)
            self._take(found.settings, lambda: found)
            done = reloaded(self._started_with, old, found.settings, newest.version)
            log.info("followed", version=newest.version, who=newest.who, node=newest.node, changed=done.changed)
            return newest.version

    def _take(self, new: Settings, in_force: Callable[[], InForce]) -> None:
        """Make new settings those in force. What `in_force` raises leaves the old ones."""
        prepared = self._forwarder.prepare(new.destinations) if self._forwarder else None
        try:
            self._in_force = in_force()
        except BaseException:
            if self._forwarder and prepared:
                self._forwarder.discard(prepared)
            raise
        if self._forwarder and prepared:
            self._forwarder.take(prepared)

    def carry_out(self, order: Order, who: str) -> dict[str, Any]:
        """Carry out what a person ordered. Raises RouterError."""
        match order:
            case Reload():
                before, done = self.settings(), self.reload(who)
                self._rule_changes.reloaded(before, who)
                return {"done": True} | asdict(done) | {"not_followed": not_followed(self._spool, done.version)}
            case ApplyRules() | RollBackRules():
                if self._in_force.file_differs:
                    raise OrderError(DIFFERS)
                changed = self._rule_changes.carry_out(order, who)
                return changed | {"not_followed": not_followed(self._spool, self._in_force.version)}
            case Promote() | RollBack() | SetShadow():
                return self._models.begin(order, who)
            case _:
                return carrying_out.carry_out(order, who, self._spool, self.settings().destinations)
