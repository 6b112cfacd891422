"""Pixel workers as their user sees them: a nursery that makes them, and each that is asked, waited for, and killed."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from router.inference.framing import receive, send
from router.inference.nursery import BIRTH, END, LOW_BIRTH, NUMBER

START_SECONDS = 60.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}  # fmt: skip
"""One core each. And glibc keeps the memory of one image for the next. Else each page costs a fault again: a third of
the time of a DX."""

BIRTH_OF = {False: BIRTH, True: LOW_BIRTH}
Answer = tuple[dict[str, Any], bytes]
"""The worker's message and picture."""


class WorkerDiedError(Exception):
    """The worker ended over a question: its decoder crashed, or it was killed."""


class Nursery:
    """The process that makes pixel workers (`nursery`), started when it is needed. Thread-safe.

    `size`: pixels of a side of a picture; `memory`: bytes that a worker may use.
    """

    def __init__(self, size: int, memory: int) -> None:
        self._size, self._memory = size, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def launch(self) -> None:
        """Start it if it does not run, and do not wait until it is ready. Raises OSError."""
        with self._lock:
            self._launched()

    def birth(self, *, is_low: bool = False) -> tuple[int, BinaryIO, BinaryIO]:
        """A new worker, of low priority if `is_low`: its process id, and where it reads requests and writes answers.

        Raises OSError or TimeoutError.
        """
        with self._lock:
            try:
                return self._birth(self._launched(), BIRTH_OF[is_low])
            except (ConnectionError, EOFError):  # it was killed: another one
                self._stop()
                return self._birth(self._launched(), BIRTH_OF[is_low])
            except TimeoutError:
                self._stop()
                raise

    def end(self, worker: int) -> int:
        """Kill a worker. Returns its exit code, which tells whether it had died before and of what."""
        with self._lock:
            if self._line is not None:
                with suppress(OSError):
                    self._line.send(END + worker.to_bytes(NUMBER))
                    if reply := self._line.recv(NUMBER):
                        return int.from_bytes(reply, signed=True)
                self._stop()
            return -signal.SIGKILL  # where the nursery has gone, so have its workers

    def stop(self) -> None:
        """Kill it, and with it all its workers."""
        with self._lock:
            self._stop()

    def _launched(self) -> socket.socket:
        if self._line is not None and self._process is not None and self._process.poll() is None:
            return self._line
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(START_SECONDS)
        with theirs:
            arguments = map(str, (os.getpid(), theirs.fileno(), self._memory, self._size))
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "router.inference.nursery", *arguments], stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()], env=os.environ | ENVIRONMENT,
                )  # fmt: skip
            except OSError:
                ours.close()
                raise
        self._line = ours
        return ours

    def _birth(self, line: socket.socket, request: bytes) -> tuple[int, BinaryIO, BinaryIO]:
        asks, asked = os.pipe()
        answered, answers = os.pipe()
        requests, replies = os.fdopen(asked, "wb"), os.fdopen(answered, "rb", 1 << 16)
        try:
            try:
                socket.send_fds(line, [request], [asks, answers])
            finally:
                os.close(asks)
                os.close(answers)
            reply = line.recv(NUMBER)
            if not reply:
                raise EOFError
            if not (worker := int.from_bytes(reply, signed=True)):
                raise BlockingIOError(errno.EAGAIN, "no process for a pixel worker")
        except BaseException:
            requests.close()
            replies.close()
            raise
        return worker, requests, replies

    def _stop(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None


class PixelWorker:
    """One worker process after another. Not thread-safe."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._pid = 0
        self._asks: BinaryIO | None = None
        self._answers: BinaryIO | None = None
        self.is_lowered = False
        """Whether the process has a low priority. That cannot be undone."""
        self.exit_code = 0
        """Of the last process."""

    @property
    def pid(self) -> int:
        """Of the process; 0 if there is none."""
        return self._pid

    @property
    def is_warm(self) -> bool:
        return self._pid > 0

    def start(self, *, is_low: bool = False) -> None:
        """Start the process if there is none, or none of a low priority if it must have one. Wait until it is ready.

        Raises OSError, WorkerDiedError or TimeoutError.
        """
        if self._pid and not self._has_died() and (self.is_lowered or not is_low):
            return
        self.stop()
        self._pid, self._asks, self._answers = self._nursery.birth(is_low=is_low)
        self.is_lowered = is_low
        try:
            self.answer(START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def ask(self, request: Mapping[str, Any]) -> None:
        """Ask the process that `start` started. `answer` returns its answer."""
        assert self._asks is not None
        try:
            send(self._asks, dict(request))
        except OSError:
            raise WorkerDiedError from None

    def answer(self, seconds: float) -> Answer:
        """Wait for the answer. Raises WorkerDiedError, or TimeoutError: then it still works, and one may wait again."""
        stream = self._answers
        assert stream is not None
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

    def lower(self, by: int) -> None:
        """Give the process a priority that is lower than ours by so much `nice`, for good."""
        os.setpriority(os.PRIO_PROCESS, self._pid, os.nice(0) + by)
        self.is_lowered = True

    def cpu_seconds(self) -> float:
        """Seconds of processor time since the process started (Linux: a process's clock, by its number)."""
        return time.clock_gettime((~self._pid << 3) | 2)

    def stop(self) -> None:
        """Kill the process."""
        if self._pid:
            self.exit_code = self._nursery.end(self._pid)
        for stream in (self._asks, self._answers):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._pid, self._asks, self._answers, self.is_lowered = 0, None, None, False

    def _has_died(self) -> bool:
        """Whether it was killed while nobody asked: its end of the answers is closed."""
        assert self._answers is not None
        ends = select.poll()
        ends.register(self._answers, 0)
        return bool(ends.poll(0))
