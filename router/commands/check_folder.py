"""Is a folder fit to be a spool? Looks and tries, and leaves nothing behind."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from router.config.settings import GB, SpoolSettings
from router.spool.account import as_owner
from router.spool.ballast import LEAST_INODES
from router.spool.blobs import free_inodes
from router.spool.engine import DATABASE, LOCK
from router.spool.errors import first_sentence
from router.spool.orphans import SET_ASIDE, count_in

UNSOUND = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph", "fuse.glusterfs"})
FORGETFUL = frozenset({"tmpfs", "ramfs"})
LONGEST_LOOK = 5.0
"""Seconds. A database that takes longer to read is called sound if what was read of it is."""


def inspect(settings: SpoolSettings) -> Iterator[tuple[str, str]]:
    """(state, text) for each thing looked at; state is ok, warning or failed."""
    folder = settings.path
    existing = next(path for path in (folder, *folder.parents) if _is_there(path))
    if not existing.is_dir():
        yield "failed", f"{existing} is not a folder; spool.path must name one"
        return
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as probe:
            probe.write(b"probe")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        fix = "spool.path must be a folder that this user can write to"
        yield "failed", f"{existing}: {error.strerror}; {fix}{as_owner(existing)}"
        return
    kind = file_system(existing)
    if kind in UNSOUND:
        yield (
            "failed",
            f"{folder} is on {kind}: locks and syncs of network file systems are not reliable; use a local disk",
        )
    elif kind in FORGETFUL:
        yield "warning", f"{folder} is on {kind}: everything in it is gone after a restart of the machine"
    space = os.statvfs(existing)
    free = space.f_bavail * space.f_frsize
    if free < settings.reserve:
        yield "failed", f"{free / GB:.1f} GB free, less than spool.reserve; the node would refuse all instances"
    elif settings.blobs is None and free < settings.limit:
        yield "warning", f"{free / GB:.1f} GB free, less than spool.limit ({settings.limit / GB:.0f} GB)"
    elif settings.blobs is not None and free - settings.reserve < settings.cache:
        yield "warning", f"{free / GB:.1f} GB free, too little for spool.cache ({settings.cache / GB:.0f} GB)"
    inodes = free_inodes(existing)
    if inodes < LEAST_INODES:
        yield (
            "failed",
            f"the file system of {folder} can take only {inodes} more files (df -i); the node would refuse instances",
        )
    aside = count_in(folder / SET_ASIDE)
    if aside:
        where = folder / SET_ASIDE
        yield "warning", f"{aside} blobs are set aside in {where}; see 'Blobs set aside' in docs/operations.md"
    if settings.database == "sqlite" and (fault := database_fault(folder / DATABASE)):
        yield (
            "failed",
            f"{folder / DATABASE}: the database cannot be read ({fault}); see 'A damaged database' in "
            "docs/operations.md",
        )
    state = "in use before" if _is_there(folder / DATABASE) or _is_there(folder / LOCK) else "new"
    yield "ok", f"{folder} on {kind or 'an unknown file system'}, {state}, {free / GB:.1f} GB free"


def _is_there(path: Path) -> bool:
    """A folder that this account may not look into counts as absent."""
    try:
        return path.exists()
    except OSError:
        return False


def database_fault(path: Path) -> str:
    """What SQLite finds wrong with a database; empty if nothing, or if there is none. A node may work on it."""
    if not _is_there(path):
        return ""
    until = time.monotonic() + LONGEST_LOOK
    # Without a log no process works on it, and SQLite would make files beside it only to look.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=LONGEST_LOOK)) as database:
            database.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        found = "ok" if str(error) == "interrupted" else str(error)
    except sqlite3.Error as error:
        found = str(error)
    return "" if found == "ok" else first_sentence(found)


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, from /proc/self/mounts; empty when unknown."""
    best, kind = "", ""
    resolved = str(folder.resolve())
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, mount, found = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
