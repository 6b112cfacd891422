"""Objects without a row: what `dicom-router spool orphans` does. A node may run meanwhile."""

from __future__ import annotations

from router.config.settings import SpoolSettings
from router.spool import read_spool
from router.spool.object_orphans import YOUNG, Looked, TakenIn, look_through, take_in
from router.spool.remote_blobs import RemoteBlobs


def look(settings: SpoolSettings, *, young: float = YOUNG) -> Looked:
    """Raises SpoolError."""
    spool, blobs = read_spool(settings), RemoteBlobs(settings)
    try:
        return look_through(blobs, spool.database.ask, young=young, also_rows=True)
    finally:
        blobs.close()
        spool.close()


def take_in_orphans(settings: SpoolSettings, looked: Looked) -> TakenIn:
    """Raises SpoolError, OSError."""
    settings.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    blobs = RemoteBlobs(settings)
    try:
        return take_in(settings, blobs, looked.orphans)
    finally:
        blobs.close()
