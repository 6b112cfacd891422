"""An age counts only where the header is believable, and a limit falls on the birthday."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide.age import ACQUISITION_DATE, BIRTH_DATE, CONTENT_DATE, PATIENT_AGE, STUDY_DATE, age_at_study
from router.decide.conditions import AgeIs, Facts
from router.flow import Caller, Header, Instance, Seen

INSTANCE = Instance("0" * 32, 0.0, Caller("A", "B", "10.0.0.1"), "1.2", "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")


def header(age: str = "", born: str = "", studied: str = "20240615") -> Header:
    elements = {PATIENT_AGE: age, BIRTH_DATE: born, STUDY_DATE: studied}
    return {tag: (value,) for tag, value in elements.items() if value}


def holds(condition: AgeIs, found: Header) -> bool | None:
    return condition.holds(Facts(INSTANCE, Seen("decoded", found)))


@pytest.mark.parametrize(
    ("found", "child"),
    [
        (header("015Y"), True),
        (header("016Y"), False),
        (header("015y"), True),
        (header("15Y"), True),
        (header("191M"), True),
        (header("192M"), False),
        (header("003D"), True),
        (header("900W"), False),
        (header("104Y"), False),
        (header(born="20080615"), False),
        (header(born="20080616"), True),
        (header(born="2008.06.15"), False),
        (header("015Y", "20080616"), True),
        (header("016Y", "20080615"), False),
        # The two differ by less than a year, and the limit lies between them.
        (header("016Y", "20080616"), None),
        (header("015Y", "20080201"), None),
        (header("014Y", "20090601"), True),
    ],
)
def test_sixteen_begins_on_the_sixteenth_birthday(found: Header, child: bool | None) -> None:
    assert holds(AgeIs("<", 16, "Y"), found) is child
    assert holds(AgeIs(">=", 16, "Y"), found) is (None if child is None else not child)


@pytest.mark.parametrize(
    "found",
    [
        header(),
        header("000Y"),
        header("000D"),
        header("121Y"),
        header("999Y"),
        header("45"),
        header("045X"),
        header("04510Y"),
        header("-45Y"),
        header("٠٤٥Y"),
        header(born="19030614"),
        header(born="20240616"),
        header(born="19000000"),
        header("045Y", "19900615"),
        header("005Y", "19790615"),
        header("010Y", "20120614"),
        header(born="19790615", studied=""),
        {PATIENT_AGE: None},
        {PATIENT_AGE: ("045Y", "046Y")},
        header(born="19000101", studied="20040615"),
        header(born="19700101"),
        header(born="00010101"),
        header(born="2008-06.15"),
        header(born="15.06.2008"),
        header("45", "20240616"),
        header("000Y", "19000101", studied="20040615"),
    ],
)
def test_what_no_reading_says_soundly_is_unknown(found: Header) -> None:
    assert age_at_study(found) is None
    assert holds(AgeIs(">=", 0, "Y"), found) is None


BORN_3 = {"born": "20210101"}


@pytest.mark.parametrize(
    ("found", "years"),
    [
        # A default or a loose PatientAge beside a good birth date: the birth date counts.
        *((header(age, **BORN_3), 3) for age in ("000Y", "000D", "999Y", "45", "045", "3", "12 Y", "0003Y", "ADULT")),
        (header("000D", "20240615"), 0),
        (header("000Y", "20240101"), 0),
        ({PATIENT_AGE: None, BIRTH_DATE: ("20210101",), STUDY_DATE: ("20240615",)}, 3),
        ({PATIENT_AGE: ("003Y", "004Y"), BIRTH_DATE: ("20210101",), STUDY_DATE: ("20240615",)}, 3),
        # A default or unreadable birth date beside a good PatientAge: that counts.
        *((header("045Y", born), 45) for born in ("19000101", "19700101", "00010101", "18991230", "20240616", "x")),
        ({PATIENT_AGE: ("045Y",), BIRTH_DATE: None}, 45),
        (header("045Y", "19790615", studied="19700101"), 45),
        # Loose, but plain, and nothing else.
        *((header(age), 12) for age in ("12 Y", "12y", "0012Y", " 012Y ")),
        # Dates as forms write them.
        *((header(born=born), 3) for born in ("2021-01-01", "2021.01.01", "2021/01/01")),
    ],
)
def test_of_several_readings_the_sound_one_counts(found: Header, years: int) -> None:
    age = age_at_study(found)
    assert age is not None
    assert age.completed("Y") == (years, years)


def test_two_sound_readings_that_contradict_each_other_leave_the_age_unknown() -> None:
    assert age_at_study(header("045Y", "20210101")) is None


@pytest.mark.parametrize("tag", [ACQUISITION_DATE, CONTENT_DATE])
def test_other_dates_stand_in_for_the_studys(tag: int) -> None:
    assert holds(AgeIs("==", 16, "Y"), {BIRTH_DATE: ("20080615",), tag: ("20240615",)}) is True
    assert holds(AgeIs("==", 16, "Y"), {BIRTH_DATE: ("20080615",), STUDY_DATE: (), tag: ("20240615",)}) is True


def test_an_empty_element_is_an_absent_one() -> None:
    assert holds(AgeIs("<", 16, "Y"), {PATIENT_AGE: ("010Y",), BIRTH_DATE: ()}) is True


@pytest.mark.parametrize(
    ("condition", "found", "answer"),
    [
        (AgeIs("<=", 16, "Y"), header("016Y"), True),
        (AgeIs(">", 16, "Y"), header("016Y"), False),
        (AgeIs("<", 18, "M"), header("017M"), True),
        (AgeIs("<", 18, "M"), header("018M"), False),
        (AgeIs("<", 18, "M"), header("001Y"), None),
        (AgeIs("==", 18, "M"), header("001Y"), None),
        (AgeIs("!=", 30, "M"), header("001Y"), True),
        (AgeIs("<", 18, "M"), header("001Y", "20230101"), True),
        (AgeIs("<", 28, "D"), header(born="20240519"), True),
        (AgeIs("<", 28, "D"), header(born="20240518"), False),
        (AgeIs("<", 4, "W"), header("027D"), True),
        (AgeIs("<", 4, "W"), header("028D"), False),
        (AgeIs("==", 0, "D"), header(born="20240615"), True),
        (AgeIs("<", 170, "M"), header("014Y", "20110401"), None),
    ],
)
def test_units_are_completed_ones(condition: AgeIs, found: Header, answer: bool | None) -> None:
    assert holds(condition, found) is answer


def completed_years(born: date, studied: date) -> int:
    return studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))


@settings(deadline=None)
@given(st.dates(date(1990, 1, 1), date(2024, 12, 31)), st.dates(date(1990, 1, 1), date(2024, 12, 31)))
def test_the_calendar_counts_the_years(one: date, other: date) -> None:
    born, studied = sorted((one, other))
    age = age_at_study(header(born=f"{born:%Y%m%d}", studied=f"{studied:%Y%m%d}"))
    years = completed_years(born, studied)
    assert age is not None
    assert age.completed("Y") == (years, years)


def test_a_unit_is_one_of_four() -> None:
    with pytest.raises(ValueError, match="D, W, M or Y"):
        AgeIs("<", 16, "X")
