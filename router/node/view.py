"""What can be seen of a running node: on the web page, in metrics, and over the local socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.association.expiry import expiries
from router.classify import Classifier
from router.config import Settings
from router.forward import Forwarder
from router.listening import listeners
from router.node.serving_models import ServingModels
from router.receive import Receiver
from router.spool import Counts, DestinationState, Spool

LATE = 4.0
"""Seconds after which `/healthz` and `/readyz` call a change late that the database has not taken."""


@dataclass(frozen=True)
class NodeView:
    """Reads from the node's parts, and changes nothing."""

    started_with: Settings
    settings: Callable[[], Settings]
    spool: Spool
    models_in_use: ServingModels
    classifier: Classifier
    forwarder: Forwarder
    receiver: Receiver
    takes_orders: Callable[[], bool]

    def alive(self) -> dict[str, bool]:
        working = self.spool.database.answers(LATE)
        return {"spool": working, "classify": self.classifier.is_alive, "control": self.takes_orders()}

    def ready(self) -> dict[str, bool]:
        answers = self.spool.database.answers(LATE)
        return {
            "inference": self.models_in_use.inference.is_ready, "database": answers,
            "room": answers and self.spool.space.has_room(), "open": self.receiver.is_open,
        } | ({"blobs": not self.spool.trouble_with_blobs} if self.started_with.spool.blobs else {})  # fmt: skip

    def counts(self) -> Counts:
        return self.spool.views.counts()

    def associations(self) -> int:
        return self.receiver.associations

    def circuits(self) -> dict[str, bool]:
        return self.forwarder.open_circuits()

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
        return self.models_in_use.inference.is_ready

    def certificates(self) -> dict[str, float]:
        return {setting: times[0] for setting, times in expiries(self.settings()).items() if times}

    def models(self) -> dict[str, str]:
        return self.models_in_use.digests()

    def model_report(self) -> dict[str, Any]:
        """What serves and what shadows (`ServingModels.report`)."""
        return self.models_in_use.report()

    def status(self) -> dict[str, Any]:
        """Readiness, the engine of inference, and the addresses that the node took when it started."""
        return {
            "runs_on": self.models_in_use.inference.info(), "circuits": self.circuits(),
            "listens": [list(one) for one in listeners(self.started_with)],
            "trouble_with_blobs": self.spool.trouble_with_blobs, "orphans": self.spool.orphans,
        } | self.ready()  # fmt: skip
