"""What a decision keeps of the header, so that other rules can be tried on it when the blob is gone.

It keeps a fixed list of elements that describe a picture and the machine, and every element that a rule has named.
It never keeps who the patient is: no rule can name such an element. Of the age it keeps a span as wide as the rules
allow; a birth date, or an age to the day, would be an identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.decide.age import PER_YEAR, Age, age_at_study
from router.decide.conditions import AgeIs, parts
from router.decide.table import RuleTable
from router.flow import Header

VERSION = 1
"""Of the list below. A change of the list needs a new number, and the old list beside it: rows say which they had."""

FIXED_TAGS: dict[int, frozenset[int]] = {
    1: frozenset({
        0x00080005,  # SpecificCharacterSet
        0x00080008,  # ImageType
        0x00080060,  # Modality
        0x00080064,  # ConversionType
        0x00080068,  # PresentationIntentType
        0x00080070,  # Manufacturer
        0x00080080,  # InstitutionName
        0x00081010,  # StationName
        0x00081030,  # StudyDescription
        0x0008103E,  # SeriesDescription
        0x00081040,  # InstitutionalDepartmentName
        0x00081090,  # ManufacturerModelName
        0x00082218,  # AnatomicRegionSequence: that it is there
        0x00100040,  # PatientSex
        0x00180015,  # BodyPartExamined
        0x00180060,  # KVP
        0x00181000,  # DeviceSerialNumber
        0x00181020,  # SoftwareVersions
        0x00181030,  # ProtocolName
        0x00181164,  # ImagerPixelSpacing
        0x00181166,  # Grid
        0x00181400,  # AcquisitionDeviceProcessingDescription
        0x00181401,  # AcquisitionDeviceProcessingCode
        0x00181508,  # PositionerType
        0x00185100,  # PatientPosition
        0x00185101,  # ViewPosition
        0x00187004,  # DetectorType
        0x00200020,  # PatientOrientation
        0x00200060,  # Laterality
        0x00200062,  # ImageLaterality
        0x00280002,  # SamplesPerPixel
        0x00280004,  # PhotometricInterpretation
        0x00280008,  # NumberOfFrames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280101,  # BitsStored
        0x00280301,  # BurnedInAnnotation
        0x00281040,  # PixelIntensityRelationship
        0x20500020,  # PresentationLUTShape
        0x00321060,  # RequestedProcedureDescription
        0x00400254,  # PerformedProcedureStepDescription
    }),
}  # fmt: skip
MOST_CHARACTERS = 4096
"""Of all values of one decision together."""
YEARS_FROM, MONTHS_FROM = 3.0, 0.25
"""Ages in years from which an age is kept in whole years, and in whole months; below, in whole weeks."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Asked:
    """What the rules of a table ask of a header: elements; and ages, in years, at which an answer changes."""

    tags: frozenset[int]
    ages: frozenset[float]


NOTHING_ASKED = Asked(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What is kept of one header. `whole`: no value was left out for its length."""

    values: Header
    age: Age | None
    whole: bool = True
    version: int = VERSION

    def missing(self, wanted: frozenset[int], asked: Asked) -> frozenset[int]:
        """The elements among `wanted` of which it is not known what the header said; `asked`: by the rules of then."""
        if not self.whole:
            return wanted - self.values.keys()
        return wanted - asked.tags - FIXED_TAGS.get(self.version, frozenset()) - self.values.keys()


def asked(table: RuleTable) -> Asked:
    """What the rules of a table ask for."""
    tags: set[int] = set()
    ages: set[float] = set()
    for rule in table.rules:
        for part in parts(rule.when):
            if isinstance(part, AgeIs):
                ages.update(part.changes_at)
            else:
                tags.update(part.tags)
    return Asked(frozenset(tags), frozenset(ages))


def facts_of(header: Header, beyond: Asked) -> HeaderFacts:
    """What is kept of a header. `beyond`: what the rules ask for. It goes before the fixed list where room is short."""
    values: dict[int, tuple[str, ...] | None] = {}
    room, whole = MOST_CHARACTERS, True
    for tag in dict.fromkeys((*beyond.tags, *FIXED_TAGS[VERSION])):
        if tag not in header:
            continue
        value = header[tag]
        takes = 12 + sum(len(text) + 4 for text in value or ())
        if takes > room:
            whole = False
            continue
        room -= takes
        values[tag] = value
    return HeaderFacts(values, _coarse(age_at_study(header), beyond.ages), whole)


def _coarse(age: Age | None, changes: frozenset[float]) -> Age | None:
    """The span in whole years (months, weeks) around an age, cut where an answer of the rules changes.

    So each of these rules gets the answer that the age itself gave, and nothing finer is kept.
    """
    if age is None:
        return None
    unit = "Y" if age.least >= YEARS_FROM else "M" if age.least >= MONTHS_FROM else "W"
    fewest, most = age.completed(unit)
    least, below = fewest / PER_YEAR[unit], (most + 1) / PER_YEAR[unit]
    for change in changes:
        if change <= age.least + _ROUNDING:
            least = max(least, change)
        elif change >= age.below - _ROUNDING:
            below = min(below, change)
    return Age(least, below) if least < below and math.isfinite(below) else age
