"""A pixel worker as the inference process sees it: one child process that is asked, waited for, and killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from router.inference.framing import receive, send

START_SECONDS = 60.0
LOW_PRIORITY = 10
"""The `nice` of a worker for slow work: others come first."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}  # fmt: skip
"""One core each. And glibc keeps the memory of one image for the next. Else each page costs a fault again: a third of
the time of a DX."""

Answer = tuple[dict[str, Any], bytes]
"""The worker's message and picture."""


class WorkerDiedError(Exception):
    """The worker ended over a question: its decoder crashed, or it was killed."""


class PixelWorker:
    """One worker process after another. Not thread-safe."""

    def __init__(self, size: int, memory: int) -> None:
        self._size, self._memory = size, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self.is_lowered = False
        """Whether the process has a low priority. That cannot be undone."""

    @property
    def is_warm(self) -> bool:
        return self._process is not None

    def launch(self) -> None:
        """Start the process if there is none, and do not wait until it is ready. Raises OSError."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        arguments = map(str, (os.getpid(), self._memory, self._size))
        command = [sys.executable, "-m", "router.inference.pixel_worker", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT, bufsize=1 << 16
        )

    def start(self) -> None:
        """Start the process if there is none, and wait until it is ready. Raises OSError, WorkerDiedError or
        TimeoutError."""
        self.launch()
        if not self._is_ready:
            self.answer(START_SECONDS)
            self._is_ready = True

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask the process that `start` started. `answer` returns its answer."""
        stream: Any = self._running().stdin
        try:
            send(stream, dict(request))
        except OSError:
            raise WorkerDiedError from None

    def answer(self, seconds: float) -> Answer:
        """Wait for the answer. Raises WorkerDiedError, or TimeoutError: then it still works, and one may wait again."""
        stream: Any = self._running().stdout
        # An answer is written whole and at once, so waiting for its first byte is waiting for all of it.
        if not select.select([stream], [], [], max(0.0, seconds))[0]:
            raise TimeoutError
        try:
            message = receive(stream)
            length = int(message.pop("picture", 0)) if message is not None else 0
            picture = stream.read(length) if length else b""
        except (OSError, ValueError):
            raise WorkerDiedError from None
        if message is None or len(picture) != length:
            raise WorkerDiedError
        return message, picture

    def lower(self) -> None:
        """Give the process a low priority, for good."""
        os.setpriority(os.PRIO_PROCESS, self._running().pid, LOW_PRIORITY + os.nice(0))
        self.is_lowered = True

    def cpu_seconds(self) -> float:
        """Seconds of processor time since the process started (Linux: a process's clock, by its number)."""
        return time.clock_gettime((~self._running().pid << 3) | 2)

    def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        self._is_ready = self.is_lowered = False
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process
