"""DICOM keywords that a rule may ask for, and those that would make routing depend on who the patient is."""

from __future__ import annotations

import re
from functools import cache

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_dict, keyword_for_tag

from router.config.problems import nearest
from router.config.values import WrongError
from router.decide.conditions import Private

_TAG = re.compile(r"\(([0-9A-Fa-f]{4}), ?([0-9A-Fa-f]{4})\)")
_PRIVATE = re.compile(r"\(([0-9A-Fa-f]{4}), ?([^\\]{1,64}), ?([0-9A-Fa-f]{2})\)")

_PATIENT_GROUP = 0x0010
_NOT_IDENTIFYING = frozenset(
    {0x00100040, 0x00101020, 0x00101030, 0x00102201, 0x00102203, 0x001021A0, 0x001021C0, 0x00102000, 0x00102110}
)
"""Sex, size, weight, species, sex neutered, smoking, pregnancy, alerts, allergies."""

_IDENTIFYING = frozenset(
    {
        0x00080018,  # SOPInstanceUID
        0x00080050,  # AccessionNumber
        0x0020000D,  # StudyInstanceUID
        0x0020000E,  # SeriesInstanceUID
        0x00200010,  # StudyID
        0x00321066,  # ReasonForVisit
        0x00380010,  # AdmissionID
        0x00380060,  # ServiceEpisodeID
        0x00380300,  # CurrentPatientLocation
        0x00380400,  # PatientInstitutionResidence
        0x00400009,  # ScheduledProcedureStepID
        0x00401001,  # RequestedProcedureID
        0x00401400,  # RequestedProcedureComments
        0x00402016,  # PlacerOrderNumberImagingServiceRequest
        0x00402017,  # FillerOrderNumberImagingServiceRequest
        0x00204000,  # ImageComments
        0x40080114,  # PhysicianApprovingInterpretation
    }
)
_INSTEAD = {0x00101010: "age", 0x00080016: "sop_class", 0x00280008: "frames", 0x7FE00010: "pixels"}
_SHAPELESS = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW"})


def element(written: str) -> tuple[int, str]:
    """(tag, name for messages) of a keyword or `(gggg,eeee)` that a rule may use. Raises WrongError."""
    match = _TAG.fullmatch(written)
    if match:
        tag = int(match[1] + match[2], 16)
    elif written in keyword_dict:
        tag = keyword_dict[written]
    else:
        raise WrongError(f"'{written}' is neither a condition nor a DICOM keyword", "")
    if tag >> 16 in (0x0000, 0x0002):
        raise WrongError(f"'{written}' is not an element of the data set", "use sop_class, calling_ae or called_ae")
    if tag in _INSTEAD:
        raise WrongError(f"'{written}' has its own condition", f"use {_INSTEAD[tag]}")
    if identifies(tag):
        raise WrongError(f"'{written}' identifies a patient", "rules must not depend on who the patient is")
    return tag, keyword_for_tag(tag) or f"({tag >> 16:04x},{tag & 0xFFFF:04x})"


def private(written: str) -> Private | None:
    """`(gggg,CREATOR,ee)`: an element of a maker's private block; None for anything else. Raises WrongError."""
    match = _PRIVATE.fullmatch(written)
    if match is None or not match[2].strip():
        return None
    group = int(match[1], 16)
    if group % 2 == 0 or group in (0x0001, 0x0003, 0x0005, 0x0007, 0xFFFF):
        raise WrongError(f"'{written}' is not in a private group", "private groups are odd, from 0009 on")
    return Private(group, match[2].strip(), int(match[3], 16))


def has_one_value(tag: int) -> bool:
    """Whether the element is a code, for which the standard allows one value only."""
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "CS" and dictionary_VM(tag) == "1"


def identifies(tag: int) -> bool:
    """Whether an element tells who the patient is: its group, its meaning, or any person's name."""
    if tag in _IDENTIFYING or (tag >> 16 == _PATIENT_GROUP and tag not in _NOT_IDENTIFYING):
        return True
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "PN"


def is_text(tag: int) -> bool:
    """Whether the element's value can be compared as text; sequences and binary elements can only exist."""
    return not (dictionary_has_tag(tag) and dictionary_VR(tag) in _SHAPELESS)


def nearest_name(written: str, conditions: frozenset[str]) -> str:
    """The nearest condition or keyword that a rule may use."""
    return nearest(written, [*conditions, *_allowed()])


@cache
def _allowed() -> tuple[str, ...]:
    """The keywords that a rule may use."""
    return tuple(word for word, tag in keyword_dict.items() if word and not identifies(tag) and tag not in _INSTEAD)
