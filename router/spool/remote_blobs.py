"""Blobs in an object store, with a folder of this node as their cache.

A blob is received into the cache, sent to the store, and only then may get its row. So each row has its object,
whatever becomes of this machine. Keys are the names that a folder would have, `blobs/ff/<id>.dcm`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from router.config.settings import SpoolSettings
from router.flow import Instance
from router.observe import log
from router.observe.metrics import STORE_SECONDS
from router.spool.blobs import PART, WHOLE, Blob, BlobStore, new_id
from router.spool.cache import Cache
from router.spool.errors import NO_SPACE, SpoolError
from router.spool.gate import Gate
from router.spool.objects import NoObjectError, Objects, StoreError
from router.spool.schema import parts

FOLDER = "cache"
"""In the spool's folder."""
BLOBS = "blobs/"
SPOOL_ID = "spool-id"
MOST_UNWANTED = 100_000
"""Keys that are remembered to be removed."""
AT_ONCE = 1000
"""Keys that S3 removes in one request."""
FETCHES = 2
"""An object whose digest is wrong is fetched again: the fault may be on the way."""
PIECE = 1 << 20


class ChangedError(SpoolError):
    """The object is not what was received. It stays where it is."""


def key_of(blob_id: str) -> str:
    return f"{BLOBS}{blob_id[-2:]}/{blob_id}{WHOLE}"


def id_of(key: str) -> str:
    """The blob's id, or another text if the key is not of the spool."""
    return key.rpartition("/")[2].removesuffix(WHOLE)


class RemoteBlob(Blob):
    """A data set on its way to the store. Not synced here: what is promised rests on the store."""

    def __init__(self, store: RemoteBlobs, folder: Path, blob_id: str, header: bytes) -> None:
        self._store, self._was_sent = store, False
        super().__init__(folder, blob_id, header)

    def _begin_writing(self) -> None:
        """The kernel may take its time."""

    def _keep(self) -> None:
        self._name()
        self._was_sent = True
        self._store.put(self)

    def discard(self) -> None:
        """Remove it here and there. No row has it, and none will: it was never acknowledged."""
        super().discard()
        if self._was_sent:
            self._store.forget(self.id)


class RemoteBlobs(BlobStore):
    """The objects of a spool, and the cache. Raises StoreError."""

    def __init__(self, settings: SpoolSettings) -> None:
        assert settings.blobs is not None
        super().__init__(settings.path / FOLDER)
        self.objects = Objects(settings.blobs)
        self._cache = Cache(settings.cache)
        self._coming: dict[str, asyncio.Task[bool]] = {}
        self._unwanted: set[str] = set()
        self._probe = f"probe/{new_id()}"
        self._reading, self._writing = Gate("read", self._ask_to_read), Gate("write", self._ask_to_write)
        self._removing = Gate("remove", self._ask_to_remove)

    @property
    def trouble(self) -> str:  # type: ignore[override]
        """Why the store does not work; empty while it does."""
        return self._writing.why or self._reading.why

    @property
    def doubt(self) -> str:  # type: ignore[override]
        """Why blobs cannot be kept though the store answers; empty if they can."""
        return self._writing.doubt

    def check_writing(self) -> None:
        """Raises StoreError if a blob could not be kept now."""
        self._writing.check()

    # -- from start to end -----------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Remove what a crash left in the cache, and note what is there. Only when no other process uses it."""
        whole = []
        for path in self.files():
            blob_id = path.name.removesuffix(WHOLE)
            if path.suffix == WHOLE and path == self.path(blob_id):
                whole.append((blob_id, path))
            else:
                path.unlink(missing_ok=True)
        self._cache.begin(whole)

    def has_any(self) -> bool:
        """Whether the store has a blob. Waits for the store."""

        async def look() -> bool:
            async for page in self.objects.pages(BLOBS):
                if page:
                    return True
            return False

        return self.objects.begin(look()).result()

    def read_id(self) -> str | None:
        """Which spool the prefix belongs to."""
        try:
            return self.objects.begin(self.objects.read(SPOOL_ID)).result().decode("ascii", "replace").strip() or None
        except NoObjectError:
            return None

    def write_id(self, value: str) -> None:
        self.objects.begin(self.objects.write(SPOOL_ID, value.encode("ascii") + b"\n")).result()

    @property
    def place(self) -> str:
        """What people call it."""
        return self.objects.name

    def close(self) -> None:
        self.objects.close()

    # -- in --------------------------------------------------------------------------------------------------------

    def begin(self, header: bytes) -> Blob:
        self.check_writing()
        blob_id = new_id()
        return RemoteBlob(self, self._folder(blob_id), blob_id, header)

    def put(self, blob: Blob) -> None:
        """Return when the store has the blob. Raises StoreError within a stated time. It may have it all the same."""
        self.check_writing()
        size = blob.offset + blob.size
        sent = self._work(self._writing, "put", lambda: self.objects.put(key_of(blob.id), blob.path, size))
        self.objects.begin(sent).result()
        self._cache.add(blob.id, blob.path, size)

    # -- out -------------------------------------------------------------------------------------------------------

    def bring(self, instance: Instance) -> Future[bool]:
        found = self._cache.take(instance.id)
        if found is None or not found.is_known:
            if found is not None:
                self._cache.let_go(instance.id)
            return self.objects.begin(self._bring(instance))
        done: Future[bool] = Future()
        done.set_result(True)
        return done

    def let_go(self, blob_id: str) -> None:
        self._cache.let_go(blob_id)

    def bring_again(self, instance: Instance) -> bool:
        self._cache.drop(instance.id)
        here = self.bring(instance).result()
        if here:
            self._cache.let_go(instance.id)
        return here

    async def _bring(self, instance: Instance) -> bool:
        """Fetch a blob once, however many ask for it meanwhile."""
        for _ in range(3):  # what has just come may be removed again if the cache is very small
            task = self._coming.get(instance.id)
            if task is None:
                task = self._coming[instance.id] = asyncio.ensure_future(self._look_or_fetch(instance))
                task.add_done_callback(lambda _: self._coming.pop(instance.id, None))
            if not await asyncio.shield(task):
                return False
            if self._cache.take(instance.id) is not None:
                return True
        raise StoreError("spool.cache is too small for the blobs that are used at once")

    async def _look_or_fetch(self, instance: Instance) -> bool:
        path = self.path(instance.id)
        if (left := self._cache.take(instance.id)) is not None:
            try:
                left.is_known = left.is_known or await asyncio.to_thread(_is_whole, path, instance)
            finally:
                self._cache.let_go(instance.id)
            if left.is_known:
                return True
            self._cache.drop(instance.id)
        for _ in range(FETCHES):
            self._reading.check()
            try:
                is_right = await self._work(self._reading, "get", lambda: self._fetch(instance, path))
            except NoObjectError:
                return await self._is_sure_that_it_is_gone()
            except OSError as error:
                if error.errno in NO_SPACE:
                    self._cache.make_room()
                raise StoreError(f"the cache in spool.path cannot be written ({error.strerror})") from None
            if is_right:
                self._cache.add(instance.id, path, instance.offset + instance.size)
                return True
        log.error("object changed", instance=instance.id)
        raise ChangedError("the blob has changed in the object store since it was received (digest)")

    async def _is_sure_that_it_is_gone(self) -> bool:
        """A store that lost its bucket says of each object that it is not there. Returns False; raises StoreError."""
        try:
            await self.objects.read(SPOOL_ID)
        except NoObjectError:
            raise StoreError(
                f"the object store {self.place}: {SPOOL_ID} is not there; is it the right bucket?"
            ) from None
        return False

    async def _fetch(self, instance: Instance, path: Path) -> bool:
        """Fetch an object into the cache. Returns whether it is what was received."""
        part = path.with_suffix(f".{secrets.token_hex(8)}{PART}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        coming = _Coming(os.open(part, flags, 0o600), instance)
        try:
            await self.objects.get(key_of(instance.id), instance.offset + instance.size, coming.take)
            if coming.is_right:
                part.rename(path)
            return coming.is_right
        finally:
            coming.close()
            part.unlink(missing_ok=True)

    def copy_to(self, blob_id: str, size: int, path: Path) -> None:
        """Fetch an object as it is, whatever it is, into a new file. Raises StoreError, NoObjectError, OSError."""
        with path.open("xb") as file:
            self.objects.begin(self.objects.get(key_of(blob_id), size, file.write)).result()

    def pages(self) -> Iterator[list[tuple[str, int, float]]]:
        """Key, size and time (Unix seconds) of all objects, some at a time."""
        pages = self.objects.pages(BLOBS)

        async def following() -> list[tuple[str, int, datetime]] | None:
            return await anext(pages, None)

        while (page := self.objects.begin(following()).result()) is not None:
            yield [(key, size, at.timestamp()) for key, size, at in page]

    # -- away ------------------------------------------------------------------------------------------------------

    def remove(self, blob_id: str) -> None:
        self.remove_many((blob_id,))

    def remove_many(self, blob_ids: Iterable[str]) -> None:
        """Remove blobs here, and in the store. What fails there is tried again by `tidy_up`."""
        blob_ids = list(blob_ids)
        for blob_id in blob_ids:
            self._cache.drop(blob_id)
        self._note_unwanted(blob_ids)
        self._remove_unwanted(blob_ids)

    def forget(self, blob_id: str) -> None:
        """Remove a blob that was refused. Never waits."""
        self._cache.drop(blob_id)
        self._note_unwanted((blob_id,))
        if not self._removing.why:
            self.objects.begin(self._delete_quietly((blob_id,)))

    @property
    def unwanted(self) -> int:
        """How many objects wait for their removal."""
        return len(self._unwanted)

    def make_room(self) -> bool:
        return self._cache.make_room()

    def tidy_up(self) -> None:
        self._remove_unwanted(list(self._unwanted))

    def drop_expired(self, has_expired: Callable[[Sequence[str]], Collection[str]]) -> None:
        """Another node may have removed a blob. Then its copy here goes too."""
        for part in parts(self._cache.ids()):
            for blob_id in has_expired(part):
                self._cache.drop(blob_id)

    def _note_unwanted(self, blob_ids: Collection[str]) -> None:
        # What is beyond the limit is found by `dicom-router spool orphans`.
        if len(self._unwanted) + len(blob_ids) <= MOST_UNWANTED:
            self._unwanted.update(blob_ids)

    def _remove_unwanted(self, blob_ids: list[str]) -> None:
        for at in range(0, len(blob_ids), AT_ONCE):
            if self._removing.why or not self.objects.begin(self._delete_quietly(blob_ids[at : at + AT_ONCE])).result():
                return

    async def _delete_quietly(self, blob_ids: Collection[str]) -> bool:
        try:
            await self.objects.delete([key_of(one) for one in blob_ids])
        except StoreError as error:
            self._removing.failed(error)
            log.warning("objects not removed", count=len(blob_ids), reason=str(error))
            return False
        self._unwanted.difference_update(blob_ids)
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _work(self, gate: Gate, what: str, work: Callable[[], Any]) -> Any:
        with STORE_SECONDS.labels(what).time():
            try:
                done = await work()
            except StoreError as error:
                gate.failed(error)
                raise
            gate.worked()
            return done

    async def _ask_to_read(self) -> None:
        try:
            await self.objects.read(SPOOL_ID)
        except NoObjectError as error:
            raise StoreError(str(error)) from None

    async def _ask_to_write(self) -> None:
        await self.objects.write(self._probe, b"")
        with suppress(StoreError):
            await self._ask_to_remove()

    async def _ask_to_remove(self) -> None:
        await self.objects.delete([self._probe])


class _Coming:
    """A file that comes piece by piece. Its digest begins behind the header."""

    def __init__(self, fd: int, instance: Instance) -> None:
        self._fd, self._instance = fd, instance
        self._digest, self._size = xxh3_128(), 0

    def take(self, piece: memoryview) -> None:
        self._digest.update(piece[max(0, self._instance.offset - self._size) :])
        self._size += len(piece)
        while piece:
            piece = piece[os.write(self._fd, piece) :]

    @property
    def is_right(self) -> bool:
        one = self._instance
        return self._size == one.offset + one.size and self._digest.hexdigest() == one.digest

    def close(self) -> None:
        os.close(self._fd)


def _is_whole(path: Path, instance: Instance) -> bool:
    """Whether a file that another process left has all bytes of the instance."""
    digest = xxh3_128()
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != instance.offset + instance.size:
                return False
            file.seek(instance.offset)
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError:
        return False
    return digest.hexdigest() == instance.digest
