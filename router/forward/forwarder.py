"""The forwarding stage: each destination has its own workers, so that none can disturb another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.association.lacks import own_limit
from router.config.settings import DestinationSettings, Settings
from router.errors import RouterError
from router.forward.circuit import Circuit
from router.forward.delivery import Transcode
from router.forward.failing import Failing
from router.forward.last_look import LastLook
from router.forward.worker import Worker
from router.spool import Spool


class NoWorkerError(RouterError):
    """The system has no thread left for a destination. The text is one line with the fix."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Workers that new settings need and that the forwarder does not have yet."""

    destinations: dict[str, DestinationSettings]
    circuits: dict[str, Circuit] = field(default_factory=dict)
    looks: dict[str, LastLook] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)


class Forwarder:
    """Starts and stops the workers of every destination, and fits them to new settings."""

    def __init__(self, spool: Spool, settings: Callable[[], Settings], transcode: Transcode) -> None:
        self._spool = spool
        self._settings = settings
        self._transcode = transcode
        self._workers: dict[str, list[Worker]] = {}
        self._circuits: dict[str, Circuit] = {}
        self._looks: dict[str, LastLook] = {}
        self._leaving: list[Worker] = []
        self._known: dict[str, DestinationSettings] = {}

    def start(self) -> None:
        """Raises SpoolError, NoWorkerError."""
        self.apply_settings()

    def apply_settings(self) -> None:
        """Match the workers to the settings in force."""
        self.take(self.prepare(self._settings().destinations))

    def prepare(self, wanted: Mapping[str, DestinationSettings]) -> Prepared:
        """Start the further workers that these destinations need. They rest until the settings know their destination.

        Raises SpoolError, NoWorkerError; then nothing has changed.
        """
        prepared = Prepared(dict(wanted))
        try:
            for name, destination in wanted.items():
                if name not in self._circuits:
                    prepared.circuits[name] = Circuit(name, self._spool, random.random)
                    prepared.looks[name] = LastLook()
                for _ in range(destination.associations - len(self._workers.get(name, ()))):
                    circuit = prepared.circuits.get(name) or self._circuits[name]
                    look = prepared.looks.get(name) or self._looks[name]
                    worker = Worker(name, self._spool, self._settings, circuit, look, self._transcode)
                    worker.start()
                    prepared.workers.append(worker)
        except RuntimeError as error:
            self.discard(prepared)
            raise NoWorkerError(f"no thread for destination {name}: {own_limit(error) or error}") from error
        except BaseException:
            self.discard(prepared)
            raise
        return prepared

    def discard(self, prepared: Prepared) -> None:
        """Stop the prepared workers: they are not needed after all."""
        self._leave(prepared.workers)

    def take(self, prepared: Prepared) -> None:
        """Called when the settings are in force. Keeps the prepared workers, stops those not needed. Cannot fail."""
        wanted = prepared.destinations
        for name, workers in self._workers.items():
            keep = wanted[name].associations if name in wanted else 0
            self._leave(workers[keep:])  # they finish their present delivery
            del workers[keep:]
        for name, destination in wanted.items():
            if name in self._circuits and destination != self._known[name]:
                self._circuits[name].hurry()
        self._circuits |= prepared.circuits
        self._looks |= prepared.looks
        for worker in prepared.workers:
            self._workers.setdefault(worker.to, []).append(worker)
        self._known |= wanted
        self._spool.signals.set_many(wanted)

    def _leave(self, workers: list[Worker]) -> None:
        self._leaving = [worker for worker in self._leaving if worker.is_alive()] + workers
        for worker in workers:
            worker.ask_to_stop()

    def open_circuits(self) -> dict[str, bool]:
        """Whether each destination's circuit is open."""
        return {name: circuit.is_open for name, circuit in self._circuits.items()}

    def failing(self) -> dict[str, Failing]:
        """The destinations that have failed each try since their last success, in this process."""
        found = {name: circuit.failures.so_far() for name, circuit in list(self._circuits.items())}
        return {name: one for name, one in found.items() if one is not None}

    def stop(self, deadline: float) -> None:
        """Let every worker finish its present delivery, until `deadline` (monotonic seconds)."""
        workers = [*self._leaving, *(worker for group in self._workers.values() for worker in group)]
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
