"""How many bytes the spool uses: its blobs, and the native copies that forwarding puts beside them."""

from __future__ import annotations

import threading
from collections.abc import Collection


class Usage:
    """Bytes of blobs, and of copies by instance, also of copies that are being made. Thread-safe."""

    def __init__(self) -> None:
        self.unwritten = 0
        """Bytes of copies that are being made. The file system may still count them as free."""
        self._blobs = 0
        self._copies = 0
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Bytes of blobs and copies."""
        return self._blobs + self._copies

    def blob_came(self, size: int) -> None:
        with self._lock:
            self._blobs += size

    def blobs_gone(self, instance_ids: Collection[str], size: int) -> None:
        """Blobs were removed, and their copies with them."""
        with self._lock:
            self._blobs -= size
            self._forget_copies(instance_ids)

    def recount(self, blobs: int) -> None:
        """Take the bytes of the blobs from the database, because other processes add and remove some too."""
        with self._lock:
            self._blobs = blobs

    def copy_begins(self, instance_id: str, size: int) -> None:
        """A copy of at most this size is being made. It counts at once."""
        with self._lock:
            self.unwritten += size
            self._add_copy(instance_id, size)

    def copy_ends(self, instance_id: str, promised: int, written: int) -> None:
        with self._lock:
            self.unwritten -= promised
            self._add_copy(instance_id, written - promised)

    def forget_copies(self, instance_ids: Collection[str]) -> None:
        """Another process has removed these blobs, and their copies with them."""
        with self._lock:
            self._forget_copies(instance_ids)

    def with_copies(self) -> list[str]:
        """The instances that have a copy."""
        with self._lock:
            return list(self._sizes)

    def _add_copy(self, instance_id: str, more: int) -> None:
        self._sizes[instance_id] = self._sizes.get(instance_id, 0) + more
        self._copies += more

    def _forget_copies(self, instance_ids: Collection[str]) -> None:
        self._copies -= sum(self._sizes.pop(one, 0) for one in instance_ids)
