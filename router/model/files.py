"""Files of a model's folder, written whole or not at all and synced; and their digests. No torch."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

CARD_LIMIT = 1 << 20
"""The most bytes of a card that are read."""


def shipped_model() -> Path:
    """The folder of the model that came with the package (in a checkout: beside it)."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "models" / "mobilenet_v1"
    return beside if (beside / "card.json").exists() else package / "models" / "mobilenet_v1"


def replace(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Make `content` the file's, durably. Raises OSError: then the file is as it was."""
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """The names in a folder are on disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def must_be_regular(path: Path, largest: int) -> None:
    """Raise OSError unless it is a file (or a link to one) of at most this many bytes. Reading a pipe would hang."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a file")
    if found.st_size > largest:
        raise OSError(errno.EFBIG, f"has more than {largest} bytes")


def digest(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
