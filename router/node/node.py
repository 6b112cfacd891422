"""The node: builds its parts from the settings, starts, reloads, drains and stops them. It does no other work.

The DICOM port opens last, so that nothing is accepted before every part is ready. Its address is taken before inference
starts: that takes long, and a used port must be known at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol, assert_never, cast

from starlette.types import ASGIApp

from router.classify import Classifier
from router.commitment import Committer
from router.config import Settings, load
from router.forward import Forwarder
from router.forward.transcoding import Copies
from router.node import orders
from router.node.api import application
from router.node.bulk_worker import BulkWorker
from router.node.local_socket import ControlServer
from router.node.orders import (
    AddUser,
    CancelJob,
    DecideAgain,
    Discard,
    Label,
    Many,
    Order,
    Pause,
    Promote,
    Reload,
    RemoveUser,
    Resume,
    Retry,
    RollBack,
    SendAlso,
    SetPassword,
    SetRoles,
    SetShadow,
    Silence,
    Wipe,
)
from router.node.reloading import Reloaded, refuse_bad_certificates, refuse_orphaned_deliveries, reloaded
from router.node.serving_models import ServingModels
from router.node.sweeper import Sweeper
from router.node.view import NodeView
from router.notify import Notifier
from router.observe import log
from router.receive import Receiver
from router.spool import Spool, SpoolError, open_spool
from router.web import WebServer
from router.web.access import Access, protected

DRAIN_SECONDS = 6.5
"""Docker kills ten seconds after SIGTERM. The rest of that time is for parts that hang at the end of the drain."""
LATE_AT_END = 2.0
"""Seconds after which the database counts as silent when the node stops."""
DRAIN_IN_VAIN = 3.0
"""Seconds to stop in if the spool's database does not answer. Work under way cannot be finished then."""
LAST_WRITES = 1.0
"""The least seconds for changes that still wait for the database."""


class Role(Protocol):
    """A part of the node. It may be stopped without having been started."""

    def start(self) -> object: ...

    def stop(self, deadline: float) -> None:
        """End by a deadline (time.monotonic)."""
        ...


class WebPage(Role, Protocol):
    """What people see of the node in a browser (`router.page`)."""

    @property
    def app(self) -> ASGIApp: ...


class Node:
    """One running node. `start` raises AddressError, SpoolError, InferenceError or OSError: one line with the fix."""

    def __init__(self, settings: Settings, page: Callable[[Node], WebPage] | None = None) -> None:
        """`page` makes what the web port shows beside health and metrics."""
        self._settings = self._started_with = settings
        self._stopped = threading.Event()
        self._reloading = threading.Lock()
        self._spool: Spool = open_spool(settings.spool)
        self._models = ServingModels(self._spool, self.settings, on_ready=lambda: classifier.wake())
        inference = self._models.inference
        self._forwarder = Forwarder(self._spool, self.settings, Copies(inference, self._spool.space.for_copy).get)
        classifier = Classifier(self._spool, inference, self.settings, self._models.decided)
        committer = Committer(self._spool, self.settings)
        self._receiver = Receiver(self.settings, self._spool.intake, (committer.callers,))
        self.view = view = NodeView(
            started_with=settings, settings=self.settings, spool=self._spool, models_in_use=self._models,
            classifier=classifier, forwarder=self._forwarder, receiver=self._receiver,
            takes_orders=lambda: control.is_alive,
        )  # fmt: skip
        shown = page(self) if page else None
        gate = protected(shown.app, Access(settings.web, self._spool)) if shown else None
        self._web = WebServer(settings.web, view, gate)
        states = {"health": lambda: {**view.alive()}, "status": view.status, "models": self._models.report}
        control = ControlServer(settings.spool.path, application(self.carry_out, states))
        sweeper, bulk = Sweeper(self._spool, self.settings), BulkWorker(self._spool, self._follow)
        notifier = Notifier(view, self._spool.notices, self.settings)
        self._roles: tuple[Role, ...] = (
            *((shown,) if shown else ()), self._web, self._models, control, self._forwarder, classifier, committer,
            sweeper, bulk, notifier, self._receiver,
        )  # fmt: skip
        """In the order in which they start. They stop in the opposite order."""

    def settings(self) -> Settings:
        """The settings in force. A reload replaces all of them at once."""
        return self._settings

    def _follow(self) -> float | None:
        """Let instances follow their study; nothing does in a dry run. See `Studies.step`."""
        now = self._settings
        return None if now.node.dry_run else self._spool.studies.step(now.limits, now.gathers)

    @property
    def spool(self) -> Spool:
        return self._spool

    def health(self) -> dict[str, bool]:
        """The parts of the node, and whether each works: what /healthz says. Never waits."""
        return self._web.alive()

    def start(self) -> tuple[int, int]:
        """Start everything. Returns the DICOM port and the web port."""
        ports: dict[Role, object] = {}
        try:
            with self._reloading:  # the local socket may ask for a reload before the stages are there
                for role in self._roles:
                    ports[role] = role.start()
                    if role is self._web:
                        self._receiver.bind()
        except BaseException:
            self.stop(0.0)
            raise
        self._web.look()
        node, port, web_port = self._settings.node, cast(int, ports[self._receiver]), cast(int, ports[self._web])
        for warning in self._settings.warnings:
            log.warning("configuration", about=warning)
        log.info("serving", ae_title=node.ae_title, address=node.address, port=port, web_port=web_port)
        self._spool.event("started")
        return port, web_port

    def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Close the port, finish work under way within `seconds`, and stop every part."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if not self._spool.database.answers(LATE_AT_END):
            seconds = min(seconds, DRAIN_IN_VAIN)
        deadline = time.monotonic() + seconds
        log.info("stopping", within_s=seconds)
        for role in reversed(self._roles):
            role.stop(deadline)
        if self._spool.database.is_working:
            self._spool.event("stopped")
        if self._spool.close(max(LAST_WRITES, deadline - time.monotonic())):
            log.info("stopped")
        else:
            log.error("stopped, but the spool's database did not take the last changes; their work begins again")

    def reload(self, who: str = "") -> Reloaded:
        """Read routing.yaml again. Afterwards all of it is in force, or if something fails, nothing of it.

        Raises ConfigError, SpoolError, NoWorkerError. Then the old settings stay in force, and a person may try again.
        """
        with self._reloading:  # a signal and the local socket may ask at once
            new, old = load(self._settings.file), self._settings
            refuse_orphaned_deliveries(self._spool, new)
            refuse_bad_certificates(old, new)
            prepared = self._forwarder.prepare(new.destinations)
            self._settings = new
            self._forwarder.take(prepared)
            done = reloaded(self._started_with, old, new)
            for part in done.needs_restart:
                log.warning("needs a restart", part=part)
            log.info("reloaded", changed=done.changed, rules=len(new.rules.rules), destinations=len(new.destinations))
            try:
                self._spool.event("reloaded", who=who, changed=done.changed)
            except SpoolError as error:  # the record of events lacks this one, but the settings are in force
                log.error("spool", stage="reload", reason=str(error))
            return done

    def carry_out(self, order: Order, who: str) -> dict[str, Any]:
        """Carry out what a person ordered. Raises RouterError."""
        match order:
            case Reload():
                return {"done": True} | asdict(self.reload(who))
            case Promote() | RollBack() | SetShadow():
                return self._models.begin(order, who)
            case Retry() | Discard() | DecideAgain() | SendAlso() | Label() | Pause() | Resume() | Wipe():
                return orders.carry_out(order, who, self._spool, self._settings.destinations)
            case Many() | CancelJob() | Silence() | AddUser() | RemoveUser() | SetPassword() | SetRoles():
                return orders.carry_out(order, who, self._spool, self._settings.destinations)
            case _:
                assert_never(order)
