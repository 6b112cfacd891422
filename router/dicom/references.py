"""Which instances a data set refers to: what a report, a capture or a segmentation was made of.

Only some sequences are looked into, at any depth. The number of references and of headers is limited. A data set that
cannot be read on refers to what was found so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from pydicom.datadict import dictionary_VR

from router.dicom.data_set import DataSet
from router.dicom.elements import Element, UnparseableError, flat, inner_coding
from router.dicom.uids import LONGEST_UID, is_uid

REFERENCED_INSTANCE = 0x00081155
SEQUENCES = (
    0x0040A375,  # CurrentRequestedProcedureEvidenceSequence
    0x0040A385,  # PertinentOtherEvidenceSequence
    0x00081115,  # ReferencedSeriesSequence
    0x00081140,  # ReferencedImageSequence
    0x0008114A,  # ReferencedInstanceSequence
    0x00082112,  # SourceImageSequence
    0x00089124,  # DerivationImageSequence
    0x00420013,  # SourceInstanceSequence
    0x0040A730,  # ContentSequence
    0x52009229,  # SharedFunctionalGroupsSequence
    0x52009230,  # PerFrameFunctionalGroupsSequence
)
"""In this order: what says most in a few bytes goes first."""
MOST_REFERENCES = 1_000
MOST_HEADERS = 50_000
"""Of all these sequences together."""


def references(data_set: DataSet) -> tuple[str, ...]:
    """The SOP Instance UIDs that the data set refers to, each once. Raises OSError if the file cannot be read."""
    found: dict[str, None] = {}
    for element in islice(_headers(data_set), MOST_HEADERS):
        if element.tag == REFERENCED_INSTANCE and 0 < element.length <= LONGEST_UID + 2:
            uid = data_set.value(element, LONGEST_UID + 2).decode("latin-1").strip("\0 ")
            if is_uid(uid):
                found[uid] = None
        if len(found) >= MOST_REFERENCES:
            break
    return tuple(found)


def _headers(data_set: DataSet) -> Iterator[Element]:
    for tag in SEQUENCES:
        sequence = data_set.elements.get(tag)
        if sequence is not None and sequence.end <= data_set.size:
            with suppress(UnparseableError):
                coding = inner_coding(data_set.stream, sequence, data_set.coding)
                yield from flat(data_set.stream, sequence.offset, sequence.end, coding, _is_sequence)


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False
