"""Whether there is room for more, by `spool.limit`, the disk and its inodes. If not, finished blobs are removed."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router.config.settings import GB, SpoolSettings
from router.flow import Instance
from router.observe import log
from router.spool import statements
from router.spool.ballast import LEAST_INODES, Ballast
from router.spool.blobs import BlobStore
from router.spool.database import Database
from router.spool.retention import Retention
from router.spool.signals import FULL
from router.spool.usage import Usage

LIMIT = "limit"
"""Begins the reason if it is not the disk that lacks room."""
TELL_EVERY = 60.0
"""Seconds between lines of the log while there is no room."""
SAMPLE_BYTES = 2
"""The most bytes of a native sample; 32 bits are rare. A finished copy counts with its true size."""
ONE_SAMPLE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
"""Photometric interpretations with one sample for each pixel; all others have three."""


class Space:
    """The room that the spool has left."""

    def __init__(
        self, settings: SpoolSettings, database: Database, blobs: BlobStore, usage: Usage, retention: Retention
    ) -> None:
        self.ballast = Ballast(settings.path, settings.reserve)
        self._settings, self._database, self._blobs = settings, database, blobs
        self._usage, self._retention = usage, retention
        self._sweeping = threading.Lock()
        self._copying = threading.Lock()
        self._telling = threading.Lock()
        self._told: float | None = None

    def has_room(self, more: int = 0) -> bool:
        """Whether there is room for `more` bytes. If not, finished blobs are removed first. Logs what is lacking."""
        lack = self.lack(more)
        if lack:
            with self._sweeping:
                while (lack := self.lack(more)) and self._makes_room(lack):
                    pass
        if not more:
            self._tell(lack)
        return not lack

    def _makes_room(self, lack: str) -> bool:
        """Remove some of what is not needed. Returns whether there was any."""
        return (self._retention.sweep_early() if lack.startswith(LIMIT) else self.sweep_disk()) > 0

    def sweep_disk(self) -> int:
        """Remove some files because the disk is full: first those that can be had again. Returns how many at least.

        Objects stay. They lie elsewhere, and to remove them makes no room here.
        """
        if self._blobs.make_room():
            return 1
        return 0 if self._settings.blobs else self._retention.sweep_early()

    def lack(self, more: int = 0) -> str:
        """Why there is no room for so many bytes more. Empty if there is. Raises OSError."""
        limit, reserve, used = self._settings.limit, self._settings.reserve, self._usage.total
        free = self._blobs.free() - self._usage.unwritten - more
        if used + more >= limit:
            return f"{LIMIT}: the spool holds {used / GB:.1f} GB, and spool.limit is {limit / GB:.1f} GB"
        if free <= reserve:
            return f"disk: {max(0, free) / GB:.1f} GB are free, and spool.reserve is {reserve / GB:.1f} GB"
        if self.ballast.is_in_use and not self.ballast.lay():
            return "disk: it is full, and what is left of it is kept for the database"
        inodes = self._blobs.free_inodes()
        if inodes < LEAST_INODES:
            return f"inodes: the file system can take {inodes} files more, and {LEAST_INODES} are kept (df -i)"
        return ""

    def make_room(self) -> None:
        """The disk is full, though it seemed to have room: ask the sweeper to remove finished blobs before their time.

        They go a little later: the blob that found no room is still there, and the database needs room to write too.
        """
        self._database.signals.set(FULL)

    def database_is_full(self) -> None:
        """The database found no room. Make some, since the end of a delivery must be recorded to free a blob."""
        self.ballast.throw_off()
        self.make_room()

    @contextmanager
    def for_copy(self, instance: Instance, target: Path) -> Iterator[None]:
        """For the time while a native copy is made as `target`. First its greatest size counts, then its true size.

        Raises OSError (ENOSPC) if there is no room even without the finished blobs.
        """
        size = self._size_of_copy(instance)
        with self._copying:
            # For a copy that can never fit, no finished blob is removed.
            if size >= self._settings.limit or not self.has_room(size):
                words = "no room for a native copy: spool.limit or spool.reserve would be reached"
                raise OSError(errno.ENOSPC, words)
            self._usage.copy_begins(instance.id, size)
        try:
            yield
        finally:
            self._usage.copy_ends(instance.id, size, target.stat().st_size if target.exists() else 0)

    def _size_of_copy(self, instance: Instance) -> int:
        """The most bytes of a native copy: those of its blob and of the pixels, from the facts of its decision."""
        query = statements.FACTS, {"which": instance.id}
        facts = json.loads(self._database.ask(lambda c: c.execute(*query).scalar_one()))
        samples = 1 if facts["photometric"] in ONE_SAMPLE else 3
        return int(instance.size + facts["rows"] * facts["columns"] * facts["frames"] * samples * SAMPLE_BYTES)

    def _tell(self, lack: str) -> None:
        """Log why there is no room, when that begins and once a minute. Log also when it ends."""
        with self._telling:
            if lack and (self._told is None or time.monotonic() - self._told > TELL_EVERY):
                self._told = time.monotonic()
                log.warning("no room", why=lack)
            elif not lack and self._told is not None:
                self._told = None
                log.info("room again")
