"""Send files on disk by C-STORE with the node's own requestor: no spool, no decision, no retry; each file as it is."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.association.requestor import AssociationLostError, ConnectError, Requestor, connect
from router.config.settings import DestinationSettings
from router.dicom.elements import UnparseableError
from router.dicom.first_elements import MOST, UnreadableError, sop_uids
from router.dicom.part10 import (
    MEDIA_SOP_CLASS,
    MEDIA_SOP_INSTANCE,
    PREAMBLE,
    TRANSFER_SYNTAX,
    file_meta_elements,
    has_preamble,
    meta_text,
)
from router.dicom.uids import is_uid
from router.flow import StoredFile
from router.forward.outcomes import Fate, outcome_of

GROUP = 64
"""Files whose presentation contexts are proposed together."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one file; `error` is empty where it arrived."""

    path: Path
    status: int | None = None
    error: str = ""

    @property
    def arrived(self) -> bool:
        return not self.error


def send_files(paths: Sequence[Path], destination: DestinationSettings, calling_ae: str) -> Iterator[Sent]:
    """Send each file, in order; a refused or broken one does not keep the others."""
    for start in range(0, len(paths), GROUP):
        read = [_try_to_read(path) for path in paths[start : start + GROUP]]
        wanted = [(one.sop_class, one.transfer_syntax) for one in read if isinstance(one, StoredFile)]
        association: Requestor | None = None
        for one in read:
            if isinstance(one, Sent):
                yield one
                continue
            try:
                association = association or connect(destination, calling_ae, wanted)
                yield _store(one, association)
            except ConnectError as error:
                yield Sent(one.path, error=error.reason)
            except AssociationLostError as error:
                yield Sent(one.path, error=str(error))
                if association:
                    association.abort()
                association = None
        if association:
            association.release()


def _store(one: StoredFile, association: Requestor) -> Sent:
    if not association.accepts(one.sop_class, one.transfer_syntax):
        return Sent(one.path, error="the peer accepts no presentation context for its SOP class and transfer syntax")
    status = association.store(one)
    outcome = outcome_of(status)
    return Sent(one.path, status, "" if outcome.fate is Fate.DONE else outcome.reason)


def _try_to_read(path: Path) -> StoredFile | Sent:
    try:
        return read_meta(path)
    except OSError as error:
        return Sent(path, error=error.strerror or type(error).__name__)
    except ValueError as error:
        return Sent(path, error=str(error))


def read_meta(path: Path) -> StoredFile:
    """What a C-STORE of a Part 10 file needs to know. Raises ValueError (not one, or unreadable) and OSError.

    The UIDs are the data set's own: some archives give copies a new identity there and forget the meta information.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not has_preamble(file.read(PREAMBLE)):
            raise ValueError("not a DICOM file (Part 10)")
        try:
            meta = file_meta_elements(file, PREAMBLE, size)
        except UnparseableError as error:
            raise ValueError(f"its file meta information cannot be read: {error}") from None
        syntax, sop_class, instance = (
            meta_text(file, meta, tag) for tag in (TRANSFER_SYNTAX, MEDIA_SOP_CLASS, MEDIA_SOP_INSTANCE)
        )
        offset = min(size, max((element.end for element in meta.values()), default=PREAMBLE))
        file.seek(offset)
        try:
            uids = sop_uids(file.read(MOST), syntax)
            sop_class, instance = uids.sop_class, uids.sop_instance
        except UnreadableError:
            if MEDIA_SOP_CLASS not in meta or MEDIA_SOP_INSTANCE not in meta:
                raise ValueError("its SOP class or SOP Instance UID is absent") from None
    if not (is_uid(sop_class) and is_uid(syntax) and instance.isascii()):
        raise ValueError("its SOP class, transfer syntax or SOP Instance UID is not a UID")
    return StoredFile(path, offset, size - offset, sop_class, instance, syntax)
