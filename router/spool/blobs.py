"""Blobs: the stored data sets. Each is a Part 10 file whose name is the spool's own id, and nothing received.

A blob is written as `<id>.part`. `seal` syncs it, gives it its name, and syncs the folder, in this order. So a file
`<id>.dcm` is always whole. A failed fsync is final: Linux reports it once and forgets.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from xxhash import xxh3_128

from router.flow import Instance

PART, WHOLE, DOUBTED = ".part", ".dcm", ".doubted"
"""Endings of a blob that is being received, of a whole blob, and of a refused one that may still get a row."""
FOLDERS = tuple(f"{number:02x}" for number in range(256))
NATIVE, EVEN = ".native", ".even"
COPIES = (".1" + NATIVE, ".2" + NATIVE, EVEN + NATIVE)
"""Copies that forwarding may have put beside a blob: native ones (Explicit and Implicit VR Little Endian), and a padded
one, for a data set of odd length."""


PIECE = 1 << 20
"""Bytes that are compared at a time."""
FOLDERS = tuple(f"{number:02x}" for number in range(256))
PLENTY = 1 << 40
"""A number of files that no file system reaches."""
WRITE_BEHIND = 2 << 20
"""Bytes after which the disk begins to write. So it writes while more arrives, and the last sync is short."""
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Blob:
    """One data set on its way to disk. `offset` is the length of the header before it. For one thread."""

    def __init__(self, folder: Path, blob_id: str, header: bytes) -> None:
        self.id = blob_id
        self.path = folder / (blob_id + WHOLE)
        self.offset = len(header)
        self.size = 0
        self.header = header
        self._begun = 0
        self._part = folder / (blob_id + PART)
        self._digest = xxh3_128()
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(self._fd, memoryview(header))
        except BaseException:
            self.discard()
            raise

    def write(self, fragment: memoryview) -> None:
        """Append a fragment of the data set. Raises OSError (disk full, input/output)."""
        _write(self._fd, fragment)
        self._digest.update(fragment)
        self.size += len(fragment)
        if self.size - self._begun >= WRITE_BEHIND:
            self._begin_writing()
            self._begun = self.size

    def _begin_writing(self) -> None:
        """Start writing to disk, and do not wait (Linux). No promise rests on it, so its result is not read."""
        if _sync_file_range is not None:
            at, count = self.offset + self._begun, self.size - self._begun
            _sync_file_range(self._fd, at, count, _SYNC_FILE_RANGE_WRITE)

    def digest(self) -> str:
        """XXH3-128 of the data set so far, in hex."""
        return self._digest.hexdigest()

    def read(self, count: int) -> bytes:
        """The first bytes of the data set, at most `count`."""
        with self._part.open("rb") as file:
            file.seek(self.offset)
            return file.read(count)

    def seal(self, note: bytes = b"") -> None:
        """Sync the file, name it, sync the folder: then it is durable. On failure discards it and raises OSError.

        `note` replaces the end of the header.
        """
        try:
            view, at = memoryview(note), self.offset - len(note)
            while view:
                count = os.pwrite(self._fd, view, at)
                view, at = view[count:], at + count
            self._keep()
        except BaseException:
            self.discard()
            raise

    def _keep(self) -> None:
        os.fsync(self._fd)
        self._name()
        sync_folder(self.path.parent)

    def _name(self) -> None:
        """Close the file, and give it the name of a whole blob."""
        os.close(self._fd)
        self._fd = -1
        os.rename(self._part, self.path)

    def mark_doubted(self) -> None:
        """Give it the name of a refused blob. The next start looks whether it has a row after all."""
        with suppress(OSError):  # then the next start takes it in, and a destination may get it twice
            os.rename(self.path, self.path.with_suffix(DOUBTED))

    def unmark(self) -> None:
        """Give it its name back, because it has a row after all. If that fails, the next start does it."""
        with suppress(OSError):
            os.rename(self.path.with_suffix(DOUBTED), self.path)

    def discard(self) -> None:
        """Remove the file, under any of its names."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for path in (self._part, self.path, self.path.with_suffix(DOUBTED)):
            path.unlink(missing_ok=True)


class BlobStore:
    """The folder `blobs/00…ff`; a blob's folder is the last two digits of its id.

    `remote_blobs` has the same for an object store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    trouble = ""
    """Why the store with the blobs does not work; empty while it does."""
    doubt = ""
    """Why it keeps no blob though it seems to work; empty if it does."""

    def prepare(self) -> None:
        """Make the folders, durably."""
        make_folder(self.root)
        with os.scandir(self.root) as entries:
            there = {entry.name for entry in entries if entry.is_dir()}
        for name in FOLDERS:
            if name not in there:
                os.mkdir(f"{self.root}/{name}", 0o700)
        sync_folder(self.root)

    def begin(self, header: bytes) -> Blob:
        blob_id = new_id()
        return Blob(self._folder(blob_id), blob_id, header)

    def path(self, blob_id: str) -> Path:
        return self._folder(blob_id) / (blob_id + WHOLE)

    @contextmanager
    def local(self, instance: Instance) -> Iterator[Path]:
        """The blob's path, for as long as it is used. Nothing lies there if the blob has gone.

        Raises SpoolError if the blob cannot be brought here.
        """
        here = self.bring(instance).result()
        try:
            yield self.path(instance.id)
        finally:
            if here:
                self.let_go(instance.id)

    def bring(self, instance: Instance) -> Future[bool]:
        """Done when the blob lies at its path, where it stays until `let_go`. False: the blob has gone."""
        done: Future[bool] = Future()
        done.set_result(True)
        return done

    def let_go(self, blob_id: str) -> None:
        """The path is not used any more."""

    def bring_again(self, instance: Instance) -> bool:
        """What lies at the path is wrong. False: there is no other copy of the blob. Raises SpoolError."""
        return False

    def make_room(self) -> bool:
        """Remove files that can be had again. Returns whether there were any."""
        return False

    def tidy_up(self) -> None:
        """Try again what failed."""

    def close(self) -> None:
        """Nothing is asked any more."""

    def remove(self, blob_id: str) -> None:
        """Remove a blob and its copies, if they are still there."""
        blob = self.path(blob_id)
        for path in (blob, *(blob.with_suffix(suffix) for suffix in COPIES)):
            path.unlink(missing_ok=True)

    def remove_many(self, blob_ids: Iterable[str]) -> None:
        for blob_id in blob_ids:
            self.remove(blob_id)

    def _folder(self, blob_id: str) -> Path:
        return self.root / blob_id[-2:]

    def files(self) -> Iterator[Path]:
        """The files in the folders of blobs."""
        return (Path(entry.path) for entry in self.entries())

    def entries(self, folders: Iterable[str] = FOLDERS) -> Iterator[os.DirEntry[str]]:
        """The same without a Path for each of them: there may be millions.

        Other folders, made by a person or a file system, are left out.
        """
        for name in folders:
            with os.scandir(self.root / name) as entries:
                yield from (entry for entry in entries if not entry.is_dir(follow_symlinks=False))

    def has_any(self) -> bool:
        """Whether there is a whole blob."""
        return any(entry.name.endswith(WHOLE) for entry in self.entries())

    def free(self) -> int:
        """Bytes that the file system still offers."""
        return shutil.disk_usage(self.root).free

    def free_inodes(self) -> int:
        """How many files the file system can still take."""
        return free_inodes(self.root)


def free_inodes(folder: Path) -> int:
    """How many files the file system can still take; PLENTY if it does not count them (btrfs)."""
    space = os.statvfs(folder)
    return space.f_favail if space.f_files else PLENTY


def new_id() -> str:
    """32 hex digits, in order of time: nanoseconds, then chance."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def same_bytes(one: Path, other: Path, skip_one: int, skip_other: int) -> bool:
    """Whether two blobs have the same data set, byte for byte."""
    with one.open("rb") as a, other.open("rb") as b:
        a.seek(skip_one)
        b.seek(skip_other)
        while True:
            left, right = a.read(PIECE), b.read(PIECE)
            if left != right:
                return False
            if not left:
                return True


def make_folder(folder: Path) -> None:
    """Make a private folder and the missing folders above it, and make each name durable. An existing folder is synced
    too: whoever made it may have crashed before."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]
