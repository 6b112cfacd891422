"""Send files on disk by C-STORE with our own requestor: no spool, no decision, no retry; each file as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.association.requestor import AssociationLostError, ConnectError, Requestor, connect
from router.config.settings import DestinationSettings
from router.dicom.first_elements import MOST, SopUids, UnreadableError, sop_uids
from router.dicom.uids import LONG_VRS, is_uid
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


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What a C-STORE needs to know of a Part 10 file; the data set begins at `offset`.

    The UIDs are the data set's own: some archives give copies a new identity there and forget the meta information.
    """

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    offset: int


def send_files(paths: Sequence[Path], destination: DestinationSettings, calling_ae: str) -> Iterator[Sent]:
    """Send each file, in order; a refused or broken one does not keep the others."""
    for start in range(0, len(paths), GROUP):
        read = [_try_to_read(path) for path in paths[start : start + GROUP]]
        wanted = [(one.sop_class, one.transfer_syntax) for one in read if isinstance(one, FileMeta)]
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


def _store(one: FileMeta, association: Requestor) -> Sent:
    if not association.accepts(one.sop_class, one.transfer_syntax):
        return Sent(one.path, error="the peer accepts no presentation context for it (SOP class, transfer syntax)")
    status = association.store(
        one.path, one.offset, one.path.stat().st_size - one.offset, sop_class=one.sop_class,
        sop_instance=one.sop_instance, transfer_syntax=one.transfer_syntax,
    )  # fmt: skip
    outcome = outcome_of(status)
    return Sent(one.path, status, "" if outcome.fate is Fate.DONE else outcome.reason)


def _try_to_read(path: Path) -> FileMeta | Sent:
    try:
        return read_meta(path)
    except OSError as error:
        return Sent(path, error=error.strerror or type(error).__name__)
    except ValueError as error:
        return Sent(path, error=str(error))


def read_meta(path: Path) -> FileMeta:
    """Raises ValueError (not a Part 10 file, or unreadable) and OSError."""
    from pydicom.filereader import read_file_meta_info

    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                raise ValueError("not a DICOM file (Part 10)")
        meta = read_file_meta_info(path)
        syntax, offset = str(meta.TransferSyntaxUID), data_set_offset(path)
        uids = _own_uids(path, syntax, offset)
        uids = uids or SopUids(str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
        if not (is_uid(uids.sop_class) and is_uid(syntax) and uids.sop_instance.isascii()):
            raise ValueError("its SOP class, transfer syntax or SOP Instance UID is no UID")
        return FileMeta(path, uids.sop_class, uids.sop_instance, syntax, offset)
    except (OSError, ValueError):
        raise
    except Exception as error:  # any reader's failure on a hostile file
        raise ValueError(f"its file meta information cannot be read ({type(error).__name__})") from error


def _own_uids(path: Path, syntax: str, offset: int) -> SopUids | None:
    with path.open("rb") as file:
        file.seek(offset)
        try:
            return sop_uids(file.read(MOST), syntax)
        except UnreadableError:
            return None


def data_set_offset(path: Path, at: int = 132) -> int:
    """Where the data set begins: after the last element of group 0002 (PS3.10 §7.1), whatever its length says, or where
    one comes again: some data sets begin with elements of that group. The end of the file where that is cut.
    """
    end, seen = path.stat().st_size, set[bytes]()
    with path.open("rb") as file:
        while True:
            file.seek(at)
            header = file.read(12)
            if len(header) < 8 or header[:2] != b"\x02\x00" or header[:4] in seen:
                return min(at, end)
            seen.add(header[:4])
            long = header[4:6] in LONG_VRS
            at += 12 + int.from_bytes(header[8:12], "little") if long else 8 + int.from_bytes(header[6:8], "little")
