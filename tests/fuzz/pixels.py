"""Pixels as the node has them decoded: a pixel worker as a child process, with a limit of memory and of time.

That a worker crashes is allowed by design, and counted. Not allowed are an answer after its time limit, memory beyond
its limit, an exception of Python's that ends it, and an answer that is none.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

from router.flow import PixelState, Seen
from router.inference.framing import pack, unpack
from router.inference.worker_handle import Answer, Nursery, PixelWorker, WorkerDiedError
from tests.fuzz.data_sets import EXPLICIT, IMPLICIT
from tests.fuzz.targets import TAGS, WrongError

SIZE = 64
MEMORY = 1 << 30
"""Bytes beyond what the worker has at its start; half of what the product allows, so that nothing else suffers."""
TIMEOUT = 20.0
SLACK = 10.0
"""Seconds by which an answer may be late: a machine that does other things meanwhile."""


class Pixels:
    """One worker, asked for the picture and now and then for a native copy. Not for several threads."""

    def __init__(self) -> None:
        self._nursery = Nursery(SIZE, MEMORY)
        self._worker = PixelWorker(self._nursery)
        self._folder = TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self._path, self._copy = Path(self._folder.name) / "case.dcm", Path(self._folder.name) / "copy.dcm"
        self._floor = 0
        self.seen: Counter[str] = Counter()
        """What became of the cases, crashes by signal among them."""
        self.peak = 0

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(data)
        answer = self._ask({"op": "render", "path": str(self._path), "tags": sorted(TAGS)})
        seen = unpack(cast("dict[str, Any]", answer["seen"]))
        if seen.pixels not in get_args(PixelState):
            raise WrongError("a state that has no name")
        if seen.pixels != "decoded" and not seen.reason:
            raise WrongError("no reason is given")
        self.seen[seen.pixels if seen.pixels == "decoded" else f"{seen.pixels}: {seen.reason}"] += 1
        syntax = (EXPLICIT, IMPLICIT)[len(data) % 2]
        copied = self._ask({"op": "transcode", "path": str(self._path), "target": str(self._copy), "syntax": syntax})
        self.seen["copied" if "done" in copied else "not copied"] += 1
        self._copy.unlink(missing_ok=True)

    def close(self) -> None:
        self._worker.stop()
        self._nursery.stop()
        self._folder.cleanup()

    def _ask(self, request: dict[str, object]) -> dict[str, object]:
        self._worker.start()
        pid = self._worker.pid
        self._floor = self._floor or _peak(pid)
        began = time.monotonic()
        answer, picture = self._answer(request)
        took = time.monotonic() - began
        if took > TIMEOUT + SLACK:
            raise WrongError("an answer came long after the time limit")
        if self._worker.pid != pid:
            self._gone(self._worker.exit_code, took)
        elif picture and len(picture) != SIZE * SIZE:
            raise WrongError("the picture has another size")
        else:
            peak = _peak(pid)
            self.peak = max(self.peak, peak)
            if peak > self._floor + MEMORY:
                raise WrongError("the worker had more memory than its limit")
        return answer

    def _answer(self, request: dict[str, object]) -> Answer:
        try:
            self._worker.ask(request)
            return self._worker.answer(TIMEOUT)
        except (TimeoutError, WorkerDiedError):
            self._worker.stop()
            return {"seen": pack(Seen("undecodable", reason="the worker is gone"))}, b""

    def _gone(self, code: int, took: float) -> None:
        """A worker that went: by a signal of its own, by our time limit, or because Python ended it."""
        if code == -signal.SIGKILL and took >= TIMEOUT:
            self.seen["hung"] += 1
        elif code < 0:
            self.seen[f"crashed: {signal.Signals(-code).name}"] += 1
        else:
            raise WrongError(f"an exception ended the worker ({code})")


def _peak(pid: int) -> int:
    """Most resident bytes that a process has had; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
