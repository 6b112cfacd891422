"""Which image is worked on next, by which pixel worker: no caller waits for another's slow or hostile image.

There are three lanes. Each look begins in the first; native copies have their own. Work moves to the slow lane if a
worker finds it too expensive before it decodes, if it is not done within the lane's patience, or if its worker died.
The slow lane has few workers, a low priority, and the whole time limit. Within a lane callers take turns (`fair`). A
caller with something in the slow lane always leaves a place of the first lane, and a warm worker, to the others. A look
that takes longer than most makes room for one of another caller long before its patience is over.

A worker is a thread with a process. There is one more than may be at work at once. Processes beyond those of the first
lane are started on demand, since a start costs half a second of a processor.
"""

from __future__ import annotations

import enum
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.flow import Seen
from router.inference.fair import Calling, FairQueue
from router.inference.framing import pack
from router.inference.worker_handle import Answer, WorkerDiedError

Request = dict[str, Any]

PATIENCE_LOOK, PATIENCE_COPY = 1.0, 5.0
"""Seconds in the first lane and in that of copies, before work goes on in the slow one. A usual DX takes 0.1 s."""
LONG = 0.25
"""Seconds after which a look in the first lane makes room: one more may be under way, of another caller."""
STARVED = 3.0
"""The patience may last up to this many times as long if the worker did not get the processor."""
LOOK_AGAIN = 0.05
"""Seconds between two checks of that."""
START_AGAIN = 1.0

CRASHED = "the decoder crashed or ran out of memory"


class Lane(enum.Enum):
    LOOK = "look"
    COPY = "copy"
    SLOW = "slow"


class Worker(Protocol):
    """What the lanes need of a pixel worker (`worker_handle.PixelWorker`)."""

    @property
    def is_warm(self) -> bool: ...
    @property
    def is_lowered(self) -> bool: ...
    def start(self) -> None: ...
    def ask(self, request: Request) -> None: ...
    def answer(self, seconds: float) -> Answer: ...
    def lower(self) -> None: ...
    def cpu_seconds(self) -> float: ...
    def stop(self) -> None: ...


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


@dataclass(slots=True, eq=False)
class Slot:
    """A thread with its worker. `jobs` holds its work; None means: start the process, for work to come."""

    worker: Worker
    jobs: queue.SimpleQueue[Job | None] = field(default_factory=queue.SimpleQueue)


class Lanes:
    """Takes requests, gives answers; `put` may be called from any thread and never waits.

    `answered` gets a request, the worker's message and its picture; `failed` a request and why no worker could be
    started; `slowed` a request that has gone to the slow lane. They are called by the threads of the workers.
    """

    def __init__(
        self,
        workers: int,
        timeout: float,
        make: Callable[[], Worker],
        answered: Callable[[Request, dict[str, Any], bytes], None],
        failed: Callable[[Request, str], None],
        slowed: Callable[[Request], None],
    ) -> None:
        few = max(1, workers // 2)
        self._most = {Lane.LOOK: workers, Lane.COPY: few, Lane.SLOW: few}
        self._timeout = timeout
        self._answered, self._failed, self._slowed = answered, failed, slowed
        self._lock = threading.Lock()
        self._waiting: dict[Lane, FairQueue[Job]] = {lane: FairQueue() for lane in Lane}
        self._running: set[Job] = set()
        self._slow_callers: Counter[Calling] = Counter()
        self._died_last = False
        self._slots = [Slot(make()) for _ in range(sum(self._most.values()) + 1)]
        self._idle = list(self._slots)
        self._warming = 0

    def start(self) -> None:
        """Start the processes of the first lane. Raises OSError, WorkerDiedError or TimeoutError."""
        for number, slot in enumerate(self._slots):
            if number < self._most[Lane.LOOK]:
                slot.worker.start()
            threading.Thread(target=self._serve, args=(slot,), name="pixels", daemon=True).start()

    def put(self, request: Request) -> None:
        job = Job(request, Lane.COPY if request["op"] == "transcode" else Lane.LOOK)
        with self._lock:
            self._waiting[job.lane].put(job.caller, job)
            self._dispatch()

    def working_seconds(self) -> float:
        """Seconds that the oldest work has been under way."""
        now = time.monotonic()
        with self._lock:
            return max((now - job.began for job in self._running), default=0.0)

    # -- what is next ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give work to idle slots, and warm up enough of them. The lock is held."""
        for lane in Lane:
            while self._idle and (job := self._next(lane)) is not None:
                slot = min(self._idle, key=lambda one: _unfit(one.worker, lane))
                self._idle.remove(slot)
                job.began = time.monotonic()
                self._running.add(job)
                slot.jobs.put(job)
        looks = [job for job in self._running if job.lane is Lane.LOOK]
        wanted = self._most[Lane.LOOK] + bool(self._slow_callers or any(job.is_long for job in looks))
        cold = [slot for slot in self._idle if not slot.worker.is_warm]
        for slot in cold[: max(0, wanted - len(looks) - self._warm_idle() - self._warming)]:
            self._idle.remove(slot)
            self._warming += 1
            slot.jobs.put(None)

    def _warm_idle(self) -> int:
        return sum(slot.worker.is_warm for slot in self._idle)

    def _next(self, lane: Lane) -> Job | None:
        running = [job for job in self._running if job.lane is lane]
        if lane is Lane.LOOK:
            return self._next_look(running)
        if len(running) >= self._most[lane]:
            return None
        return self._next_slow(running) if lane is Lane.SLOW else self._waiting[lane].take()

    def _next_look(self, running: list[Job]) -> Job | None:
        places = self._most[Lane.LOOK]
        held_by_long = {job.caller for job in running if job.is_long}
        if len(running) >= places + bool(held_by_long):
            return None
        held_by_slow = sum(self._is_slow(job) for job in running)
        passed_over = held_by_slow >= max(1, places - 1) or self._warm_idle() < 2

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

    def _is_slow(self, job: Job) -> bool:
        return self._slow_callers[job.caller] > 0

    def _patience(self, job: Job) -> float:
        if job.lane is Lane.SLOW:
            return self._timeout
        return min(PATIENCE_LOOK if job.lane is Lane.LOOK else PATIENCE_COPY, self._timeout)

    # -- a slot's thread -------------------------------------------------------------------------------------------

    def _serve(self, slot: Slot) -> None:
        while True:
            job = slot.jobs.get()
            if job is None:
                self._warm(slot)
                continue
            try:
                found = self._work(slot.worker, job)
            except Exception as error:  # a worker that does not even start: the thread must go on
                slot.worker.stop()
                self._end(job)
                self._failed(job.request, f"no pixel worker ({type(error).__name__})")
                time.sleep(START_AGAIN)
            else:
                if found is not None:
                    self._end(job)
                    self._answered(job.request, *found)
            self._settle(slot)

    def _work(self, worker: Worker, job: Job) -> Answer | None:
        """The answer; None where the job goes on in the slow lane. Raises what `start` does."""
        if job.lane is Lane.SLOW:
            worker.start()
            worker.lower()
        else:
            worker.start()
        try:
            return self._ask(worker, job)
        except WorkerDiedError:
            worker.stop()
            if job.has_died:
                return _undecodable(CRASHED)
            job.has_died = True
            self._move(job)
        return None

    def _ask(self, worker: Worker, job: Job) -> Answer | None:
        patience = self._patience(job)
        may_move = job.lane is not Lane.SLOW and patience < self._timeout
        worker.ask(job.request | {"patience": patience if may_move else None})
        try:
            answer = self._wait(worker, job, patience) if may_move else worker.answer(patience)
        except TimeoutError:
            if not (may_move and self._becomes_slow(job)):
                worker.stop()
                if not may_move:
                    return _undecodable(f"the pixels were not decoded within {self._timeout:g} s")
                self._move(job)
                return None
            worker.lower()
            try:
                answer = worker.answer(self._timeout - patience)
            except TimeoutError:
                worker.stop()
                return _undecodable(f"the pixels were not decoded within {self._timeout:g} s")
        if "expensive" in answer[0]:
            self._move(job)
            return None
        return answer

    def _wait(self, worker: Worker, job: Job, patience: float) -> Answer:
        """As `Worker.answer`, but waits longer for a worker that does not get the processor."""
        had, until = worker.cpu_seconds(), time.monotonic() + STARVED * patience
        quick = min(LONG, patience)
        try:
            return worker.answer(quick)
        except TimeoutError:
            with self._lock:
                job.is_long = True
                self._dispatch()
        try:
            return worker.answer(patience - quick)
        except TimeoutError:
            while worker.cpu_seconds() - had < patience and time.monotonic() < until:
                try:
                    return worker.answer(LOOK_AGAIN)
                except TimeoutError:
                    pass
            raise

    def _becomes_slow(self, job: Job) -> bool:
        """Whether there is room in the slow lane, so that what is under way goes on there."""
        with self._lock:
            slow = [one for one in self._running if one.lane is Lane.SLOW]
            if len(slow) >= self._most[Lane.SLOW] or any(one.has_died for one in slow):
                return False
            job.lane = Lane.SLOW
            self._slow_callers[job.caller] += 1
            self._dispatch()
        self._slowed(job.request)
        return True

    def _move(self, job: Job) -> None:
        """Move it to the slow lane, where it begins anew."""
        was_slow = job.lane is Lane.SLOW
        with self._lock:
            self._running.discard(job)
            if not was_slow:
                job.lane = Lane.SLOW
                self._slow_callers[job.caller] += 1
            self._waiting[Lane.SLOW].put(job.caller, job)
            self._dispatch()
        if not was_slow:
            self._slowed(job.request)

    def _end(self, job: Job) -> None:
        with self._lock:
            self._running.discard(job)
            if job.lane is Lane.SLOW:
                self._slow_callers[job.caller] -= 1
                if not self._slow_callers[job.caller]:
                    del self._slow_callers[job.caller]

    def _warm(self, slot: Slot) -> None:
        try:
            slot.worker.start()
        except (OSError, WorkerDiedError, TimeoutError):  # the next job that needs it reports it
            slot.worker.stop()
            time.sleep(START_AGAIN)
        with self._lock:
            self._warming -= 1
            self._idle.append(slot)
            self._dispatch()

    def _settle(self, slot: Slot) -> None:
        """The slot is idle again. A low priority cannot be raised, so such a process ends."""
        if slot.worker.is_lowered:
            slot.worker.stop()
        with self._lock:
            self._idle.append(slot)
            self._dispatch()


def _unfit(worker: Worker, lane: Lane) -> int:
    """Which idle worker to take first: a started one, except for slow work, which can wait for a start."""
    if lane is Lane.SLOW:
        return int(worker.is_warm)
    return int(not worker.is_warm)


def _undecodable(reason: str) -> Answer:
    return {"seen": pack(Seen("undecodable", reason=reason)), "error": reason}, b""
