"""routing.yaml, written by the node: whole or not at all, with its owner and mode, never over another's change."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from router.config import ConfigError, Settings, load
from router.config.document import LARGEST_FILE
from router.model.files import sync
from router.node.orders import OrderError

BEFORE = ".before"
"""What the name of the kept earlier file ends with."""
_TRY = ".try"
BY_HAND = "write it there by hand, then run: dicom-router reload"


def read(path: Path) -> bytes:
    """Raises OSError."""
    with path.open("rb") as file:
        return file.read(LARGEST_FILE + 1)


def fingerprint(path: Path) -> str:
    """Tells one content of the file from another. Raises OSError."""
    return fingerprint_of(read(path))


def fingerprint_of(content: bytes) -> str:
    return xxh3_128_hexdigest(content)


def must_be_writable(path: Path) -> None:
    """Raises OrderError with the way out where this account may not replace the file."""
    real = path.resolve()
    for place in (real, real.parent):
        if not os.access(place, os.W_OK, effective_ids=True):
            read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
            why = "its file system is read-only here" if read_only else f"this account may not write {place}"
            raise OrderError(f"{path} cannot be replaced: {why}; {BY_HAND}")


def checked(path: Path, content: bytes) -> Settings:
    """The settings that the file would have with this content. Raises ConfigError, OSError, OrderError."""
    with _beside(path, _TRY, content) as trial:
        try:
            return replace(load(trial), file=path)
        except ConfigError as error:
            named = [replace(one, file=one.file.replace(str(trial), str(path))) for one in error.problems]
            raise ConfigError(named) from error


def keep(path: Path, content: bytes) -> Path:
    """Keep this content beside the file, and return its path."""
    kept = path.resolve().with_name(path.resolve().name + BEFORE)
    _put(path, kept, content)
    return kept


def put(path: Path, content: bytes, instead_of: bytes) -> None:
    """Make the content the file's, durably. Raises OrderError if the file is not as it was, OSError: it then is."""
    if read(path) != instead_of:
        raise OrderError(f"{path} has changed in this moment; look at it, and try again")
    _put(path, path.resolve(), content)


def _put(like: Path, target: Path, content: bytes) -> None:
    with _beside(like, ".part", content) as part:
        try:
            part.replace(target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            why = "it is mounted alone, so it cannot be replaced as a whole: mount its folder"
            raise OrderError(f"{target}: {why}, or {BY_HAND}") from error
    sync(target.parent)


@contextmanager
def _beside(path: Path, suffix: str, content: bytes) -> Iterator[Path]:
    """A file in the same folder, with owner, mode and attributes of the file; gone at the end unless renamed."""
    real = path.resolve()
    part = real.with_name(f".{real.name}{suffix}")
    with suppress(FileNotFoundError):
        part.unlink()
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            _write(fd, content, real, part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OrderError(f"{real.parent} is full: make room there, and try again") from error
        yield part
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _write(fd: int, content: bytes, real: Path, part: Path) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        _make_alike(real, part, file.fileno())
        os.fsync(file.fileno())


def _make_alike(old: Path, part: Path, fd: int) -> None:
    was, now = old.stat(), os.fstat(fd)
    if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
        try:
            os.fchown(fd, was.st_uid, was.st_gid)
        except PermissionError as error:
            raise OrderError(f"{old} belongs to another account, which it would lose; {BY_HAND}") from error
    shutil.copystat(old, part)
    os.utime(fd)
