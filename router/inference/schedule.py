"""What waits and what runs in each lane, and which work is next. `lanes` says what the lanes are for."""

from __future__ import annotations

import enum
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from router.inference.fair import Calling, FairQueue

Request = dict[str, Any]


class Lane(enum.Enum):
    LOOK = "look"
    COPY = "copy"
    SLOW = "slow"


@dataclass(slots=True, eq=False)
class Job:
    """One question on its way. `has_died`: a worker died of it, and its next try is the last.

    `is_long`: it has been under way for longer than most.
    """

    request: Request
    lane: Lane
    began: float = 0.0
    has_died: bool = False
    is_long: bool = False

    @property
    def caller(self) -> Calling:
        calling_ae, peer = self.request["caller"]
        return calling_ae, peer


class Schedule:
    """The jobs of all lanes. Its user holds a lock around each call."""

    def __init__(self, workers: int, *, looks: bool = True) -> None:
        """Without `looks` there are only copies, and no worker waits for a look."""
        few = max(1, workers // 2)
        self.most = {Lane.LOOK: workers if looks else 0, Lane.COPY: few, Lane.SLOW: few}
        self._waiting: dict[Lane, FairQueue[Job]] = {lane: FairQueue() for lane in Lane}
        self._running: set[Job] = set()
        self._slow_callers: Counter[Calling] = Counter()
        self._died_last = False

    def put(self, job: Job) -> None:
        self._waiting[job.lane].put(job.caller, job)

    def take(self, lane: Lane, warm_idle: int) -> Job | None:
        """The next job of a lane, which begins now. `warm_idle`: the number of started workers without work."""
        running = [job for job in self._running if job.lane is lane]
        if lane is Lane.LOOK:
            job = self._next_look(running, warm_idle)
        elif len(running) >= self.most[lane]:
            job = None
        else:
            job = self._next_slow(running) if lane is Lane.SLOW else self._waiting[lane].take()
        if job is not None:
            job.began = time.monotonic()
            self._running.add(job)
        return job

    def warm_wanted(self) -> int:
        """The number of started workers, without work or on their way, that the first lane should have."""
        looks = [job for job in self._running if job.lane is Lane.LOOK]
        spare = bool(self._slow_callers or any(job.is_long for job in looks))
        return self.most[Lane.LOOK] + spare - len(looks)

    def working_seconds(self) -> float:
        """Seconds that the oldest work has been under way."""
        now = time.monotonic()
        return max((now - job.began for job in self._running), default=0.0)

    def move(self, job: Job) -> None:
        """Move a job that runs to the slow lane, where it begins anew."""
        self._running.discard(job)
        if job.lane is not Lane.SLOW:
            job.lane = Lane.SLOW
            self._slow_callers[job.caller] += 1
        self.put(job)

    def end(self, job: Job) -> None:
        self._running.discard(job)
        if job.lane is Lane.SLOW:
            self._slow_callers[job.caller] -= 1
            if not self._slow_callers[job.caller]:
                del self._slow_callers[job.caller]

    def _is_slow(self, job: Job) -> bool:
        return self._slow_callers[job.caller] > 0

    def _next_look(self, running: list[Job], warm_idle: int) -> Job | None:
        places = self.most[Lane.LOOK]
        held_by_long = {job.caller for job in running if job.is_long}
        if len(running) >= places + bool(held_by_long):
            return None
        held_by_slow = sum(self._is_slow(job) for job in running)
        passed_over = held_by_slow >= max(1, places - 1) or warm_idle < 2

        def may(job: Job) -> bool:
            if len(running) >= places and job.caller in held_by_long:
                return False
            return not (passed_over and self._is_slow(job))

        return self._waiting[Lane.LOOK].take(may)

    def _next_slow(self, running: list[Job]) -> Job | None:
        """Work that a worker died of runs alone in this lane: its neighbour's memory may have been the cause.

        It takes turns with all other work, so that neither waits for ever.
        """
        waiting = self._waiting[Lane.SLOW]
        if any(job.has_died for job in running):
            return None
        if not self._died_last and running and waiting.has(lambda job: job.has_died):
            return None
        wanted = (not self._died_last, self._died_last) if not running else (False,)
        for has_died in wanted:
            if (job := waiting.take(lambda job: job.has_died is has_died)) is not None:  # noqa: B023 - called at once
                self._died_last = has_died
                return job
        return None
