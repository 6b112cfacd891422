"""A ballast: files that are removed when the disk is full.

On a full disk a node must still start and record deliveries, because only that makes room. Both need a few new blocks
and files (SQLite's log and its index, the control socket). So some are kept in reserve.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LEAST_INODES = 64
"""If the file system can take fewer new files than this, there is no room."""
BALLAST = "ballast"
"""The folder of the ballast, in the spool's folder."""
PIECES, PIECE_BYTES = 8, 2 << 20
"""Files of the ballast, and bytes of each: together twice what SQLite's log grows to before it is folded."""
SHARE = 64
"""A ballast file takes at most one part in this many of the file system."""
SHORT = PIECES * PIECE_BYTES
"""Free bytes below which room is short."""
BLOCK = 4096
"""Bytes of a block of the file system."""


class Ballast:
    """Files whose blocks and inodes are a reserve."""

    def __init__(self, spool: Path, reserve: int) -> None:
        self._spool, self._reserve = spool, reserve
        self._folder = spool / BALLAST
        self.is_in_use = False
        """Whether it was removed and is not made again yet."""

    def lay(self) -> bool:
        """Make the missing files, if there is enough room. Returns whether the ballast is complete."""
        with suppress(OSError):  # the next time
            missing = [path for path in self._pieces() if not path.exists()]
            space = os.statvfs(self._spool)
            size = min(PIECE_BYTES, space.f_blocks * space.f_frsize // SHARE // BLOCK * BLOCK)
            spare = space.f_bavail * space.f_frsize - self._reserve - 2 * len(missing) * size
            if missing and (spare < 0 or (space.f_files and space.f_favail < LEAST_INODES + PIECES)):
                return False
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in missing:
                _fill(path, size)
            self.is_in_use = False
            return True
        return False

    def throw_off(self) -> None:
        """Remove it, so that its blocks and inodes are free."""
        self.is_in_use = True
        for path in self._pieces():
            path.unlink(missing_ok=True)

    def throw_off_if_short(self) -> None:
        """Remove it if a start might find no room with it."""
        space = os.statvfs(self._spool)
        if is_short(self._spool) or (space.f_files and space.f_favail < LEAST_INODES):
            self.throw_off()

    def _pieces(self) -> list[Path]:
        return [self._folder / str(number) for number in range(PIECES)]


def _fill(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def is_short(folder: Path) -> bool:
    """Whether the file system has few bytes left."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize < SHORT
