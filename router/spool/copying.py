"""Copies a spool's database and blobs, for `backup` and `restore`.

SQLite's online backup copies the database in one step. So it reads one moment, even under load. In several steps the
copy would start over at each commit of the node, and never end.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from xxhash import xxh3_128

from router.spool import queries, schema
from router.spool.ballast import BALLAST
from router.spool.blobs import WHOLE, BlobStore, sync_folder
from router.spool.engine import DATABASE, LOCK
from router.spool.errors import SpoolError, first_sentence
from router.spool.remote_blobs import FOLDER
from router.spool.states import InstanceState

BLOBS = "blobs"
OWN = frozenset((DATABASE, DATABASE + "-wal", DATABASE + "-shm", LOCK, BLOBS, FOLDER, BALLAST, "control"))
"""Entries of a spool's folder that are copied separately, or that belong to a running node."""
DAMAGED = "see 'A damaged database' in docs/operations.md"
DELIVERED = "delivered while the backup was made"
PIECE = 1 << 20
"""Bytes that are copied at once."""


@dataclass(frozen=True, slots=True)
class OpenWork:
    """Instances without a decision, open deliveries, buried deliveries."""

    undecided: int
    owed: int
    buried: int


@dataclass(frozen=True, slots=True)
class Work:
    """An instance that still needs its blob."""

    instance_id: str
    offset: int
    size: int
    digest: str


def copy_database(spool: Path, target: Path) -> None:
    """Copy SQLite's database as it is at one moment, and check the copy. Raises SpoolError."""
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(spool / DATABASE))}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy, pages=-1)
    except sqlite3.Error as error:
        raise SpoolError(f"the spool's database cannot be copied ({error}); {DAMAGED}") from None
    os.chmod(target, 0o600)
    check_database(target)
    _sync_file(target)


def check_database(path: Path) -> None:
    """Raises SpoolError if SQLite finds a fault. Nothing may write to the database meanwhile."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)) as database:
            found = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise SpoolError(f"{path}: the database is damaged ({first_sentence(found)}); {DAMAGED}")


def engine_of(path: Path) -> sa.Engine:
    """An engine that reads a database to which nothing writes."""
    uri = f"file:{quote(str(path))}?immutable=1"
    return sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False))


def open_work(engine: sa.Engine) -> dict[str, Work]:
    """Instances without a decision, or with open or buried deliveries, by id."""
    instance = schema.instance.c
    query = sa.select(instance.id, instance.offset, instance.size, instance.digest)
    with engine.connect() as connection:
        rows = connection.execute(query.where(instance.state.in_((InstanceState.NEW, InstanceState.DECIDED))))
        return {row.id: Work(row.id, row.offset, row.size, row.digest) for row in rows}


def known_ids(engine: sa.Engine) -> set[str]:
    """Every instance that has a row."""
    with engine.connect() as connection:
        return set(connection.execute(sa.select(schema.instance.c.id)).scalars())


def count_work(engine: sa.Engine) -> OpenWork:
    with engine.connect() as connection:
        found = queries.counts(connection)
    return OpenWork(found.undecided, sum(found.open.values()), sum(found.buried.values()))


def done_meanwhile(engine: sa.Engine, ids: list[str]) -> set[str]:
    """Those of the instances that are delivered by now, or expired."""
    done: set[str] = set()
    with engine.connect() as connection:
        for part in schema.parts(sorted(ids)):
            states = queries.states(connection, part)
            done |= {one for one in part if states.get(one) in (None, InstanceState.FINISHED, InstanceState.GONE)}
    return done


def note_delivered(database: Path, ids: set[str], now: float) -> None:
    """Note in a copy that these instances were delivered after it was made, and that their blobs are gone."""
    with closing(sqlite3.connect(database)) as copy, copy:
        for one in sorted(ids):
            copy.execute(
                "UPDATE delivery SET state='done', token=0, ready_at=0, closed_at=?, reason=? "
                "WHERE instance_id=? AND state IN ('open', 'buried')", (now, DELIVERED, one),
            )  # fmt: skip
            copy.execute("UPDATE instance SET state='gone', token=0, ready_at=0, finished_at=? WHERE id=?", (now, one))
    with closing(sqlite3.connect(database)) as copy:  # whole in one file
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _sync_file(database)


def blobs_in(folder: Path) -> Iterator[Path]:
    """The whole blobs of a spool or of a backup. A link or a FIFO does not count."""
    store = BlobStore(folder / BLOBS)
    return filter(_is_whole, store.files()) if store.root.is_dir() else iter(())


def _is_whole(path: Path) -> bool:
    try:
        return path.suffix == WHOLE and stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:  # delivered, and removed meanwhile
        return False


def blob_in(folder: Path, instance_id: str) -> Path:
    return BlobStore(folder / BLOBS).path(instance_id)


def prepare_blobs(folder: Path) -> None:
    BlobStore(folder / BLOBS).prepare()


def sync_blobs(folder: Path) -> None:
    """Make the names of all blobs durable."""
    for name in sorted({path.parent for path in blobs_in(folder)}):
        sync_folder(name)


def link_or_copy(source: Path, target: Path, *, always_copy: bool) -> bool:
    """Hard-link a file, or make a synced copy if that fails. Returns whether it was copied. Raises OSError."""
    if not always_copy:
        try:
            os.link(source, target, follow_symlinks=False)
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    copy_file(source, target)
    return True


def copy_file(source: Path, target: Path, skip: int = 0) -> str:
    """Copy and sync a file. Returns the XXH3-128 of what follows the first `skip` bytes. Raises OSError."""
    digest = xxh3_128()
    with source.open("rb") as file, os.fdopen(new_file(target), "wb") as copy:
        copy.write(file.read(skip))
        while piece := file.read(PIECE):
            digest.update(piece)
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


def copy_rest(source: Path, target: Path) -> None:
    """Copy everything else of a spool's folder: models and which one serves, keys, blobs set aside."""
    for entry in sorted(source.iterdir()):
        if entry.name in OWN or entry.is_symlink():
            continue
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, symlinks=True, copy_function=_copied)
        elif entry.is_file():
            copy_file(entry, target / entry.name)
    below = (path for path in target.rglob("*") if path.is_dir() and path.relative_to(target).parts[0] != BLOBS)
    for folder in (target, *below):
        sync_folder(folder)


def _copied(source: str, target: str) -> Any:
    if Path(source).is_file():  # a read of a FIFO would wait for ever, and it has nothing to copy
        copy_file(Path(source), Path(target))
    return target


def new_file(path: Path) -> int:
    """The descriptor of a new private file. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
