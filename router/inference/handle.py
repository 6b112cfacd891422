"""The node's handle on the inference process: ask it, restart it when it dies or hangs, and never wait for it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from router.config.settings import ModelSettings
from router.flow import Seen
from router.inference.messages import receive, send, unpack
from router.observe import log
from router.observe.metrics import INFERENCE_RESTARTS

START_SECONDS = 180.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 15.0
HUNG_AFTER = 60.0
"""Beyond the pixel time limit: a question that old means that the process hangs."""


class InferenceError(Exception):
    """No answer: the process is not there, died, or could not."""


class Inference:
    """One inference process after another. `look` and `transcode` may be called from any thread."""

    def __init__(self, settings: ModelSettings, on_ready: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[Future[Any], float, str]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._stream: Any = None
        self._info: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it is warm. Raises InferenceError: one line with the fix."""
        answers = self._spawn()
        self._thread = threading.Thread(target=self._supervise, args=(answers,), name="inference", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="inference-watch", daemon=True).start()

    def stop(self, seconds: float) -> None:
        """End the process; whatever was asked gets an InferenceError."""
        self._stopping.set()
        process = self._process
        self._hang_up()
        if process is not None:
            try:
                process.wait(max(0.1, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread is not None:
            self._thread.join(5.0)

    @property
    def is_ready(self) -> bool:
        return self._stream is not None

    def info(self) -> dict[str, Any]:
        """Engine, why, model digest, picture size, seconds to warm; and the process id."""
        return dict(self._info)

    # -- questions -------------------------------------------------------------------------------------------------

    def look(self, path: Path, tags: frozenset[int]) -> Future[Seen]:
        """What is seen in a Part 10 file. The future fails with InferenceError when the process cannot answer."""
        return self._ask({"op": "look", "path": str(path), "tags": sorted(tags)})

    def transcode(self, path: Path, target: Path, syntax: str) -> Future[str]:
        """Write a lossless native copy; the result is empty, or why it is not possible."""
        return self._ask({"op": "transcode", "path": str(path), "target": str(target), "syntax": syntax})

    def _ask(self, request: dict[str, Any]) -> Future[Any]:
        future: Future[Any] = Future()
        number = next(self._ids)
        with self._lock:
            if self._stream is None:
                future.set_exception(InferenceError("inference is not running"))
                return future
            self._asked[number] = (future, time.monotonic(), request["op"])
            try:
                send(self._stream, request | {"id": number})
            except OSError:
                del self._asked[number]
                future.set_exception(InferenceError("inference has just died"))
        return future

    # -- inside ----------------------------------------------------------------------------------------------------

    def _spawn(self) -> Any:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "router.inference", str(os.getpid()), str(theirs.fileno())]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
        )
        self._process = process  # so that `stop` need not wait until it is warm
        if self._stopping.is_set():
            process.kill()
        theirs.close()
        stream, answers = ours.makefile("wb"), ours.makefile("rb")
        ours.settimeout(None)
        cores, settings = len(os.sched_getaffinity(0)), self._settings
        workers = settings.workers or min(cores, 4)
        options = {
            "path": str(settings.path.resolve()) if settings.path else "", "device": settings.device,
            "engine": settings.engine, "threads": settings.threads or cores, "workers": workers,
            "timeout": settings.pixel_timeout, "memory": settings.pixel_memory,
        }  # fmt: skip
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        try:
            send(stream, options)
            first = receive(answers)
        except OSError:
            first = None
        finally:
            timer.cancel()
        if first is None or "ready" not in first:
            process.kill()
            process.wait()
            stream.close()
            answers.close()
            ours.close()
            raise InferenceError((first or {}).get("refused", "inference died while starting; see its output above"))
        self._info = first["ready"] | {"pid": process.pid}
        log.info("inference ready", **self._info)
        with self._lock:
            self._process, self._socket, self._stream = process, ours, stream
        self._on_ready()
        return answers

    def _supervise(self, answers: Any) -> None:
        backoff = FIRST_BACKOFF
        while True:
            began = time.monotonic()
            self._read_answers(answers)
            answers.close()
            self._bury_process()
            if time.monotonic() - began > 60:
                backoff = FIRST_BACKOFF
            while True:
                if self._stopping.wait(backoff):
                    return
                backoff = min(2 * backoff, LONGEST_BACKOFF)
                INFERENCE_RESTARTS.inc()
                try:
                    answers = self._spawn()
                    break
                except (InferenceError, OSError) as error:
                    if not self._stopping.is_set():
                        log.error("inference did not start", reason=str(error))

    def _read_answers(self, answers: Any) -> None:
        try:
            while (message := receive(answers)) is not None:
                with self._lock:
                    entry = self._asked.pop(message["id"], None)
                if entry is not None:
                    _settle(entry[0], message)
        except (OSError, ValueError):
            pass

    def _bury_process(self) -> None:
        """The process is gone, or its life line is: nobody may go on waiting for it."""
        self._hang_up()
        process = self._process
        if process is not None:
            process.kill()
            code = process.wait()
            if not self._stopping.is_set():
                log.error("inference died", exit_code=code)
        with self._lock:
            asked, self._asked = list(self._asked.values()), {}
        for future, _, _ in asked:
            future.set_exception(InferenceError("inference died"))

    def _hang_up(self) -> None:
        """End the life line: the process sees it and goes."""
        with self._lock:
            stream, self._stream = self._stream, None
            line, self._socket = self._socket, None
        if stream is None or line is None:
            return
        try:
            line.shutdown(socket.SHUT_RDWR)
            stream.close()
        except OSError:
            pass
        line.close()

    def _watch(self) -> None:
        """Kill a process that hangs; the supervisor does the rest."""
        limit = self._settings.pixel_timeout + HUNG_AFTER
        while not self._stopping.wait(5.0):
            with self._lock:
                oldest = min((when for _, when, _ in self._asked.values()), default=None)
                process = self._process
            if oldest is not None and process is not None and time.monotonic() - oldest > limit:
                log.error("inference hangs", seconds=round(time.monotonic() - oldest))
                process.kill()


def _settle(future: Future[Any], message: dict[str, Any]) -> None:
    if "failed" in message:
        future.set_exception(InferenceError(message["failed"]))
    elif "seen" in message:
        future.set_result(unpack(message["seen"]))
    else:
        future.set_result(message["error"])
