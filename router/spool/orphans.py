"""Blobs without a row, at the start of a node. A crash leaves them, and so does a database older than its blobs.

Nothing is deleted that may have been acknowledged. A whole blob becomes an instance again, by its note (`notes`). A
blob that cannot be verified is set aside for a person. Blobs that were never whole are removed, and so are copies that
can be made again.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_128

from router.dicom.part10 import CREATOR_UID
from router.dicom.uids import DEFLATED
from router.flow import Caller, Instance
from router.spool.blobs import DOUBTED, NATIVE, PART, WHOLE, sync_folder
from router.spool.notes import CREATOR, SOP_CLASS, SOP_INSTANCE, SYNTAX, UnverifiedError, read_header, read_note
from router.spool.states import InstanceState

SET_ASIDE = "set-aside"
"""A folder in the spool's folder."""
REPLACEABLE = (PART, NATIVE)
"""Endings of files that were never acknowledged, or can be made again."""
ID = re.compile(r"[0-9a-f]{32}")
UID = re.compile(r"[0-9.]{1,64}")
MOST_HEADER = 64 * 1024
"""The most bytes of file meta information that are read."""
PIECE = 1 << 20
"""Bytes that are read at once."""


def whole_id(name: str) -> str | None:
    """The instance of a file that is named as its whole blob; None for any other file."""
    return name[:32] if len(name) == 32 + len(WHOLE) and name.endswith(WHOLE) and ID.match(name) else None


@dataclass(frozen=True, slots=True)
class Found:
    """A file among the blobs, and the state of the row with its id, if there is one."""

    path: Path
    state: InstanceState | None

    @property
    def instance_id(self) -> str:
        return self.path.name.partition(".")[0]

    @property
    def may_go(self) -> bool:
        """Whether it may be removed: never whole, or a copy, or refused, or its row no longer needs it."""
        if not ID.fullmatch(self.instance_id):
            return False
        if self.path.suffix in REPLACEABLE:
            return True
        if self._is_whole:
            return self.state == InstanceState.GONE
        return self.path.suffix == DOUBTED and self.state in (None, InstanceState.GONE)

    @property
    def came_back(self) -> bool:
        """Whether it was refused, but a crash has brought its row back."""
        return self.path.suffix == DOUBTED and not self.may_go

    @property
    def is_orphan(self) -> bool:
        """Whether it is whole and has no row."""
        return self.path.suffix == WHOLE and (self.state is None or not self._is_whole)

    @property
    def _is_whole(self) -> bool:
        return self.path.name == self.instance_id + WHOLE


def read_back(path: Path) -> Instance:
    """The verified instance of a blob. Raises UnverifiedError, and OSError if the blob cannot be read."""
    if not ID.fullmatch(path.stem):
        raise UnverifiedError("its name is not one that the spool gives")
    if path.parent.name != path.stem[-2:]:
        raise UnverifiedError("it lies in another folder than its name says")
    # Without waiting: opening a FIFO that nobody writes to would wait for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnverifiedError("it is not a file")
        head = file.read(MOST_HEADER)
        meta, offset = read_header(head)
        if meta.get(CREATOR) == CREATOR_UID:
            return _by_note(path.stem, file, head[:offset], status.st_size, meta)
        return _by_data_set(path, file, offset, status.st_size, meta)


def _by_note(instance_id: str, file: BinaryIO, header: bytes, file_size: int, meta: dict[int, str]) -> Instance:
    note = read_note(header)
    if note is None:
        raise UnverifiedError("its header has changed, or was never finished")
    if note.instance_id != instance_id:
        raise UnverifiedError("it is another instance than its name says")
    if note.size != file_size - len(header):
        raise UnverifiedError("it is shorter or longer than what was received")
    if _digest(file, len(header)) != note.digest:
        raise UnverifiedError("its bytes have changed since they were received")
    return Instance(
        id=instance_id, received_at=note.received_at, caller=note.caller, sop_class=meta[SOP_CLASS],
        sop_instance=meta[SOP_INSTANCE], transfer_syntax=meta[SYNTAX], offset=len(header), size=note.size,
        digest=note.digest,
    )  # fmt: skip


def _by_data_set(path: Path, file: BinaryIO, offset: int, file_size: int, meta: dict[int, str]) -> Instance:
    """A blob of an earlier version has no note. It counts if its data set reads to its end. Its caller is lost."""
    if not all(UID.fullmatch(meta.get(element, "")) for element in (SOP_CLASS, SOP_INSTANCE, SYNTAX)):
        raise UnverifiedError("it is not a file of this spool")
    if meta[SYNTAX] == DEFLATED:
        raise UnverifiedError("an earlier version wrote it, and what is deflated cannot be verified")
    _read_to_the_end(path, file_size, meta)
    return Instance(
        id=path.stem, received_at=int(path.stem[:16], 16) / 1e9, caller=Caller("", "", ""),
        sop_class=meta[SOP_CLASS], sop_instance=meta[SOP_INSTANCE], transfer_syntax=meta[SYNTAX], offset=offset,
        size=file_size - offset, digest=_digest(file, offset),
    )  # fmt: skip


def _read_to_the_end(path: Path, file_size: int, meta: dict[int, str]) -> None:
    from router.dicom.data_set import open_data_set
    from router.dicom.elements import UnparseableError

    try:
        data_set = open_data_set(path)
    except UnparseableError as error:
        raise UnverifiedError(str(error)) from None
    try:
        uids = [data_set.value(data_set.elements[tag], 64).decode("latin-1") for tag in (0x00080016, 0x00080018)]
        if [uid.strip("\0 ") for uid in uids] != [meta[SOP_CLASS], meta[SOP_INSTANCE]]:
            raise UnverifiedError("its data set is another instance than its header says")
        if data_set.broken:
            raise UnverifiedError(data_set.broken)
        if max(element.offset + element.length for element in data_set.elements.values()) > file_size:
            raise UnverifiedError("the data set ends within an element")
    except KeyError:
        raise UnverifiedError("its data set has no SOP UIDs") from None
    finally:
        data_set.close()


def _digest(file: BinaryIO, offset: int) -> str:
    digest = xxh3_128()
    file.seek(offset)
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def set_aside(path: Path, folder: Path) -> Path:
    """Move a file out of the blobs, durably, and never over another file. Returns its new place."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        sync_folder(folder.parent)
    numbered = (f"{path.stem}-{number}{path.suffix}" for number in itertools.count(2))
    names = itertools.chain([path.name], numbered)
    target = next(folder / name for name in names if not os.path.lexists(folder / name))
    os.rename(path, target)
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def count_in(folder: Path) -> int:
    """How many files are set aside."""
    try:
        with os.scandir(folder) as entries:
            return sum(not entry.is_dir(follow_symlinks=False) for entry in entries)
    except FileNotFoundError:
        return 0
