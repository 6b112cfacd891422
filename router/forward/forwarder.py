"""The forwarding stage: for each destination its workers, and nothing that one destination could do to another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from router.config.settings import DestinationSettings, Settings
from router.forward.circuit import Circuit
from router.forward.delivery import Transcode
from router.forward.worker import Worker
from router.spool import Spool


class Forwarder:
    """Starts, matches to new settings, and stops the workers of every destination."""

    def __init__(self, spool: Spool, settings: Callable[[], Settings], transcode: Transcode) -> None:
        self._spool = spool
        self._settings = settings
        self._transcode = transcode
        self._workers: dict[str, list[Worker]] = {}
        self._circuits: dict[str, Circuit] = {}
        self._leaving: list[Worker] = []
        self._known: dict[str, DestinationSettings] = {}

    def start(self) -> None:
        self.apply_settings()

    def apply_settings(self) -> None:
        """After start or reload: workers for new destinations, none for those that went, as many as configured."""
        wanted = dict(self._settings().destinations)
        for name in self._workers:
            self._let_go(name, wanted[name].associations if name in wanted else 0)
        for name, destination in wanted.items():
            if name in self._circuits and destination != self._known[name]:
                self._circuits[name].hurry()
            workers = self._workers.setdefault(name, [])
            while len(workers) < destination.associations:
                workers.append(self._hire(name))
        self._known |= wanted
        self._spool.signals.set_many(wanted)

    def _let_go(self, name: str, but: int) -> None:
        """All workers of a destination but so many; they finish what they have in hand."""
        workers = self._workers[name]
        self._leaving = [worker for worker in self._leaving if worker.is_alive()] + workers[but:]
        for worker in workers[but:]:
            worker.ask_to_stop()
        del workers[but:]

    def _hire(self, name: str) -> Worker:
        if name not in self._circuits:
            self._circuits[name] = Circuit(name, self._spool, random.random)
        worker = Worker(name, self._spool, self._settings, self._circuits[name], self._transcode)
        worker.start()
        return worker

    def open_circuits(self) -> dict[str, bool]:
        """Whether each destination's circuit is open."""
        return {name: circuit.is_open for name, circuit in self._circuits.items()}

    def stop(self, deadline: float) -> None:
        """Let every worker finish the delivery in its hands, until `deadline` (monotonic seconds)."""
        workers = [*self._leaving, *(worker for group in self._workers.values() for worker in group)]
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
