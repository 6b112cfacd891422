"""Pictures of instances as PNG: what the network saw, made anew from the blob in a process that may crash.

One picture at a time, in a thread of its own with one pixel worker of low priority, so that pages take little from
classifying. A worker that is not needed for a while ends. The latest pictures are kept in memory, and nowhere else.
"""

from __future__ import annotations

import asyncio
import io
import queue
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from router.config.settings import ModelSettings
from router.errors import RouterError
from router.inference.framing import unpack
from router.inference.worker_handle import Nursery, PixelWorker, WorkerDiedError

SIZE = 512
"""Pixels of a side."""
SECONDS = 8.0
"""The longest that a picture may take."""
WITH_TURN = 25.0
"""Seconds with the wait for those before it; a connection ends soon after."""
IDLE = 60.0
"""Seconds after which an idle worker ends."""
MOST_WAITING = 16
KEPT = 48


class NoPictureError(RouterError):
    """There is no picture; the message says why, in words of our own."""


class Pictures:
    """Asked for by path; `png` may be called from one event loop."""

    def __init__(self, settings: ModelSettings) -> None:
        self._nursery = Nursery(SIZE, settings.pixel_memory)
        self._worker = PixelWorker(self._nursery)
        self._asked: queue.Queue[tuple[Path, Future[bytes]] | None] = queue.Queue(MOST_WAITING)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._turns: dict[str, asyncio.Lock] = {}
        self._thread: threading.Thread | None = None

    async def png(self, who: str, instance_id: str, path: Path) -> bytes:
        """The picture of a blob. One at a time for each person. Raises NoPictureError."""
        try:
            async with asyncio.timeout(WITH_TURN), self._turns.setdefault(who, asyncio.Lock()):
                return await self._png(instance_id, path)
        except TimeoutError:
            raise NoPictureError("the pictures before it have not been made yet; ask again") from None

    async def _png(self, instance_id: str, path: Path) -> bytes:
        if instance_id in self._kept:
            self._kept.move_to_end(instance_id)
            return self._kept[instance_id]
        made = await asyncio.wrap_future(self._ask(path))
        self._kept[instance_id] = made
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made

    def stop(self) -> None:
        """The worker ends with its thread."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._asked.put_nowait(None)

    def _ask(self, path: Path) -> Future[bytes]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
            self._thread.start()
        asked: Future[bytes] = Future()
        try:
            self._asked.put_nowait((path, asked))
        except queue.Full:
            asked.set_exception(NoPictureError("too many pictures are asked for at once; try again"))
        return asked

    def _run(self) -> None:
        while True:
            try:
                item = self._asked.get(timeout=IDLE)
            except queue.Empty:
                self._end()
                continue
            if item is None:
                self._end()
                return
            path, asked = item
            if not asked.set_running_or_notify_cancel():  # the person has left
                continue
            try:
                asked.set_result(self._made(path))
            except NoPictureError as error:
                asked.set_exception(error)
            except Exception as error:
                self._worker.stop()
                asked.set_exception(NoPictureError(f"no picture could be made ({type(error).__name__})"))

    def _end(self) -> None:
        self._worker.stop()
        self._nursery.stop()

    def _made(self, path: Path) -> bytes:
        from PIL import Image

        worker = self._worker
        worker.start(is_low=True)
        try:
            worker.ask({"op": "look", "path": str(path.absolute()), "tags": [], "patience": None})
            message, picture = worker.answer(SECONDS)
        except TimeoutError:
            worker.stop()
            raise NoPictureError(f"the picture was not made within {SECONDS:g} s") from None
        except WorkerDiedError:
            worker.stop()
            raise NoPictureError("the decoder crashed or ran out of memory") from None
        if len(picture) != SIZE * SIZE:
            raise NoPictureError(unpack(message["seen"]).reason or "there is no picture")
        file = io.BytesIO()
        Image.frombytes("L", (SIZE, SIZE), picture).save(file, "PNG", compress_level=1)
        return file.getvalue()
