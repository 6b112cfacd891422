"""Times of the week, by the clock on the wall: as a condition of a rule, and as the hours of a destination."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import ConfigError, load
from router.config.hours import hours
from router.config.values import WrongError
from router.decide import decide
from router.flow import Instance, Seen
from tests.unit.spooling import CALLERS

BERLIN = "Europe/Berlin"


def at(written: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(written).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(("written", "inside", "outside"), [
    ("08:00-18:00", ["2026-11-30 08:00", "2026-11-29 17:59"], ["2026-11-30 18:00", "2026-11-30 07:59"]),
    ("08:00-18:00 Mon-Fri", ["2026-11-30 08:00"], ["2026-11-29 12:00", "2026-11-28 12:00"]),
    ("18:00-07:00 Mon-Fri", ["2026-11-30 18:00", "2026-12-05 06:59"], ["2026-11-30 06:59", "2026-12-05 18:00"]),
    ("00:00-24:00 Sat,Sun", ["2026-11-28 00:00", "2026-11-29 23:59"], ["2026-11-30 00:00"]),
    ("00:00-00:00 Fri-Mon", ["2026-11-27 12:00", "2026-11-30 12:00"], ["2026-12-01 12:00"]),
    ("22:00-06:00 Sun", ["2026-11-29 22:00", "2026-11-30 05:59"], ["2026-11-29 05:59", "2026-11-30 22:00"]),
])  # fmt: skip
def test_what_lies_in_them(written: str, inside: list[str], outside: list[str]) -> None:
    one = hours(f"{written} {BERLIN}")
    assert [one.holds(at(when)) for when in inside] == [True] * len(inside)
    assert [one.holds(at(when)) for when in outside] == [False] * len(outside)


def test_summer_time_goes_by_the_clock_on_the_wall() -> None:
    """On 29 March 2026 a day has 23 hours, on 25 October 25."""
    one = hours(f"03:00-04:00 {BERLIN}")
    assert one.next_begin(at("2026-03-28 12:00")) == at("2026-03-29 03:00")
    assert at("2026-03-29 03:00") - at("2026-03-29 01:00") == 3600
    assert one.next_begin(at("2026-10-24 12:00")) == at("2026-10-25 03:00")
    assert at("2026-10-25 03:00") - at("2026-10-25 00:00") == 4 * 3600
    skipped = hours(f"02:30-04:00 {BERLIN}")
    assert skipped.holds(skipped.next_begin(at("2026-03-28 12:00")))
    assert hours("08:00-09:00 America/New_York").holds(at("2026-11-30 14:30"))


@given(
    st.integers(0, 1439), st.integers(0, 1440), st.sets(st.sampled_from(["Mon", "Wed", "Sat", "Sun"]), min_size=1),
    st.integers(1_700_000_000, 1_900_000_000),
)  # fmt: skip
def test_they_begin_next_when_they_hold_again(begin: int, end: int, days: set[str], now: int) -> None:
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02} {','.join(sorted(days))} Asia/Tokyo"
    one = hours(text)
    then = one.next_begin(now)
    assert now < then <= now + 8 * 86400
    assert one.holds(then)
    if not one.holds(now):  # nothing is missed before
        assert not any(one.holds(now + step * 600) for step in range(int(then - now) // 600))


@pytest.mark.parametrize("written", [
    "", "8-18", "08:00", "08:60-09:00", "25:00-26:00", "24:00-08:00", "08:00-18:00 Mo", "08:00-18:00 Mon-",
    "08:00-18:00 Mon Europe/Nowhere", "08:00-18:00 ../../etc/passwd", "08:00-18:00 Abc", "08:00-18:00 Mon x y",
])  # fmt: skip
def test_other_words_are_refused(written: str) -> None:
    with pytest.raises(WrongError):
        hours(written)


def test_the_time_of_receipt_is_a_condition(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("""
destinations:
  night-ai: {ae_title: A, host: 127.0.0.1, port: 104}
  pacs: {ae_title: B, host: 127.0.0.1, port: 105}
rules:
  - {name: at night, when: {time: "18:00-07:00 Mon-Fri Europe/Berlin"}, send: night-ai}
otherwise: {send: pacs}
""")
    loaded = load(file, {})
    for when, rule in (("2026-11-30 19:00", "at night"), ("2026-11-30 12:00", "otherwise")):
        one = Instance("0" * 32, at(when), CALLERS[0], "1.2", "1.2", "1.2", 0, 0, "")
        assert decide(loaded.rules, one, Seen("none"), enabled=loaded.enabled).rule == rule
    file.write_text(file.read_text().replace("Mon-Fri", "Mon-Fry"))
    with pytest.raises(ConfigError, match="'Fry' is not a day"):
        load(file, {})
