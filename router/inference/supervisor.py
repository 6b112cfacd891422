"""The node's handle on inference: asks it without waiting, restarts it when it dies or hangs, and swaps its model."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.config.settings import ModelSettings
from router.flow import Caller, Seen
from router.inference.process import Child, InferenceError
from router.observe import log
from router.observe.metrics import INFERENCE_RESTARTS

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 15.0
HUNG_AFTER = 60.0
"""Seconds beyond the pixel time limit. If work is under way for longer, the process hangs."""
PING_EVERY, MOST_UNANSWERED = 4.0, 3
"""Seconds between two signs of life, and how many may be missing. Then the process is stuck or starved: replace it."""


NO_CALLER = Caller("", "", "")
"""The caller of files that a command looks at."""


class Inference:
    """One inference process after another. `look`, `transcode` and `swap` may be called from any thread."""

    def __init__(self, settings: ModelSettings, on_ready: Callable[[], None] = lambda: None, *, nice: int = 0) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._nice = nice
        self._lock = threading.Lock()
        self._swapping = threading.Lock()
        self._current: Child | None = None
        self._info: dict[str, Any] = {}
        self._all: set[Child] = set()
        self._ended: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it is warm. Raises InferenceError: one line with the fix."""
        self._switch(self._warm(self._settings), self._settings)
        self._thread = threading.Thread(target=self._supervise, name="inference-supervisor", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="inference-watch", daemon=True).start()

    def stop(self, seconds: float) -> None:
        """End every process, also one that still warms up. Each open question gets an InferenceError."""
        self._stopping.set()
        with self._lock:
            running = list(self._all)
        deadline = time.monotonic() + seconds
        for child in running:
            child.hang_up()
        for child in running:
            child.wait(max(0.1, deadline - time.monotonic()))
        self._ended.put(None)
        if self._thread is not None:
            self._thread.join(5.0)

    def swap(self, path: Path | None, commit: Callable[[], object]) -> None:
        """Start a process with another model. When it is warm, call `commit`. From then on only the new one is asked.

        The old process answers its open questions, and ends. Raises InferenceError, or what `commit` raises. Then
        nothing has changed.
        """
        with self._swapping:
            settings = replace(self._settings, path=path)
            child = self._warm(settings)
            try:
                commit()
            except BaseException:
                child.hang_up()
                raise
            self._switch(child, settings)

    @property
    def is_ready(self) -> bool:
        current = self._current
        return current is not None and current.is_open

    def info(self) -> dict[str, Any]:
        """Engine, why, model digest, picture size, seconds to warm; and the process id."""
        return dict(self._info)

    # -- questions -------------------------------------------------------------------------------------------------

    def look(
        self, path: Path, tags: frozenset[int], caller: Caller = NO_CALLER, slowed: Callable[[], None] = lambda: None
    ) -> Future[Seen]:
        """What is seen in a Part 10 file. The future fails with InferenceError if the process cannot answer.

        Callers take turns. `slowed` is called at most once, if the pixels are decoded slowly beside other work. It must
        not block.
        """
        request = {"op": "look", "path": str(path.absolute()), "tags": sorted(tags)}
        return self._ask(request | _turn(caller), slowed)

    def transcode(self, path: Path, target: Path, syntax: str, caller: Caller = NO_CALLER) -> Future[str]:
        """Write a lossless native copy. The result is empty, or says why it is not possible. Callers take turns.

        The future fails with OSError if a file cannot be read or written, and with InferenceError as in `look`.
        """
        return self._ask(transcode_request(path, target, syntax, caller))

    def _ask(self, request: dict[str, Any], slowed: Callable[[], None] = lambda: None) -> Future[Any]:
        while (current := self._current) is not None:
            future = current.ask(request, slowed)
            if future is not None:
                return future
            if current is self._current:  # it was not swapped just now, so it has ended
                break
        failed: Future[Any] = Future()
        failed.set_exception(InferenceError("inference is not running"))
        return failed

    # -- inside ----------------------------------------------------------------------------------------------------

    def _warm(self, settings: ModelSettings) -> Child:
        with self._lock:
            if self._stopping.is_set():
                raise InferenceError("inference is stopping")
            child = Child(settings, nice=self._nice)
            self._all.add(child)
        try:
            child.warm(self._end)
        except InferenceError:
            with self._lock:
                self._all.discard(child)
            raise
        log.info("inference ready", **child.info)
        return child

    def _switch(self, child: Child, settings: ModelSettings) -> None:
        with self._lock:
            old, self._current = self._current, child
            self._settings, self._info = settings, child.info
        if old is not None:
            old.retire()
        if not child.is_open:  # it died before it became the current one
            self._ended.put(child)
        self._on_ready()

    def _end(self, child: Child, code: int) -> None:
        with self._lock:
            self._all.discard(child)
        if not self._stopping.is_set() and child is self._current:
            log.error("inference died", exit_code=code)
        self._ended.put(child)

    def _supervise(self) -> None:
        backoff, began = FIRST_BACKOFF, time.monotonic()
        while (ended := self._ended.get()) is not None:
            if time.monotonic() - began > 60:
                backoff = FIRST_BACKOFF
            while ended is self._current:  # until this or a swap has replaced it
                if self._stopping.wait(backoff):
                    return
                backoff = min(2 * backoff, LONGEST_BACKOFF)
                self._restart(ended)
            began = time.monotonic()

    def _restart(self, ended: Child) -> None:
        with self._swapping:
            if ended is not self._current:
                return
            INFERENCE_RESTARTS.inc()
            try:
                self._switch(self._warm(self._settings), self._settings)
            except (InferenceError, OSError) as error:
                if not self._stopping.is_set():
                    log.error("inference did not start", reason=str(error))

    def _watch(self) -> None:
        """Kill a process that hangs; the supervisor does the rest."""
        limit = self._settings.pixel_timeout + HUNG_AFTER
        while not self._stopping.wait(PING_EVERY):
            with self._lock:
                running = list(self._all)
            for child in running:
                waited, silent = child.working_seconds, child.ping() * PING_EVERY
                if waited > limit or silent > MOST_UNANSWERED * PING_EVERY:
                    log.error("inference hangs", seconds=round(max(waited, silent)))
                    child.kill()


def transcode_request(path: Path, target: Path, syntax: str, caller: Caller) -> dict[str, Any]:
    """What a pixel worker is asked for a copy."""
    paths = {"path": str(path.absolute()), "target": str(target.absolute())}
    return {"op": "transcode", "syntax": syntax} | paths | _turn(caller)


def _turn(caller: Caller) -> dict[str, Any]:
    return {"caller": [caller.calling_ae, caller.peer]}
