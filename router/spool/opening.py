"""Opening the spool, to work or to look: the folder, the lock, the database, and what a crash left behind."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path

from router.config.settings import SpoolSettings
from router.spool import copy_marks, engine, identity
from router.spool.account import as_owner
from router.spool.ballast import Ballast
from router.spool.blobs import BlobStore, make_folder, sync_folder
from router.spool.errors import SpoolError
from router.spool.remote_blobs import FOLDER, RemoteBlobs
from router.spool.spool import Spool
from router.spool.taking_in import survey


def open_spool(settings: SpoolSettings) -> Spool:
    """Make or open the spool and take it for this process. Raises SpoolError: one line with the fix."""
    folder = settings.path
    with ExitStack() as undo:
        try:
            _refuse_a_shared_one(folder)
            make_folder(folder)
            os.chmod(folder, 0o700)
            is_sqlite = settings.database == "sqlite"
            lock, alone = engine.lock(folder, shared=not is_sqlite and settings.blobs is None)
            undo.callback(lock.close)
            blobs = RemoteBlobs(settings) if settings.blobs else BlobStore(folder / "blobs")
            undo.callback(blobs.close)
            blobs.prepare()
            if isinstance(blobs, RemoteBlobs):
                blobs.clean()
            there = survey(blobs, remove_halves=True) if alone and settings.blobs is None else None
            if alone:
                Ballast(folder, settings.reserve).throw_off_if_short()
            if is_sqlite:
                os.close(os.open(folder / engine.DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_folder(folder)
            write = engine.writing(folder, settings.database)
            undo.callback(write.dispose)
            engine.migrate(write, may_be_new=not blobs.has_any())
            copy_marks.refuse_marked(write)
            if not is_sqlite:
                identity.keep_together(write, blobs if isinstance(blobs, RemoteBlobs) else identity.Folder(folder))
            spool = Spool(settings, blobs, engine.reading(folder, settings.database))
            undo.callback(spool.close)
            # With an object store the folder is this node's own, and the database is not.
            spool.start_working(write, lock, there)
        except OSError as error:
            raise SpoolError(
                f"{folder}: {error.strerror}; spool.path must be a folder that this user can write to{as_owner(folder)}"
            ) from error
        undo.pop_all()
    return spool


def read_spool(settings: SpoolSettings) -> Spool:
    """Open a spool to look at it, also while a node works on it. Raises SpoolError if there is none."""
    try:
        if settings.database == "sqlite" and not (settings.path / engine.DATABASE).exists():
            raise SpoolError(f"{settings.path}: no spool here; start the node once, or name another routing.yaml")
    except OSError as error:
        raise SpoolError(f"{settings.path}: {error.strerror}{as_owner(settings.path)}") from error
    blobs = BlobStore(settings.path / (FOLDER if settings.blobs else "blobs"))
    return Spool(settings, blobs, engine.reading(settings.path, settings.database))


class SharedFolderError(SpoolError):
    """Other accounts may write into the folder, and have done so. So it must not be closed to them."""

    exit_code = 2


def _refuse_a_shared_one(folder: Path) -> None:
    if not folder.is_dir() or not folder.stat().st_mode & stat.S_IWOTH:
        return
    if any(folder.iterdir()) and not (folder / engine.LOCK).exists():
        raise SharedFolderError(
            f"{folder}: everybody may write here, and others have; name a folder below it, or chmod it 700 first"
        )
