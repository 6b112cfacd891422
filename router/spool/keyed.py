"""Keyed hashes of study and accession number: people look for them, but the spool must not hold them.

The key is a file in the spool's folder that only its owner may read, and on PostgreSQL also a row (`shared_key`).
Without the key a hash says nothing, even if somebody tries all accession numbers.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from router.flow import Header
from router.spool.errors import SpoolError

KEY_FILE = "find.key"
KEY_BYTES = 32
HASH_BYTES = 16
"""A hash is written as twice as many hex digits."""
STUDY, ACCESSION = 0x0020000D, 0x00080050
"""Study Instance UID and Accession Number: the elements that are kept as hashes."""
TAGS = frozenset({STUDY, ACCESSION})


@dataclass(frozen=True, slots=True)
class Key:
    """A spool's key."""

    secret: bytes

    def study(self, uid: str) -> str:
        """The hash of a Study Instance UID without padding: 32 hex digits."""
        return self._hash(b"study", uid.strip("\0 "))

    def accession(self, number: str) -> str:
        """The hash of an accession number without padding and case: 32 hex digits."""
        return self._hash(b"accession", number.strip("\0 ").casefold())

    def found_by(self, header: Header) -> dict[str, str | None]:
        """The columns `study` and `accession` of an instance; None where the header has no value, or several."""
        study, accession = (_single(header.get(tag)) for tag in (STUDY, ACCESSION))
        return {"study": study and self.study(study), "accession": accession and self.accession(accession)}

    def _hash(self, kind: bytes, text: str) -> str:
        message = kind + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, message, "sha256")[:HASH_BYTES].hex()


def _single(values: tuple[str, ...] | None) -> str | None:
    return values[0].strip("\0 ") or None if values and len(values) == 1 else None


def key_of(folder: Path) -> Key | None:
    """The key of a spool; None if no node has made one yet. Raises SpoolError."""
    path = folder / KEY_FILE
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpoolError(f"{path}: {error.strerror}; only the node's own user may look for instances") from error
    if len(secret) != KEY_BYTES:
        raise SpoolError(f"{path}: the key is damaged; put it back from a backup, or remove it: a new one finds only "
                         "what comes from then on")  # fmt: skip
    return Key(secret)


def make_key(folder: Path, secret: bytes | None = None) -> Key:
    """The key of a spool, made if there is none. Nodes on one folder get the same key. Raises SpoolError, OSError.

    `secret`: what a new one consists of; None: something random.

    Its file appears with all its bytes, so a crash leaves no key or a whole one.
    """
    if (known := key_of(folder)) is not None:
        return known
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # another node may be making it
        if (known := key_of(folder)) is not None:
            return known
        secret, part = secret or secrets.token_bytes(KEY_BYTES), folder / f"{KEY_FILE}.part"
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / KEY_FILE)
        os.fsync(fd)
        return Key(secret)
    finally:
        os.close(fd)
