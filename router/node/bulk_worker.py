"""Works off bulk jobs, instances that follow their study, and results that do not come, in the background: a batch of
each, then a pause in which everybody else writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from router.observe import log, where
from router.spool import BULK, Spool, SpoolError

LOOK_EVERY = 60.0
"""Seconds after which it looks for jobs by itself."""
SOON = 1.0
"""Seconds. For more, a new job is not kept waiting."""
AGAIN_AFTER = 5.0
"""Seconds until it tries again after the database did not take a batch."""


class BulkWorker:
    """A thread that works until it is stopped; what is left is gone on with at the next start."""

    def __init__(self, spool: Spool, *others: Callable[[], float | None]) -> None:
        """`others` do some other work, such as to let instances follow their study. Each returns the seconds until
        there is more to do; None: it need not be asked before there is a signal."""
        self._spool, self._others = spool, others
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
            if due is None or due > SOON:
                signal.wait(version, min(due or LOOK_EVERY, LOOK_EVERY))
            else:
                self._stopped.wait(due)

    def _step(self) -> float | None:
        """A batch of each. Returns the seconds until the next; None where nothing is left to do."""
        due = [self._spool.bulk.step(), *(work() for work in self._others)]
        return min((one for one in due if one is not None), default=None)
