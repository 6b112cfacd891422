"""What can be seen of a running node: on the web page, in metrics, and over the local socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from router.association.expiry import expiries
from router.classify import Classifier
from router.config import Settings
from router.forward import Forwarder
from router.forward.failing import Failing
from router.listening import listeners
from router.node.other_models import OtherModels
from router.node.serving_models import ServingModels
from router.receive import Receiver
from router.spool import Counts, DestinationState, Spool

LATE = 4.0
"""Seconds after which `/healthz` and `/readyz` call a change late that the database has not taken."""


@dataclass(frozen=True)
class NodeView:
    """Reads from the node's parts, and changes nothing. A part that the node has no role for is None."""

    started_with: Settings
    settings: Callable[[], Settings]
    spool: Spool
    models_in_use: ServingModels | OtherModels
    classifier: Classifier | None
    forwarder: Forwarder | None
    receiver: Receiver | None
    takes_orders: Callable[[], bool]
    began_at: float = field(default_factory=time.time)
    """Unix time in seconds."""

    def alive(self) -> dict[str, bool]:
        classify = {"classify": self.classifier.is_alive} if self.classifier else {}
        return {"spool": self.spool.database.answers(LATE)} | classify | {"control": self.takes_orders()}

    def ready(self) -> dict[str, bool]:
        answers = self.spool.database.answers(LATE)
        model = {"inference": self.models_in_use.is_ready} if self.classifier else {}
        port = {"room": answers and self.spool.space.has_room(), "open": self.receiver.is_open} if self.receiver else {}
        blobs = {"blobs": not self.spool.trouble_with_blobs} if self.started_with.spool.blobs else {}
        return model | {"database": answers} | port | blobs

    def counts(self) -> Counts:
        return self.spool.views.counts()

    def associations(self) -> int:
        return self.receiver.associations if self.receiver else 0

    def circuits(self) -> dict[str, bool]:
        if self.forwarder and self.spool.database.is_sqlite:
            return self.forwarder.open_circuits()
        return {name: one.circuit_until > 0 for name, one in self.spool.destinations.states().items()}

    def failing(self) -> dict[str, Failing]:
        """The destinations that fail every try, as far as this process sends."""
        return self.forwarder.failing() if self.forwarder else {}

    def destinations(self) -> dict[str, bool]:
        """Each destination of the settings, and whether a person has paused it."""
        states = self.spool.destinations.states()
        return {name: name in states and states[name].paused for name in self.settings().destinations}

    def destination_states(self) -> dict[str, DestinationState]:
        return self.spool.destinations.states()

    def last_from(self, callers: list[str]) -> dict[str, float]:
        return self.spool.views.last_from(callers)

    def received_bytes(self, seconds: float) -> int:
        return self.spool.views.received_bytes(seconds)

    def is_ready(self) -> bool:
        return self.models_in_use.is_ready

    def certificates(self) -> dict[str, float]:
        return {setting: times[0] for setting, times in expiries(self.settings()).items() if times}

    def models(self) -> dict[str, str]:
        return self.models_in_use.digests()

    def model_report(self) -> dict[str, Any]:
        """What serves and what shadows (`ServingModels.report`)."""
        return self.models_in_use.report()

    def about(self) -> dict[str, Any]:
        """What the list of nodes says of this one."""
        try:
            ready = self.ready()
        except OSError:  # a disk that does not answer counts as full
            ready = {"room": False}
        info = self.models_in_use.info()
        return {
            "listens": [f"{address}:{port}" for _, address, port in listeners(self.started_with)],
            "model": self.models_in_use.digests().get("serving", ""), "engine": info.get("engine", ""),
            "why": info.get("why", ""), "not_ready": sorted(part for part, works in ready.items() if not works),
            "failing": self._failing(),
        }  # fmt: skip

    def _failing(self) -> dict[str, dict[str, Any]]:
        return {name: asdict(one) for name, one in self.failing().items()}

    def node(self) -> dict[str, Any]:
        """What `dicom-router nodes` says of the only node."""
        now = time.time()
        return {
            "version": version("dicom-router"), "began_at": self.began_at, "seen_at": now, "about": self.about(),
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Readiness, the engine of inference, and the addresses that the node took when it started."""
        return {
            "runs_on": self.models_in_use.info(), "circuits": self.circuits(),
            "failing": self._failing(),
            "listens": [list(one) for one in listeners(self.started_with)],
            "trouble_with_blobs": self.spool.trouble_with_blobs, "orphans": self.spool.orphans,
        } | self.ready()  # fmt: skip
