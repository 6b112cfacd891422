"""Makes native copies for a node that forwards and does not classify: pixel workers without a model.

The lanes run in the node's process, since there is no model whose threads they would delay. The workers are processes
with the same limits as beside a model. They start when the first copy is needed.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

from router.config.settings import ModelSettings
from router.flow import Caller
from router.inference.lanes import Lanes
from router.inference.process import InferenceError, workers_of
from router.inference.schedule import Request
from router.inference.supervisor import NO_CALLER, transcode_request
from router.inference.worker_handle import Nursery, PixelWorker

NO_PICTURE = 1
"""The size of the pictures that the workers are never asked for."""


class CopyWorkers:
    """Asked for copies from any thread."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._ids = count(1)
        self._asked: dict[int, Future[str]] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._nursery = Nursery(NO_PICTURE, settings.pixel_memory)
        self._lanes = Lanes(
            workers_of(settings, len(os.sched_getaffinity(0))), settings.pixel_timeout,
            lambda: PixelWorker(self._nursery), self._answered,
            failed=self._failed, slowed=lambda _: None, looks=False,
        )  # fmt: skip

    def start(self) -> None:
        self._lanes.start()

    def stop(self, _deadline: float = 0.0) -> None:
        """End the workers. Each open question gets an InferenceError."""
        with self._lock:
            self._stopped = True
            asked, self._asked = list(self._asked.values()), {}
        for future in asked:
            future.set_exception(InferenceError("the node is stopping"))
        self._lanes.stop()
        self._nursery.stop()

    def transcode(self, path: Path, target: Path, syntax: str, caller: Caller = NO_CALLER) -> Future[str]:
        """As `Inference.transcode`."""
        future: Future[str] = Future()
        number = next(self._ids)
        with self._lock:
            if self._stopped:
                future.set_exception(InferenceError("the node is stopping"))
                return future
            self._asked[number] = future
        self._lanes.put({"id": number} | transcode_request(path, target, syntax, caller))
        return future

    # -- called by the threads of the workers ------------------------------------------------------------------------

    def _answered(self, request: Request, message: dict[str, Any], _picture: bytes) -> None:
        if (future := self._take(request)) is None:
            return
        if message.get("errno"):
            future.set_exception(OSError(message["errno"], message["error"]))
        else:
            future.set_result(message.get("error", ""))

    def _failed(self, request: Request, reason: str) -> None:
        if (future := self._take(request)) is not None:
            future.set_exception(InferenceError(reason))

    def _take(self, request: Request) -> Future[str] | None:
        with self._lock:
            return self._asked.pop(request["id"], None)
