"""Keeps the spool tidy: removes what retention says, makes room on a full disk, reports what nobody sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from router.config import Settings
from router.observe import log, where
from router.spool import FULL, Signal, Spool, SpoolError

SWEEP_EVERY = 60.0
"""Seconds between two sweeps of a disk that is not full."""
PAUSE = 9.0
"""After each step of retention the sweeper rests this many times as long: arriving instances need disk and database."""


def orphaned(spool: Spool, settings: Settings) -> dict[str, int]:
    """How many deliveries wait for each destination that the settings do not have."""
    counts = spool.views.counts()
    gone = sorted((set(counts.open) | set(counts.buried)) - set(settings.destinations))
    return {name: counts.open.get(name, 0) + counts.buried.get(name, 0) for name in gone}


class Sweeper:
    """A thread that sweeps until it is stopped."""

    def __init__(self, spool: Spool, settings: Callable[[], Settings]) -> None:
        self._spool, self._settings = spool, settings
        self._stopped = threading.Event()
        self._told: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, _deadline: float = 0.0) -> None:
        """The thread ends at its next step. This does not wait for it, because a disk may hang."""
        self._stopped.set()
        self._spool.signals.set(FULL)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        full = self._spool.signals.of(FULL)
        wanted = full.version
        while not self._stopped.is_set():
            try:
                if full.version != wanted:
                    wanted = full.version
                    log.warning("disk full", removed=self._spool.space.sweep_disk())
                self._spool.tidy_up()
                self._tell_orphaned()
                self._expire(full, wanted)
            except SpoolError as error:
                log.error("spool", stage="sweep", reason=str(error))
            except Exception as error:  # without this, nobody would notice that removal has stopped
                log.error("sweep failed", error=where(error), errno=getattr(error, "errno", None))
            full.wait(wanted, SWEEP_EVERY)

    def _expire(self, full: Signal, wanted: int) -> None:
        """Remove step by step what retention says, until all is gone or the node stops."""
        while not self._stopped.is_set() and full.version == wanted:
            begin = time.monotonic()
            if not self._spool.retention.sweep():
                return
            full.wait(wanted, PAUSE * (time.monotonic() - begin))

    def _tell_orphaned(self) -> None:
        """Report once the deliveries that nobody sends. Their destination went before a start or during a decision."""
        found = orphaned(self._spool, self._settings())
        for name, waiting in found.items():
            if self._told.get(name) != waiting:
                log.error("deliveries to a destination that is gone", destination=name, waiting=waiting,
                          fix=f"put it back, or run: dicom-router queue discard --all --to {name}")  # fmt: skip
        self._told = found
