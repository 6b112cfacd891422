"""The files named, and those below the folders named, as a stream: an archive of millions takes no memory.

Links are not followed, unless they are named themselves: what is below a link belongs to another tree, or comes anyway.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from router.spool.blobs import COPIES, PART

AT_ONCE = 4096
"""Entries of a folder that are read and sorted together. A folder with more of them is not sorted as a whole."""
NO_INSTANCES = (PART, *COPIES)
"""What lies beside the instances in a spool's folder: half of one, never acknowledged, and another form of one."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file; or, with an error, a folder that cannot be read."""

    path: Path
    error: str = ""


def walk(paths: Iterable[Path], left_out: Counter[str]) -> Iterator[Found]:
    """Each file, those of a folder before those of its folders. `left_out` counts, by kind, what is none to look at."""
    for path in paths:
        if path.is_dir():
            yield from _below(path, left_out)
        else:
            yield Found(path)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files of `walk`, for who needs no account of the rest."""
    return (found.path for found in walk(paths, Counter()) if not found.error)


def _below(top: Path, left_out: Counter[str]) -> Iterator[Found]:
    listings = [_listing(str(top))]
    while listings:
        kind, path = next(listings[-1], ("end", ""))
        if kind == "end":
            listings.pop()
        elif kind == "file":
            yield Found(Path(path))
        elif kind == "folder":
            listings.append(_listing(path))
        elif path:
            yield Found(Path(path), kind)
        else:
            left_out[kind] += 1


def _listing(folder: str) -> Iterator[tuple[str, str]]:
    """What is in a folder: ("file" or "folder", path), (why it is left out, ""), (error, path)."""
    try:
        with os.scandir(folder) as entries:
            # A folder that is read to its end is closed at once: one below the other, they cost no descriptors.
            while some := [(*_judge(entry), entry.name) for entry in islice(entries, AT_ONCE)]:
                some.sort(key=lambda one: (one[0] == "folder", one[2]))
                for kind, path, _ in some:
                    yield kind, path
    except OSError as error:
        yield error.strerror or type(error).__name__, folder


def _judge(entry: os.DirEntry[str]) -> tuple[str, str]:
    name = entry.name
    try:
        if entry.is_symlink():
            return "link", ""
        if name.startswith("."):
            return "hidden", ""
        if entry.is_dir(follow_symlinks=False):
            return "folder", entry.path
        if not entry.is_file(follow_symlinks=False):
            return "pipe, socket or device", ""
    except OSError as error:
        return error.strerror or type(error).__name__, entry.path
    if name.upper() == "DICOMDIR":
        return "DICOMDIR", ""
    if name.endswith(NO_INSTANCES):
        return "no instance of a spool", ""
    return "file", entry.path
