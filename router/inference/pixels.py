"""The inference process's side of a pixel worker: ask it, and kill and replace it when it does not answer in time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from router.flow import Seen
from router.inference.messages import pack, receive, send

START_SECONDS = 60.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}  # fmt: skip
"""One core each; and glibc keeps the memory of one image for the next, since a page that it gave back costs a fault:
a third of what a DX costs here."""


class PixelWorker:
    """One worker process. Not for several threads."""

    def __init__(self, size: int, memory: int, timeout: float) -> None:
        self._size, self._memory, self._timeout = size, memory, timeout
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The worker's answer and picture; one that dies or hangs is replaced, and the instance is undecodable."""
        process = self._started()
        assert process.stdin is not None
        try:
            send(process.stdin, dict(request))  # type: ignore[arg-type]
            message, picture = self._read(process, self._timeout)
        except TimeoutError:
            self.stop()
            return _gone(f"the pixels were not decoded within {self._timeout:g} s"), b""
        except (OSError, EOFError, ValueError):
            self.stop()
            return _gone("the decoder crashed or ran out of memory"), b""
        return message, picture

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            arguments = map(str, (os.getpid(), self._memory, self._size))
            command = [sys.executable, "-m", "router.inference.pixel_worker", *arguments]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT, bufsize=1 << 16
            )
            self._read(self._process, START_SECONDS)
        return self._process

    def start(self) -> None:
        """Start it now rather than at the first request. Raises OSError, EOFError or TimeoutError."""
        self._started()

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> tuple[dict[str, Any], bytes]:
        assert process.stdout is not None
        stream: Any = process.stdout
        # An answer is written whole and at once, so waiting for its first byte is waiting for all of it.
        if not select.select([stream], [], [], seconds)[0]:
            raise TimeoutError
        message = receive(stream)
        if message is None:
            raise EOFError
        length = int(message.pop("picture", 0))
        picture = stream.read(length) if length else b""
        if len(picture) != length:
            raise EOFError
        return message, picture

    def stop(self) -> None:
        process, self._process = self._process, None
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


def _gone(reason: str) -> dict[str, Any]:
    return {"seen": pack(Seen("undecodable", reason=reason)), "error": reason}
