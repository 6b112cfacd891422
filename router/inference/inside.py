"""The inference process: owns the model and the pixel workers. Paths in, predictions out; no database, no network.

Pixel workers make pictures (`lanes`). The main thread takes all waiting pictures as one batch. The socket to the node
is the life line: when it closes, this process ends, and with it the workers.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from router.inference.child_start import give_back_memory, have_low_priority, live_and_die_with
from router.inference.framing import pack, receive, send, unpack
from router.inference.lanes import Lanes
from router.inference.schedule import Request
from router.inference.worker_handle import Nursery, PixelWorker
from router.model.card import Card, CardError
from router.model.load import Model, load, shipped_model


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture that waits for the model."""

    request_id: int
    seen: dict[str, Any]
    picture: bytes


class Answers:
    """The way back to the node, for several threads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            send(self._stream, message)


def main() -> None:
    live_and_die_with(int(sys.argv[1]))
    connection = socket.socket(fileno=int(sys.argv[2]))
    requests, answers = connection.makefile("rb"), Answers(connection.makefile("wb"))
    options = receive(requests)
    if options is None:
        return
    if options["nice"]:
        have_low_priority(options["nice"])  # before threads and workers start, so that they inherit it
    rendered: queue.SimpleQueue[Rendered] = queue.SimpleQueue()
    try:
        directory = Path(options["path"]) if options["path"] else shipped_model()
        card = Card.read(directory)
        nursery = Nursery(card.size, options["memory"])
        nursery.launch()  # while the model warms up, it takes in its modules
        lanes = _lanes(nursery, options, rendered, answers)
        model = load(
            directory, card=card, device=options["device"], engine=options["engine"], threads=options["threads"]
        )
    except CardError as error:
        answers.send({"refused": str(error)})
        return
    lanes.start()
    give_back_memory()
    serve(model, lanes, rendered, options["workers"], requests, answers)


def _lanes(nursery: Nursery, options: dict[str, Any], rendered: queue.SimpleQueue[Rendered], answers: Answers) -> Lanes:
    """What makes pictures, by workers of this nursery; they come into `rendered`."""

    def answered(request: Request, message: dict[str, Any], picture: bytes) -> None:
        if request["op"] == "transcode":
            found = {"error": message.get("error", ""), "errno": message.get("errno")}
            answers.send({"id": request["id"]} | found)
        elif picture:
            rendered.put(Rendered(request["id"], message["seen"], picture))
        else:
            answers.send({"id": request["id"], "seen": message["seen"]})

    return Lanes(
        options["workers"], options["timeout"], lambda: PixelWorker(nursery), answered,
        failed=lambda request, reason: answers.send({"id": request["id"], "failed": reason}),
        slowed=lambda request: answers.send({"id": request["id"], "slow": True}),
    )  # fmt: skip


def serve(
    model: Model, lanes: Lanes, rendered: queue.SimpleQueue[Rendered], workers: int, requests: BinaryIO,
    answers: Answers,
) -> None:  # fmt: skip
    clock = BatchClock()
    threading.Thread(target=_listen, args=(requests, lanes, clock, answers), daemon=True).start()
    answers.send({
        "ready": {
            "engine": model.engine, "why": model.why, "model": model.card.digest, "size": model.card.size,
            "warm_s": round(model.warm_s, 2), "workers": workers,
        }
    })  # fmt: skip
    while True:
        batch = _take(rendered, model.largest_batch)
        clock.began = time.monotonic()
        _predict(model, batch, answers)
        clock.began = None


class BatchClock:
    """When (monotonic) the model began its present batch; None between two."""

    began: float | None = None

    def seconds(self) -> float:
        began = self.began
        return time.monotonic() - began if began is not None else 0.0


def _listen(requests: BinaryIO, lanes: Lanes, clock: BatchClock, answers: Answers) -> None:
    while (request := receive(requests)) is not None:
        if request["op"] == "ping":
            answers.send({"pong": True, "working_s": max(lanes.working_seconds(), clock.seconds())})
        else:
            lanes.put(request)
    os._exit(0)  # the node is gone: no thread here has anything to finish


def _take(rendered: queue.SimpleQueue[Rendered], most: int) -> list[Rendered]:
    """The pictures that wait, up to the largest warm batch. Does not wait for more."""
    batch = [rendered.get()]
    while len(batch) < most:
        try:
            batch.append(rendered.get_nowait())
        except queue.Empty:
            break
    return batch


def _predict(model: Model, batch: list[Rendered], answers: Answers) -> None:
    size = model.card.size
    pictures = np.stack([np.frombuffer(one.picture, np.uint8).reshape(size, size) for one in batch])
    began = time.perf_counter()
    try:
        predictions = model.predict(pictures)
    except RuntimeError as error:  # out of memory, or the GPU has gone: a fresh process chooses again
        for one in batch:
            answers.send({"id": one.request_id, "failed": f"the model failed ({type(error).__name__})"})
        os._exit(3)
    milliseconds = 1000 * (time.perf_counter() - began)
    for one, prediction in zip(batch, predictions, strict=True):
        seen = replace(unpack(one.seen), prediction=prediction, model_ms=milliseconds / len(batch))
        answers.send({"id": one.request_id, "seen": pack(seen)})
