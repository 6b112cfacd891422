"""How old a patient was at the study, as far as the header can be believed.

PatientAge (0010,1010), PatientBirthDate (0010,0030) and the study's dates may contradict each other. Equipment also
fills them with defaults. So an age here is a span. A default, or a value that no patient can have, is ignored: the
other value counts. If two sound values contradict each other, the age is unknown.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date

from router.flow import Header

PATIENT_AGE = 0x00101010
BIRTH_DATE = 0x00100030
STUDY_DATE = 0x00080020
ACQUISITION_DATE = 0x00080022
CONTENT_DATE = 0x00080023
TAGS = frozenset({PATIENT_AGE, BIRTH_DATE, STUDY_DATE, ACQUISITION_DATE, CONTENT_DATE})

PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
"""How many of each unit of VR AS (PS3.5 §6.2) make a year."""

OLDEST = 120.0
NOT_ENTERED = frozenset({date(1900, 1, 1), date(1970, 1, 1)})
"""Birth dates that software writes if none was entered. A patient really born then has an age by PatientAge alone.
Earlier defaults (0001-01-01, 1753-01-01, 1899-12-30) are beyond OLDEST anyway."""
_AS = re.compile(r"[0-9]{3}[DWMY]")
"""An age as VR AS wants it (PS3.5 §6.2)."""
_LOOSE_AGE = re.compile(r"0*([0-9]{1,3}) *([DWMY])")
"""An unambiguous age that the standard does not allow: `12 Y`, `3y`, `0003Y`. A number without a unit is ambiguous."""
_DATE = re.compile(r"([0-9]{4})([-./]?)([0-9]{2})\2([0-9]{2})")
_ROUNDING = 1e-6
_INSTANT = 1e-4
"""Width in years of an age that is known to the day."""


@dataclass(frozen=True, slots=True)
class Age:
    """A span in years: at least `least`, and below `below`."""

    least: float
    below: float

    def completed(self, unit: str) -> tuple[int, int]:
        """The fewest and the most whole `unit`s (D, W, M, Y) that the patient can have lived."""
        fewest = math.floor(self.least * PER_YEAR[unit] + _ROUNDING)
        most = math.ceil(self.below * PER_YEAR[unit] - _ROUNDING) - 1
        return fewest, most


def age_at_study(header: Header) -> Age | None:
    """The age that PatientAge and birth date agree on. None: they are absent, unreadable or implausible.

    If the two agree, the narrower span counts. If they differ by a year at most, the span that covers both counts.
    If they differ by more, neither counts. A PatientAge that is not written as the standard wants counts only if the
    birth date is absent or ignored.
    """
    text = (_single(header, PATIENT_AGE) or "").upper()
    stated, born = _stated(text), _since_birth(header)
    if born is not None and not _AS.fullmatch(text):
        return born
    return _agreed([reading for reading in (stated, born) if reading is not None])


def _agreed(readings: list[Age]) -> Age | None:
    if not readings:
        return None
    least, below = max(r.least for r in readings), min(r.below for r in readings)
    if least - below > 1.0:
        return None
    if least >= below:
        least, below = min(r.least for r in readings), max(r.below for r in readings)
    return Age(least, below)


def _stated(text: str) -> Age | None:
    """The age that PatientAge says. None for zero: consoles write it if nothing was entered."""
    match = _LOOSE_AGE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        return None
    count, per_year = int(match[1]), PER_YEAR[match[2]]
    return Age(count / per_year, (count + 1) / per_year) if count / per_year <= OLDEST else None


def _since_birth(header: Header) -> Age | None:
    """The age from birth date and study. None for a default, for a birth after the study, or too long before it."""
    born = _date(_single(header, BIRTH_DATE))
    dates = (_date(_single(header, tag)) for tag in (STUDY_DATE, ACQUISITION_DATE, CONTENT_DATE))
    studied = next((found for found in dates if found is not None), None)
    if born is None or studied is None or born in NOT_ENTERED or born > studied:
        return None
    age = _between(born, studied)
    return age if age.least <= OLDEST else None


def _between(born: date, studied: date) -> Age:
    """Whole years by the calendar, so that a limit falls exactly on the birthday."""
    years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    months = (studied.month - born.month - (studied.day < born.day)) % 12
    days = (studied - _plus_months(born, 12 * years + months)).days
    exact = years + months / 12 + max(0, days) / PER_YEAR["D"]
    return Age(exact, exact + _INSTANT)


def _plus_months(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, last)
        except ValueError:
            continue
    return day


def _date(text: str | None) -> date | None:
    match = _DATE.fullmatch(text) if text is not None else None
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def _single(header: Header, tag: int) -> str | None:
    values = header.get(tag)
    return values[0].strip() if values is not None and len(values) == 1 else None
