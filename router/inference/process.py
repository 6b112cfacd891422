"""One inference process as the node sees it: started, warm, asked, retired. `supervisor` knows what follows its end."""

from __future__ import annotations

import itertools
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router.errors import RouterError
from router.flow import Seen
from router.inference.framing import receive, send, unpack

if TYPE_CHECKING:  # it starts before the configuration is read
    from router.config.settings import ModelSettings

START_SECONDS = 180.0
_STARTER = ThreadPoolExecutor(1, "inference-starter")
"""Linux kills a child when the *thread* that started it ends (PR_SET_PDEATHSIG). So this lasting thread starts all."""


def workers_of(settings: ModelSettings, cores: int) -> int:
    """The number of pixel workers on so many cores."""
    return settings.workers or min(cores, 4)


class InferenceError(RouterError):
    """There is no answer: the process does not run, died, or could not answer."""


@dataclass(frozen=True, slots=True)
class Started:
    """A process that waits for its options, and our end of its life line."""

    process: subprocess.Popen[bytes]
    line: socket.socket


_early: queue.SimpleQueue[Started] = queue.SimpleQueue()


def begin() -> None:
    """Start a process for the first model to come: while settings and spool are read, it takes in its modules."""
    try:
        _early.put(_started())
    except OSError:  # the one who needs it tries again, and says so
        pass


def never_mind() -> None:
    """End a process that was begun: there will be no model here."""
    while not _early.empty():
        started = _early.get_nowait()
        started.line.close()
        started.process.kill()
        started.process.wait()


def _started() -> Started:
    """Raises OSError."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "router.inference", str(os.getpid()), str(theirs.fileno())]
    try:
        process = _STARTER.submit(
            subprocess.Popen[bytes],
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/",
        ).result()  # fmt: skip
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Started(process, ours)


class Child:
    """A process with the model of `settings.path`. `ask` may be called from any thread once `warm` has returned."""

    def __init__(self, settings: ModelSettings, *, nice: int = 0) -> None:
        """Start it. Raises OSError."""
        self._settings, self._nice = settings, nice
        self.info: dict[str, Any] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[Future[Any], Callable[[], None]]] = {}
        self._unanswered = 0
        self._working = 0.0
        self._open = self._retired = False
        try:
            started = _early.get_nowait()
        except queue.Empty:
            started = _started()
        self._process, self._line = started.process, started.line
        self._requests, self._answers = self._line.makefile("wb"), self._line.makefile("rb")

    def warm(self, on_end: Callable[[Child, int], None]) -> None:
        """Wait until it may be asked. When it has ended, `on_end` gets it and its exit code, in another thread.

        Raises InferenceError, one line with the fix. The process has ended then.
        """
        timer = threading.Timer(START_SECONDS, self.kill)
        timer.start()
        try:
            send(self._requests, self._options())
            first = receive(self._answers)
        except (OSError, ValueError):
            first = None
        finally:
            timer.cancel()
        if first is None or "ready" not in first:
            self._bury()
            raise InferenceError((first or {}).get("refused", "inference died while starting; see its output above"))
        self.info = first["ready"] | {"pid": self._process.pid}
        self._open = True
        threading.Thread(target=self._run, args=(on_end,), name="inference", daemon=True).start()

    def _options(self) -> dict[str, Any]:
        cores, settings = len(os.sched_getaffinity(0)), self._settings
        # Receive, forward and the pixel workers keep the other half of the cores busy (docs/architecture.md).
        threads = settings.threads or max(1, cores // 2)
        return {
            "path": str(settings.path.resolve()) if settings.path else "", "device": settings.device,
            "engine": settings.engine, "threads": threads,
            "workers": workers_of(settings, cores), "timeout": settings.pixel_timeout,
            "memory": settings.pixel_memory, "nice": self._nice,
        }  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether it may be asked."""
        return self._open

    def ask(self, request: dict[str, Any], slowed: Callable[[], None] = lambda: None) -> Future[Any] | None:
        """The future answer. None if it may not be asked (any more). The future may fail with InferenceError.

        `slowed` is called at most once, if the answer will take long. It must not block.
        """
        future: Future[Any] = Future()
        number = next(self._ids)
        with self._lock:
            if not self._open:
                return None
            self._asked[number] = (future, slowed)
            try:
                send(self._requests, request | {"id": number})
            except OSError:
                del self._asked[number]
                future.set_exception(InferenceError("inference has just died"))
        return future

    @property
    def working_seconds(self) -> float:
        """Seconds that the oldest work had been under way at the last sign of life, without work that only waits."""
        return self._working

    def ping(self) -> int:
        """Ask for a sign of life. Returns how many were asked for before without any message since."""
        with self._lock:
            if not (self._open or self._retired):
                return 0
            unanswered, self._unanswered = self._unanswered, self._unanswered + 1
            try:
                send(self._requests, {"op": "ping"})
            except (OSError, ValueError):  # it has just ended; others will notice
                return 0
        return unanswered

    def retire(self) -> None:
        """Take no more questions, and end after the last answer."""
        with self._lock:
            self._open, self._retired = False, True
            done = not self._asked
        if done:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the life line. The process sees that and ends, and each open question gets an InferenceError."""
        with self._lock:
            self._open = False
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended. If that takes too long, kill it."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _run(self, on_end: Callable[[Child, int], None]) -> None:
        try:
            while (message := receive(self._answers)) is not None:
                with self._lock:
                    self._unanswered = 0
                    self._working = message.get("working_s", self._working)
                    number, is_slow = message.get("id", 0), "slow" in message
                    entry = self._asked.get(number) if is_slow else self._asked.pop(number, None)
                    last = self._retired and not self._asked
                if entry is not None and is_slow:
                    entry[1]()
                elif entry is not None:
                    _settle(entry[0], message)
                if last:
                    self.hang_up()
        except (OSError, ValueError):
            pass
        on_end(self, self._bury())

    def _bury(self) -> int:
        """The process has ended, or its life line is closed. Each open question gets an InferenceError."""
        self.hang_up()
        self.kill()
        code = self._process.wait()
        with self._lock:
            asked, self._asked = list(self._asked.values()), {}
            for end in (self._requests, self._answers, self._line):
                try:
                    end.close()
                except OSError:
                    pass
        for future, _ in asked:
            future.set_exception(InferenceError("inference died"))
        return code


def _settle(future: Future[Any], message: dict[str, Any]) -> None:
    result: Seen | str
    if "failed" in message:
        future.set_exception(InferenceError(message["failed"]))
        return
    if message.get("errno"):
        future.set_exception(OSError(message["errno"], message["error"]))
        return
    result = unpack(message["seen"]) if "seen" in message else message["error"]
    future.set_result(result)
