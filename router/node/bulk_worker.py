"""Works off bulk jobs, and instances that follow their study, in the background: a batch of each, then a pause in which
everybody else writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from router.observe import log, where
from router.spool import BULK, Spool, SpoolError

LOOK_EVERY = 60.0
"""Seconds after which it looks for jobs by itself."""
AGAIN_AFTER = 5.0
"""Seconds until it tries again after the database did not take a batch."""


class BulkWorker:
    """A thread that works until it is stopped; what is left is gone on with at the next start."""

    def __init__(self, spool: Spool, follow: Callable[[], float | None] = lambda: None) -> None:
        """`follow` lets some instances follow their study; it returns the seconds until there is more to do."""
        self._spool, self._follow = spool, follow
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bulk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Ends after the batch under way."""
        self._stopped.set()
        self._spool.signals.set(BULK)
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        signal = self._spool.signals.of(BULK)
        while not self._stopped.is_set():
            version = signal.version
            try:
                due = self._step()
            except SpoolError as error:
                log.error("spool", stage="bulk", reason=str(error))
                due = AGAIN_AFTER
            except Exception as error:  # else no one would notice that no job goes on any more
                log.error("bulk job failed", error=where(error))
                due = AGAIN_AFTER
            if due is None:
                signal.wait(version, LOOK_EVERY)
            else:
                self._stopped.wait(due)

    def _step(self) -> float | None:
        """A batch of each. Returns the seconds until the next; None where nothing is left to do."""
        due = self._spool.bulk.step(), self._follow()
        return min((one for one in due if one is not None), default=None)
