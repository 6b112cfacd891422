"""The object store: each operation ends within a stated time, and each error is one line without a secret.

obstore's own defaults let a silent server block a caller for minutes. So its operations run in an event loop of their
own and are cancelled when their time is over. One kind of failure is told from the others: an object that is not there.
"""

from __future__ import annotations

import asyncio
import configparser
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from router.config.settings import ObjectStore
from router.errors import to_install
from router.spool.errors import SpoolError

T = TypeVar("T")

PATIENCE, SMALL = 8.0, 5.0
"""Seconds for one object of up to PLAIN bytes, and for a question about objects."""
PLAIN, LEAST_RATE = 64 << 20, 8 << 20
"""Bytes that need no more than PATIENCE, and bytes a second by which larger objects get more."""
CONNECT, CEILING = 3.0, 600.0
"""Seconds to connect, and for any request, whatever its size."""
WHOLE = 16 << 20
"""Bytes up to which an object is sent in one request, which can refuse to overwrite; it is in memory meanwhile."""
PART, PARTS_AT_ONCE = 8 << 20, 2
SENDING, FETCHING = 16, 8
"""Objects at once. With WHOLE this limits the memory."""
CHUNK = 4 << 20
RETRIES, RETRY_WITHIN = 3, 4.0
CREDENTIALS_FOR = 300.0
"""Seconds after which the file with credentials is read again."""
PROFILE = "default"

CODES = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "no permission",
    "AllAccessDisabled": "no permission",
    "InvalidAccessKeyId": "the credentials are wrong",
    "SignatureDoesNotMatch": "the credentials are wrong",
    "InvalidToken": "the credentials are wrong",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the server's",
    "SlowDown": "it is overloaded",
    "QuotaExceeded": "it is full",
    "XMinioStorageFull": "it is full",
}
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,40})</Code>")
_STATUS = re.compile(r"status code: ([1-5][0-9]{2})")


class StoreError(SpoolError):
    """The object store did not answer in time, or refused. It may recover."""


class NoObjectError(SpoolError):
    """There is no such object."""


def words_for(error: BaseException) -> str:
    """What went wrong. Of the server's words only its code and its status are taken."""
    text = str(error)
    if (code := _CODE.search(text)) is not None:
        return f"{CODES[code[1]]} ({code[1]})" if code[1] in CODES else f"it answers {code[1]}"
    if (status := _STATUS.search(text)) is not None:
        return f"it answers with status {status[1]}"
    if isinstance(error, TimeoutError) or "timed out" in text:
        return "no answer in time"
    if "error sending request" in text:
        return "it cannot be reached"
    if "error decoding response body" in text:
        return "its answer was cut"
    return f"it cannot be used ({type(error).__name__})"


def patience(size: int) -> float:
    """Seconds that an object may take."""
    return PATIENCE + max(0, size - PLAIN) / LEAST_RATE


class Objects:
    """A bucket below its prefix. Keys are relative to it. Thread-safe; raises StoreError."""

    def __init__(self, settings: ObjectStore) -> None:
        self.name = settings.name
        self._prefix = settings.prefix and settings.prefix + "/"
        self._store = _open(settings)
        self._creates = True
        """Whether the server knows requests that never overwrite."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    # -- in the loop -----------------------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the loop."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._sending, self._fetching = asyncio.Semaphore(SENDING), asyncio.Semaphore(FETCHING)
                threading.Thread(target=_run, args=(self._loop,), name="objects", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End what is under way. Threads that wait for it get CancelledError."""

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with self._starting:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(end(), loop).add_done_callback(lambda _: loop.stop())

    async def put(self, key: str, path: Path, size: int) -> None:
        """Store a file under a new key."""

        async def send() -> None:
            async with self._sending:
                await self._put(key, path, size)

        await self._within(patience(size), send)

    async def _put(self, key: str, path: Path, size: int) -> None:
        import obstore

        at = self._prefix + key
        if size > WHOLE:
            await obstore.put_async(
                self._store, at, path, use_multipart=True, chunk_size=PART, max_concurrency=PARTS_AT_ONCE
            )
            return
        try:
            mode: Any = "create" if self._creates else "overwrite"
            await obstore.put_async(self._store, at, path, use_multipart=False, mode=mode)
        except obstore.exceptions.AlreadyExistsError:
            # No other blob has this key: the answer to an earlier try was lost.
            if (await obstore.head_async(self._store, at))["size"] != size:
                raise
        except (obstore.exceptions.GenericError, obstore.exceptions.NotSupportedError) as error:
            status = _STATUS.search(str(error))
            if not self._creates or status is None or status[1] != "501":
                raise
            self._creates = False
            await obstore.put_async(self._store, at, path, use_multipart=False)

    async def get(self, key: str, size: int, take: Callable[[Any], object]) -> None:
        """Give an object of about so many bytes to `take`, piece by piece. Raises NoObjectError."""
        import obstore

        async def fetch() -> None:
            async with self._fetching:
                found = await obstore.get_async(self._store, self._prefix + key)
                async for piece in found.stream(min_chunk_size=CHUNK):
                    await asyncio.to_thread(take, memoryview(piece))

        await self._within(patience(size), fetch, missing=True)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, if they are still there."""
        import obstore

        await self._within(PATIENCE, lambda: obstore.delete_async(self._store, [self._prefix + key for key in keys]))

    async def read(self, key: str) -> bytes:
        """A small object. Raises NoObjectError."""
        import obstore

        async def fetch() -> bytes:
            return bytes(await (await obstore.get_async(self._store, self._prefix + key)).bytes_async())

        content: bytes = await self._within(SMALL, fetch, missing=True)
        return content

    async def write(self, key: str, content: bytes) -> None:
        """A small object, new or written over."""
        import obstore

        await self._within(SMALL, lambda: obstore.put_async(self._store, self._prefix + key, content))

    async def pages(self, below: str) -> AsyncIterator[list[tuple[str, int, datetime]]]:
        """Key, size and time of the objects below a key that ends with a slash, some at a time."""
        import obstore

        pages = obstore.list(self._store, self._prefix + below, chunk_size=1000)

        async def following() -> Any:
            return await anext(pages, None)

        while (page := await self._within(PATIENCE, following)) is not None:
            cut = len(self._prefix)
            yield [(one["path"][cut:], one["size"], one["last_modified"]) for one in page]

    async def _within(self, seconds: float, work: Callable[[], Any], *, missing: bool = False) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await work()
        except SpoolError:
            raise
        except FileNotFoundError as error:
            if missing and "NoSuchBucket" not in str(error):
                raise NoObjectError(f"{self.name}: there is no such object") from None
            raise self._trouble(error) from None
        except OSError as error:
            if error.errno is not None and not isinstance(error, TimeoutError):  # this machine's disk
                raise
            raise self._trouble(error) from None
        except Exception as error:
            raise self._trouble(error) from None

    def _trouble(self, error: BaseException) -> StoreError:
        return StoreError(f"the object store {self.name}: {words_for(error)}")


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _open(settings: ObjectStore) -> Any:
    """The library's store; nothing is asked yet. Raises SpoolError."""
    try:
        from obstore.store import S3Store
    except ModuleNotFoundError as error:
        raise StoreError(
            f"spool.blobs is an object store, but its library is not installed: {to_install('s3')}"
        ) from error
    client: dict[str, Any] = {
        "allow_http": settings.allow_http, "connect_timeout": timedelta(seconds=CONNECT),
        "timeout": timedelta(seconds=CEILING),
    }  # fmt: skip
    options: dict[str, Any] = {"virtual_hosted_style_request": settings.virtual_host}
    try:
        if settings.ca:
            client["root_certificate"] = settings.ca.read_bytes()
        if settings.credentials:
            options["credential_provider"] = Credentials(settings.credentials)
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from None
    chosen = {
        "endpoint": settings.endpoint, "region": settings.region, "server_side_encryption": settings.sse,
        "sse_kms_key_id": settings.kms_key,
    }  # fmt: skip
    options |= {name: value for name, value in chosen.items() if value is not None}
    retry: Any = {
        "max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_WITHIN),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
    }  # fmt: skip
    try:
        return S3Store(settings.bucket, client_options=client, retry_config=retry, **options)  # type: ignore[arg-type]
    except Exception as error:
        words = f"its settings do not fit together ({type(error).__name__})"
        words = f"its settings do not fit together ({type(error).__name__})"
        raise StoreError(f"the object store {settings.name}: {words}") from None


class Credentials:
    """Reads an INI file as AWS's tools write it, and again from time to time: it may be replaced meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self()

    def __call__(self) -> Any:
        file = configparser.RawConfigParser()
        try:
            file.read_string(self._path.read_text(encoding="utf-8"))
            section = file[PROFILE]
            key, secret = section["aws_access_key_id"], section["aws_secret_access_key"]
        except (configparser.Error, KeyError, UnicodeDecodeError):
            raise StoreError(
                f"{self._path}: write a section [{PROFILE}] with aws_access_key_id and aws_secret_access_key"
            ) from None
        until = datetime.fromtimestamp(time.time() + CREDENTIALS_FOR).astimezone()
        return {
            "access_key_id": key, "secret_access_key": secret, "token": section.get("aws_session_token"),
            "expires_at": until,
        }  # fmt: skip
