"""The data sets of Storage Commitment (PS3.4 tables J.3-1, J.3-2): from references and failures to bytes and back."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from router.dicom.elements import ITEM, Coding, Element, UnparseableError, inner_coding, items, walk
from router.dicom.uids import EXPLICIT, LONG_VRS, LONGEST_UID, is_uid

SOP_CLASS, SOP_INSTANCE = 0x00081150, 0x00081155
TRANSACTION, FAILED, FAILURE_REASON, REFERENCED = 0x00081195, 0x00081198, 0x00081197, 0x00081199
MOST_REFERENCES = 10_000
"""The most references in one request or report, and in one sequence of it."""

_TAG = Struct("<HH")
_SHORT = Struct("<H")
_LONG = Struct("<I")

Reference = tuple[str, str]
"""SOP class and SOP instance UID."""


class DataSetError(ValueError):
    """The data set cannot be read, lacks what it must have, or has too much. The message is a fixed text."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request (without failures) or a report. `failed` maps references to failure reasons."""

    transaction: str
    referenced: tuple[Reference, ...] = ()
    failed: dict[Reference, int] = field(default_factory=dict)


def encode(commitment: Commitment, transfer_syntax: str) -> bytes:
    """The data set in Implicit or Explicit VR Little Endian. A sequence without items is left out (type 1C)."""
    explicit = transfer_syntax == EXPLICIT
    failed = [
        _uids(reference, explicit) + _element(FAILURE_REASON, b"US", _SHORT.pack(reason), explicit)
        for reference, reason in commitment.failed.items()
    ]
    referenced = [_uids(reference, explicit) for reference in commitment.referenced]
    data_set = _element(TRANSACTION, b"UI", _padded(commitment.transaction), explicit)
    for tag, contents in ((FAILED, failed), (REFERENCED, referenced)):
        if contents:
            data_set += _element(tag, b"SQ", b"".join(_header(ITEM, len(one)) + one for one in contents), explicit)
    return data_set


def decode(data: bytes, transfer_syntax: str) -> Commitment:
    """Read a request or a report. Raises DataSetError."""
    coding, stream = Coding(transfer_syntax == EXPLICIT), io.BytesIO(data)
    transaction = ""
    referenced: tuple[Reference, ...] = ()
    failed: dict[Reference, int] = {}
    try:
        for element in walk(stream, 0, len(data), coding):
            if element.tag == TRANSACTION:
                transaction = _uid(stream, element)
            elif element.tag == REFERENCED:
                referenced = tuple(dict.fromkeys(reference for reference, _ in _references(stream, element, coding)))
            elif element.tag == FAILED:
                failed = dict(_references(stream, element, coding))
    except UnparseableError as problem:
        raise DataSetError(str(problem)) from None
    if not transaction:
        raise DataSetError("there is no transaction UID")
    return Commitment(transaction, referenced, failed)


def _references(stream: io.BytesIO, sequence: Element, outer: Coding) -> Iterator[tuple[Reference, int]]:
    """Each item of a sequence as its reference and failure reason (0: none)."""
    coding = inner_coding(stream, sequence, outer)
    for count, item in enumerate(items(stream, sequence.offset, sequence.end, coding)):
        if count >= MOST_REFERENCES:
            raise DataSetError("there are too many references")
        sop_class, instance, reason = "", "", 0
        for element in walk(stream, item.offset, item.end, coding, item=True):
            if element.tag == SOP_CLASS:
                sop_class = _uid(stream, element)
            elif element.tag == SOP_INSTANCE:
                instance = _uid(stream, element)
            elif element.tag == FAILURE_REASON and element.length >= _SHORT.size:
                stream.seek(element.offset)
                (reason,) = _SHORT.unpack(stream.read(_SHORT.size))
        if not (sop_class and instance):
            raise DataSetError("a reference lacks a UID")
        yield (sop_class, instance), reason


def _uid(stream: io.BytesIO, element: Element) -> str:
    stream.seek(element.offset)
    text = stream.read(min(element.length, LONGEST_UID + 2)).decode("ascii", "replace").strip("\0 ")
    if not is_uid(text):
        raise DataSetError("a UID is not one")
    return text


def _uids(reference: Reference, explicit: bool) -> bytes:
    sop_class, instance = map(_padded, reference)
    return _element(SOP_CLASS, b"UI", sop_class, explicit) + _element(SOP_INSTANCE, b"UI", instance, explicit)


def _padded(uid: str) -> bytes:
    return uid.encode("ascii") + b"\0" * (len(uid) % 2)


def _header(tag: int, length: int) -> bytes:
    return _TAG.pack(tag >> 16, tag & 0xFFFF) + _LONG.pack(length)


def _element(tag: int, vr: bytes, value: bytes, explicit: bool) -> bytes:
    if not explicit:
        return _header(tag, len(value)) + value
    length = b"\0\0" + _LONG.pack(len(value)) if vr in LONG_VRS else _SHORT.pack(len(value))
    return _TAG.pack(tag >> 16, tag & 0xFFFF) + vr + length + value


def report_of(transaction: str, outcomes: Iterable[tuple[Reference, int]]) -> Commitment:
    """Make a report from the outcome of each reference: 0 if the archive has committed, else its failure reason."""
    answers = list(outcomes)
    good = tuple(reference for reference, outcome in answers if not outcome)
    return Commitment(transaction, good, {reference: outcome for reference, outcome in answers if outcome})
