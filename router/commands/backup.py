"""Backs a spool up, even while its node runs, and restores a spool from a backup.

The order makes it complete: first the blobs, then the database as it is at one moment, then the blobs that came
meanwhile. So each row has its blob. A blob without a row is taken in again at the next start. An instance that was
delivered and removed in between is noted as delivered in the copy.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from router.config.settings import Settings, SpoolSettings
from router.errors import RouterError
from router.spool import SpoolError, copying, engine, read_spool
from router.spool.blobs import make_folder, sync_folder

ABOUT, CONFIGURATION = "backup.json", "routing.yaml"
"""The file that marks a complete backup, written last; and the configuration of that time."""
FORMAT = 1
BESIDE = frozenset(("lost+found",))
"""What may lie in a folder that counts as empty."""
SQLITE, POSTGRESQL = "sqlite", "postgresql"

Tell = Callable[[str], None]
"""Called for each file and each step, to show progress."""


class BackupError(RouterError):
    """The backup cannot be made or used; one line with the fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds. `missing`: instances with open work whose blob was not there."""

    target: str
    database: str
    blobs: int
    copied: int
    undecided: int
    owed: int
    buried: int
    missing: tuple[str, ...]
    store: str = ""
    """The object store with the blobs, which the backup does not have."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a spool holds after a restore. `missing` and `damaged` name instances with open work."""

    spool: str
    blobs: int
    undecided: int
    owed: int
    buried: int
    without_row: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    store: str = ""
    """The object store with the blobs, at which nothing was looked."""


def back_up(settings: Settings, target: Path, tell: Tell, *, always_copy: bool = False) -> BackedUp:
    """Copy a spool, even under load. Raises BackupError, SpoolError or OSError; the backup is then incomplete."""
    spool = settings.spool
    if spool.path.resolve() in (target.resolve(), *target.resolve().parents):
        raise BackupError(f"{target} lies in the spool itself; name a folder elsewhere, preferably on another disk")
    _must_be_empty(target, "name a new folder for the backup")
    looking = read_spool(spool)  # raises if there is no spool
    looking.close()
    make_folder(target)
    os.chmod(target, 0o700)
    try:
        return _fill(settings, target, tell, always_copy=always_copy)
    except BaseException:  # half a backup would only be in the way of the next one
        for path in target.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _fill(settings: Settings, target: Path, tell: Tell, *, always_copy: bool) -> BackedUp:
    """Everything of a backup into its folder, which is empty."""
    spool = settings.spool
    copying.prepare_blobs(target)
    done: set[str] = set()
    copied = _copy_blobs(spool.path, target, done, tell, always_copy=always_copy)
    database = target / engine.DATABASE
    kind = _kind(spool)
    if kind == SQLITE:
        tell("database")
        copying.copy_database(spool.path, database)
    copied += _copy_blobs(spool.path, target, done, tell, always_copy=always_copy)
    copying.sync_blobs(target)
    copying.copy_rest(spool.path, target)
    copying.copy_file(settings.file, target / CONFIGURATION)
    missing, counts = _settle(spool, database if kind == SQLITE else None, target)
    result = BackedUp(
        str(target), kind, len(done), copied, **asdict(counts), missing=tuple(missing), store=_store(spool)
    )
    _write_about(target, result)
    return result


def restore(source: Path, spool: SpoolSettings, tell: Tell) -> Restored:
    """Make a spool from a backup, and check it. Raises BackupError, SpoolError, OSError."""
    about = _read_about(source)
    kind = _kind(spool)
    if about["database"] != kind:
        raise BackupError(f"{source} is of a spool on {about['database']}; set spool.database to {about['database']}")
    _must_be_empty(spool.path, "restore never writes over a spool: move that one away first")
    database = source / engine.DATABASE
    if kind == SQLITE:
        tell("database")
        copying.check_database(database)
        rows = copying.engine_of(database)
    else:
        rows = engine.reading(spool.path, spool.database)
    try:
        work, known, counts = copying.open_work(rows), copying.known_ids(rows), copying.count_work(rows)
    except sa.exc.SQLAlchemyError as error:
        problem = str(getattr(error, "orig", error)).splitlines()[0][:200]
        raise BackupError(
            f"{source}: its database is not that of a spool, or its version is unknown ({problem})"
        ) from None
    finally:
        rows.dispose()
    make_folder(spool.path)
    os.chmod(spool.path, 0o700)
    lock, _ = engine.lock(spool.path, shared=False)
    with lock:
        copying.prepare_blobs(spool.path)
        found, damaged = _bring_blobs(source, spool.path, work, tell)
        copying.sync_blobs(spool.path)
        copying.copy_rest(source, spool.path)
        for name in (ABOUT, CONFIGURATION):
            (spool.path / name).unlink(missing_ok=True)
        if kind == SQLITE:  # last: no node starts on half of a spool
            part = spool.path / (engine.DATABASE + ".part")
            copying.copy_file(database, part)
            part.rename(spool.path / engine.DATABASE)
        sync_folder(spool.path)
    missing = () if spool.blobs else tuple(sorted(set(work) - found))
    return Restored(
        str(spool.path), len(found), **asdict(counts), without_row=len(found - known), missing=missing,
        damaged=tuple(sorted(damaged)), store=_store(spool),
    )  # fmt: skip


def _copy_blobs(spool: Path, target: Path, done: set[str], tell: Tell, *, always_copy: bool) -> int:
    """Copy the blobs that are not in `done` yet. Returns how many were copied and not linked."""
    copied = 0
    for path in copying.blobs_in(spool):
        if path.stem in done:
            continue
        try:
            copied += copying.link_or_copy(path, target / path.relative_to(spool), always_copy=always_copy)
        except FileNotFoundError:  # delivered, and removed meanwhile
            continue
        done.add(path.stem)
        tell(path.stem)
    return copied


def _bring_blobs(source: Path, spool: Path, work: dict[str, copying.Work], tell: Tell) -> tuple[set[str], list[str]]:
    """Copy all blobs. Returns their ids, and the ids of needed ones whose bytes have changed."""
    found: set[str] = set()
    damaged: list[str] = []
    for path in copying.blobs_in(source):
        need = work.get(path.stem)
        digest = copying.copy_file(path, spool / path.relative_to(source), need.offset if need else 0)
        if need and (digest != need.digest or path.stat().st_size != need.offset + need.size):
            damaged.append(path.stem)
        found.add(path.stem)
        tell(path.stem)
    return found, damaged


def _settle(spool: SpoolSettings, database: Path | None, target: Path) -> tuple[list[str], copying.OpenWork]:
    """Note what was delivered meanwhile. Returns instances with open work but no blob in the backup, and its counts."""
    live = engine.reading(spool.path, spool.database)
    copy = copying.engine_of(database) if database else live
    needed = [] if spool.blobs else copying.open_work(copy)
    lacking = [one for one in needed if not copying.blob_in(target, one).exists()]
    delivered = copying.done_meanwhile(live, lacking) if lacking else set()
    if database and delivered:
        copy.dispose()
        copying.note_delivered(database, delivered, time.time())
        copy = copying.engine_of(database)
    counts = copying.count_work(copy)
    copy.dispose()
    live.dispose()
    return sorted(set(lacking) - delivered), counts


def _kind(spool: SpoolSettings) -> str:
    return SQLITE if spool.database == "sqlite" else POSTGRESQL


def _store(spool: SpoolSettings) -> str:
    return spool.blobs.name if spool.blobs else ""


def _must_be_empty(folder: Path, fix: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(path.name not in BESIDE for path in folder.iterdir())):
        raise BackupError(f"{folder} is not empty, or is not a folder; {fix}")


def _write_about(target: Path, result: BackedUp) -> None:
    about = {"format": FORMAT, "made_at": time.time(), **asdict(result)}
    part = target / (ABOUT + ".part")
    with os.fdopen(copying.new_file(part), "w", encoding="utf-8") as file:
        json.dump(about, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.rename(target / ABOUT)
    sync_folder(target)


def _read_about(source: Path) -> dict[str, Any]:
    try:
        about = json.loads((source / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise BackupError(f"{source}: format {about['format']}; a newer dicom-router made this backup")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BackupError(f"{source} is not a complete backup: {ABOUT} is missing or unreadable") from None
    if not isinstance(about.get("database"), str):
        raise BackupError(f"{source / ABOUT} does not say which kind of database the backup has")
    return dict(about)


__all__ = ["BackedUp", "BackupError", "Restored", "SpoolError", "back_up", "restore"]
