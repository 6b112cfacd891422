"""Small instances by the hundred, each with a UID of its own, and one way to send them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from router.association.requestor import connect
from router.config.settings import DestinationSettings
from router.flow import StoredFile
from tests.chaos.traffic import SOP_CLASS, SYNTAX, UID_MARK, template

NUMBERS = itertools.count(10**38)


def instance_file(path: Path, sop_class: str = SOP_CLASS) -> StoredFile:
    """A data set alone, Explicit VR Little Endian, of 32 x 24 pixels."""
    uid = f"2.25.{next(NUMBERS)}"
    assert len(uid) == len(UID_MARK)
    mark, named = (_sop_class_element(one) for one in (SOP_CLASS, sop_class))
    path.write_bytes(template().replace(UID_MARK.encode(), uid.encode()).replace(mark, named, 1))
    return StoredFile(path, 0, path.stat().st_size, sop_class, uid, SYNTAX)


def instance_files(folder: Path, count: int) -> list[StoredFile]:
    folder.mkdir(exist_ok=True)
    return [instance_file(folder / f"{n}") for n in range(count)]


def store_all(metas: Sequence[StoredFile], to: DestinationSettings, calling_ae: str = "MODALITY") -> list[int]:
    """The statuses of C-STORE on one association. Raises ConnectError, AssociationLostError."""
    association = connect(to, calling_ae, [(meta.sop_class, meta.transfer_syntax) for meta in metas])
    statuses = [association.store(meta) for meta in metas]
    association.release()
    return statuses


def _sop_class_element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x08\0\x16\0UI" + len(value).to_bytes(2, "little") + value
