"""Which image is worked on next, by which pixel worker: no caller waits for another's slow or hostile image.

There are three lanes. Each look begins in the first; native copies have their own. Work moves to the slow lane if a
worker finds it too expensive before it decodes, if it is not done within the lane's patience, or if its worker died.
The slow lane has few workers, a low priority, and the whole time limit. Within a lane callers take turns (`fair`). A
caller with something in the slow lane always leaves a place of the first lane, and a warm worker, to the others. A look
that takes longer than most makes room for one of another caller long before its patience is over.

A worker is a thread with a process. There is one more than may be at work at once. Processes beyond those of the first
lane are started on demand.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.flow import Seen
from router.inference.framing import pack
from router.inference.schedule import Job, Lane, Request, Schedule
from router.inference.worker_handle import Answer, WorkerDiedError

PATIENCE_LOOK, PATIENCE_COPY = 1.0, 5.0
"""Seconds in the first lane and in that of copies, before work goes on in the slow one. A usual DX takes 0.1 s."""
LONG = 0.25
"""Seconds after which a look in the first lane makes room: one more may be under way, of another caller. With so many
seconds of a processor behind it, its priority is lowered a little."""
STARVED = 3.0
"""The patience may last up to this many times as long if the worker did not get the processor."""
LOOK_AGAIN = 0.05
"""Seconds between two checks of that."""
LOWERED = 5
"""The `nice` of a worker at a long look, which then gets a quarter of a processor that others want too."""
START_AGAIN = 1.0
"""Seconds before a worker that did not start is tried again."""

CRASHED = "the decoder crashed or ran out of memory"


class Worker(Protocol):
    """What the lanes need of a pixel worker (`worker_handle.PixelWorker`)."""

    @property
    def is_warm(self) -> bool: ...
    @property
    def is_lowered(self) -> bool: ...
    def start(self, *, is_low: bool = False) -> None: ...
    def ask(self, request: Request) -> None: ...
    def answer(self, seconds: float) -> Answer: ...
    def lower(self, by: int) -> None: ...
    def cpu_seconds(self) -> float: ...
    def stop(self) -> None: ...


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
        *,
        looks: bool = True,
    ) -> None:
        self._timeout = timeout
        self._answered, self._failed, self._slowed = answered, failed, slowed
        self._lock = threading.Lock()
        self._schedule = Schedule(workers, looks=looks)
        self._slots = [Slot(make()) for _ in range(sum(self._schedule.most.values()) + 1)]
        self._idle = list(self._slots)
        self._warming = 0
        self._stopped = False

    def start(self) -> None:
        """Wait until the processes of the first lane are ready. Raises OSError, WorkerDiedError or TimeoutError."""
        for number, slot in enumerate(self._slots):
            if number < self._schedule.most[Lane.LOOK]:
                slot.worker.start()
            threading.Thread(target=self._serve, args=(slot,), name="pixels", daemon=True).start()

    def stop(self) -> None:
        """End the threads, and with each its process. What is under way is given up."""
        with self._lock:
            self._stopped = True
        for slot in self._slots:
            slot.jobs.put(None)

    def put(self, request: Request) -> None:
        job = Job(request, Lane.COPY if request["op"] == "transcode" else Lane.LOOK)
        with self._lock:
            self._schedule.put(job)
            self._dispatch()

    def working_seconds(self) -> float:
        """Seconds that the oldest work has been under way."""
        with self._lock:
            return self._schedule.working_seconds()

    def _dispatch(self) -> None:
        """Give work to idle slots, and warm up enough of them. The lock is held."""
        for lane in Lane:
            while self._idle and (job := self._schedule.take(lane, self._warm_idle())) is not None:
                # A started worker first, except for slow work, which can wait for a start.
                slot = min(self._idle, key=lambda one: one.worker.is_warm is (lane is Lane.SLOW))
                self._idle.remove(slot)
                slot.jobs.put(job)
        cold = [slot for slot in self._idle if not slot.worker.is_warm]
        for slot in cold[: max(0, self._schedule.warm_wanted() - self._warm_idle() - self._warming)]:
            self._idle.remove(slot)
            self._warming += 1
            slot.jobs.put(None)

    def _warm_idle(self) -> int:
        return sum(slot.worker.is_warm for slot in self._idle)

    # -- a slot's thread -------------------------------------------------------------------------------------------

    def _serve(self, slot: Slot) -> None:
        while True:
            job = slot.jobs.get()
            if self._stopped:
                slot.worker.stop()
                return
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
        worker.start(is_low=job.lane is Lane.SLOW)
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
        patience = self._timeout
        if job.lane is not Lane.SLOW:
            patience = min(PATIENCE_LOOK if job.lane is Lane.LOOK else PATIENCE_COPY, patience)
        may_move = patience < self._timeout
        worker.ask(job.request | {"patience": patience if may_move else None})
        try:
            answer = self._wait(worker, job, patience) if may_move else worker.answer(patience)
        except TimeoutError:
            worker.stop()
            if not may_move:
                return _undecodable(f"the pixels were not decoded within {self._timeout:g} s")
            self._move(job)
            return None
        if "expensive" in answer[0]:
            self._move(job)
            return None
        return answer

    def _wait(self, worker: Worker, job: Job, patience: float) -> Answer:
        """As `Worker.answer`, but waits longer for a worker that does not get the processor."""
        had, began = worker.cpu_seconds(), time.monotonic()
        try:
            return worker.answer(min(LONG, patience))
        except TimeoutError:
            with self._lock:
                job.is_long = True
                self._dispatch()
        while True:
            used, passed = worker.cpu_seconds() - had, time.monotonic() - began
            if passed >= patience and (used >= patience or passed >= STARVED * patience):
                raise TimeoutError
            if used >= LONG and not worker.is_lowered:
                worker.lower(LOWERED)
            try:
                return worker.answer(min(LOOK_AGAIN, max(0.0, patience - passed) or LOOK_AGAIN))
            except TimeoutError:
                continue

    def _move(self, job: Job) -> None:
        """Move it to the slow lane, where it begins anew."""
        was_slow = job.lane is Lane.SLOW
        with self._lock:
            self._schedule.move(job)
            self._dispatch()
        if not was_slow:
            self._slowed(job.request)

    def _end(self, job: Job) -> None:
        with self._lock:
            self._schedule.end(job)

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


def _undecodable(reason: str) -> Answer:
    return {"seen": pack(Seen("undecodable", reason=reason)), "error": reason}, b""
