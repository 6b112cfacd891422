"""The data sets of Storage Commitment (PS3.4 tables J.3-1 and J.3-2): references and failures to bytes and back.

What is read came from a stranger: it is bounded, each length is held against what contains it, and elements that are
not asked for are skipped, however deep they nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from router.dicom.uids import EXPLICIT, LONG_VRS, is_uid

SOP_CLASS, SOP_INSTANCE = 0x00081150, 0x00081155
TRANSACTION, FAILED, FAILURE_REASON, REFERENCED = 0x00081195, 0x00081198, 0x00081197, 0x00081199
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
MOST_REFERENCES = 10_000
DEEPEST = 16

_TAG = Struct("<HH")
_SHORT = Struct("<H")
_LONG = Struct("<I")

Reference = tuple[str, str]
"""SOP class and SOP instance UID."""


class DataSetError(ValueError):
    """The data set is none, lacks what it must have, or has too much."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """A request (no failures) or a report: each reference with its failure reason in `failed`."""

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
    for tag, items in ((FAILED, failed), (REFERENCED, referenced)):
        if items:
            data_set += _element(tag, b"SQ", b"".join(_header(ITEM, len(item)) + item for item in items), explicit)
    return data_set


def decode(data: bytes, transfer_syntax: str) -> Commitment:
    """Read a request or a report. Raises DataSetError."""
    reader = _Reader(data, transfer_syntax == EXPLICIT)
    transaction = ""
    referenced: tuple[Reference, ...] = ()
    failed: dict[Reference, int] = {}
    for tag, start, end in reader.elements(0, len(data), 0):
        if tag == TRANSACTION:
            transaction = reader.uid(start, end)
        elif tag == REFERENCED:
            referenced = tuple(dict.fromkeys(reference for reference, _ in reader.references(start, end)))
        elif tag == FAILED:
            failed = dict(reader.references(start, end))
    if not transaction:
        raise DataSetError("there is no transaction UID")
    return Commitment(transaction, referenced, failed)


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


class _Reader:
    """Walks over a data set without building one."""

    def __init__(self, data: bytes, explicit: bool) -> None:
        self._data = data
        self._explicit = explicit

    def uid(self, start: int, end: int) -> str:
        text = self._data[start : min(end, start + 66)].decode("ascii", "replace").strip("\0 ")
        if not is_uid(text):
            raise DataSetError("a UID is none")
        return text

    def references(self, start: int, end: int) -> Iterator[tuple[Reference, int]]:
        """Each item of a sequence as its reference and failure reason (0: none)."""
        for count, (item, item_end) in enumerate(self.items(start, end)):
            if count >= MOST_REFERENCES:
                raise DataSetError("there are too many references")
            sop_class, instance, reason = "", "", 0
            for tag, at, stop in self.elements(item, item_end, 1):
                if tag == SOP_CLASS:
                    sop_class = self.uid(at, stop)
                elif tag == SOP_INSTANCE:
                    instance = self.uid(at, stop)
                elif tag == FAILURE_REASON and stop - at >= _SHORT.size:
                    (reason,) = _SHORT.unpack_from(self._data, at)
            if not (sop_class and instance):
                raise DataSetError("a reference lacks a UID")
            yield (sop_class, instance), reason

    def items(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of the content of each item between two offsets."""
        at = start
        while at < end:
            tag, at, length = self._plain_header(at, end)
            if tag != ITEM:
                raise DataSetError("a sequence holds something else than items")
            stop = self._end_of_item(at, end, 1) if length == UNDEFINED else at + length
            yield at, stop
            at = stop + (8 if length == UNDEFINED else 0)

    def elements(self, start: int, end: int, depth: int) -> Iterator[tuple[int, int, int]]:
        """(tag, start, end) of the value of each element between two offsets; delimiters are no part of a value."""
        at = start
        while at < end:
            tag, at, length = self._element_header(at, end)
            stop = self._end_of_sequence(at, end, depth + 1) if length == UNDEFINED else at + length
            yield tag, at, stop
            at = stop + (8 if length == UNDEFINED else 0)

    def _end_of_sequence(self, at: int, end: int, depth: int) -> int:
        """The offset of the delimiter of a sequence of undefined length whose items begin at `at`."""
        while True:
            tag, start, length = self._plain_header(at, end)
            if tag == SEQUENCE_END:
                return at
            if tag != ITEM:
                raise DataSetError("a sequence holds something else than items")
            at = self._end_of_item(start, end, depth) + 8 if length == UNDEFINED else start + length

    def _end_of_item(self, at: int, end: int, depth: int) -> int:
        """The same for an item of undefined length."""
        if depth > DEEPEST:
            raise DataSetError("sequences nest too deep")
        while True:
            if self._data[at : at + 4] == _TAG.pack(ITEM_END >> 16, ITEM_END & 0xFFFF):
                self._plain_header(at, end)
                return at
            _, at, length = self._element_header(at, end)
            at = self._end_of_sequence(at, end, depth + 1) + 8 if length == UNDEFINED else at + length

    def _plain_header(self, at: int, end: int) -> tuple[int, int, int]:
        """Tag, start of the value, and its length; as all of Implicit VR, and items anywhere."""
        self._check(at + 8, end)
        group, number = _TAG.unpack_from(self._data, at)
        (length,) = _LONG.unpack_from(self._data, at + 4)
        self._check(at + 8 + (0 if length == UNDEFINED else length), end)
        return group << 16 | number, at + 8, length

    def _element_header(self, at: int, end: int) -> tuple[int, int, int]:
        if not self._explicit:
            return self._plain_header(at, end)
        self._check(at + 8, end)
        group, number = _TAG.unpack_from(self._data, at)
        start, length = at + 8, int(_SHORT.unpack_from(self._data, at + 6)[0])
        if self._data[at + 4 : at + 6] in LONG_VRS:
            self._check(start + 4, end)
            start, length = start + 4, int(_LONG.unpack_from(self._data, start)[0])
        self._check(start + (0 if length == UNDEFINED else length), end)
        return group << 16 | number, start, length

    def _check(self, at: int, end: int) -> None:
        if at > end:
            raise DataSetError("an element is longer than what contains it")


def report_of(transaction: str, outcomes: Iterable[tuple[Reference, int]]) -> Commitment:
    """A report from each reference's outcome: 0 where the archive has committed, else its failure reason."""
    answers = list(outcomes)
    good = tuple(reference for reference, outcome in answers if not outcome)
    return Commitment(transaction, good, {reference: outcome for reference, outcome in answers if outcome})
