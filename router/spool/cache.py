"""The folder with copies of blobs that lie in an object store. It is bounded, and what was used last stays.

Nothing depends on it: what is missing, cut or changed is fetched again. So its files are not synced, and what another
process left is believed only after its digest was compared. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from router.observe.metrics import CACHE_BYTES
from router.spool.blobs import COPIES


@dataclass(slots=True)
class Entry:
    """A whole blob: its bytes with those of its native copies, and whether its digest is right."""

    size: int
    is_known: bool = False


class Cache:
    """Which blobs lie here. `limit`: bytes; files in use stay beyond it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, tuple[Path, Entry]] = OrderedDict()
        self._users: Counter[str] = Counter()
        """How often each blob is in use. It may have been dropped and fetched again meanwhile."""
        self._bytes = 0
        self._lock = threading.Lock()

    def begin(self, found: Iterable[tuple[str, Path]]) -> None:
        """What an earlier process left."""
        dated = sorted((path.stat().st_mtime, blob_id, path) for blob_id, path in found)
        for _, blob_id, path in dated:
            self.add(blob_id, path, path.stat().st_size, is_known=False)

    def add(self, blob_id: str, path: Path, size: int, *, is_known: bool = True) -> None:
        """A whole blob lies here now."""
        with self._lock:
            self._forget(blob_id)
            self._entries[blob_id] = path, Entry(size, is_known=is_known)
            self._count(size)
            self._shrink(self._limit, but=blob_id)

    def take(self, blob_id: str) -> Entry | None:
        """Use a blob. Its file stays until `let_go`. None if it is not here."""
        with self._lock:
            found = self._entries.get(blob_id)
            if found is None:
                return None
            self._entries.move_to_end(blob_id)
            self._users[blob_id] += 1
            return found[1]

    def let_go(self, blob_id: str) -> None:
        with self._lock:
            self._users[blob_id] -= 1
            if self._users[blob_id] <= 0:
                del self._users[blob_id]
            found = self._entries.get(blob_id)
            if found is None:
                return
            path, entry = found
            size = _size(path)
            self._count(size - entry.size)
            entry.size = size
            self._shrink(self._limit, but="")

    def drop(self, blob_id: str) -> None:
        """Remove a blob and its copies, even if it is in use: who has its file open can read on."""
        with self._lock:
            found = self._entries.get(blob_id)
            self._forget(blob_id)
        if found:
            _remove(found[0])

    def ids(self) -> list[str]:
        """The blobs that lie here."""
        with self._lock:
            return list(self._entries)

    def make_room(self) -> bool:
        """Remove half of what is not in use. Returns whether there was any."""
        with self._lock:
            before = self._bytes
            self._shrink(self._bytes // 2, but="")
            return self._bytes < before

    def _shrink(self, most: int, but: str) -> None:
        """Remove what was not used for longest."""
        if self._bytes <= most:
            return
        for blob_id in list(self._entries):
            if blob_id not in self._users and blob_id != but:
                path, _ = self._entries[blob_id]
                self._forget(blob_id)
                _remove(path)
                if self._bytes <= most:
                    return

    def _forget(self, blob_id: str) -> None:
        if (found := self._entries.pop(blob_id, None)) is not None:
            self._count(-found[1].size)

    def _count(self, more: int) -> None:
        self._bytes += more
        CACHE_BYTES.set(self._bytes)


def _files(path: Path) -> list[Path]:
    return [path, *(path.with_suffix(suffix) for suffix in COPIES)]


def _size(path: Path) -> int:
    size = 0
    for one in _files(path):
        with suppress(OSError):
            size += one.stat().st_size
    return size


def _remove(path: Path) -> None:
    for one in _files(path):
        with suppress(OSError):  # the next start removes it
            one.unlink(missing_ok=True)
