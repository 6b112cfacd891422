"""Native copies beside the blobs: how large one will be, and what those that are there take."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

import sqlalchemy as sa

from router.flow import Instance
from router.spool import statements

SAMPLE_BYTES = 2
"""Of a native sample, at most; but for 32 bits, which are rare: a copy counts with its true size once it is there."""
ONE_SAMPLE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def native_size(connection: sa.Connection, instance: Instance) -> int:
    """Bytes that a native copy may take: its blob's and those of the pixels, from the facts of its decision."""
    facts = json.loads(connection.execute(statements.FACTS, {"which": instance.id}).scalar_one())
    samples = 1 if facts["photometric"] in ONE_SAMPLE else 3
    return int(instance.size + facts["rows"] * facts["columns"] * facts["frames"] * samples * SAMPLE_BYTES)


class CopySizes:
    """Bytes of native copies by instance, and of those that are being made. For several threads."""

    def __init__(self) -> None:
        self.total = 0
        self.unwritten = 0
        """Bytes of those being made, that the file system may still count as free."""
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def begin(self, instance_id: str, size: int) -> None:
        with self._lock:
            self.unwritten += size
            self._add(instance_id, size)

    def end(self, instance_id: str, promised: int, written: int) -> None:
        with self._lock:
            self.unwritten -= promised
            self._add(instance_id, written - promised)

    def _add(self, instance_id: str, more: int) -> None:
        self._sizes[instance_id] = self._sizes.get(instance_id, 0) + more
        self.total += more

    def forget(self, instance_ids: Iterable[str]) -> None:
        """Blobs that are gone have no copies."""
        with self._lock:
            self.total -= sum(self._sizes.pop(one, 0) for one in instance_ids)

    def instances(self) -> list[str]:
        with self._lock:
            return list(self._sizes)
