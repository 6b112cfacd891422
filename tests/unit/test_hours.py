"""Times of the week, by the clock on the wall: as a condition of a rule, and as the hours of a destination."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, load
from router.config.hours import hours
from router.config.settings import DestinationSettings
from router.config.values import WrongError
from router.decide import decide
from router.decide.hours import MINUTES, Hours
from router.flow import Instance, Seen
from router.spool import open_spool
from router.spool.schema import destination
from tests.unit.forwarding import forwarding
from tests.unit.peer import Peer, wait_for
from tests.unit.spooling import CALLERS, accept, settings_of
from tests.unit.spooling import decide as owe

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


def around(begin: int, end: int) -> Hours:
    """Hours that begin and end so many minutes from now, in UTC."""
    now = datetime.fromtimestamp(time.time(), UTC)
    minute = 60 * now.hour + now.minute
    return Hours("", (minute + begin) % MINUTES, (minute + end) % MINUTES, zone="UTC")


def test_outside_of_its_hours_a_destination_gets_nothing_and_the_time_does_not_count(tmp_path: Path) -> None:
    closed, open_now = (around(120, 240),), (around(-120, 240),)
    with Peer() as peer, Peer() as other, forwarding(tmp_path, peer, other) as stage:
        stage.change("dest", hours=closed)
        wait_for(lambda: stage.spool.destinations.state("dest").closed_until > time.time() + 3600)
        stage.owe("dest", "dest2", count=2)
        stage.until("done", 2, "dest2")
        assert stage.states("dest") == ["open"] * 2
        assert peer.connections == 0
        state = stage.spool.destinations.state("dest")
        assert state.still_since > 0
        stage.change("dest", hours=open_now)
        stage.until("done", 2, "dest")
        state = stage.spool.destinations.state("dest")
        assert (state.closed_until, state.still_since) == (0.0, 0.0)
        stood = sa.select(destination.c.stood_still).where(destination.c.name == "dest")
        assert stage.spool.database.ask(lambda c: c.execute(stood).scalar_one()) > 0


def test_when_the_hours_end_the_delivery_under_way_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(DestinationSettings, "closed_until", lambda _, now: now + 3600.0 if ended.is_set() else 0.0)

    def ends(_: object) -> int:
        ended.set()
        return 0

    with Peer(status=ends) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=5)
        stage.start()
        stage.until("done")
        wait_for(lambda: stage.spool.destinations.state("dest").closed_until > 0)
        assert sorted(stage.states()) == ["done", *["open"] * 4]
        assert not any(row.token for row in stage.rows() if row.state == "open")


def test_people_see_that_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("""
spool: {path: spool}
destinations:
  ai: {ae_title: A, host: 127.0.0.1, port: 104, hours: ["08:00-12:00 Mon-Fri", "13:00-18:00 Mon-Fri"]}
rules: []
otherwise: {send: ai}
""")
    loaded = load(file, {})
    assert [one.written for one in loaded.destinations["ai"].hours] == ["08:00-12:00 Mon-Fri", "13:00-18:00 Mon-Fri"]
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        accept(spool)
        owe(spool, "ai")
        spool.destinations.set_closed("ai", 2e9)
    run, config = CliRunner(), ["--config", str(file)]
    listed = run.invoke(app, ["queue", "list", *config])
    assert "(outside of its hours)" in listed.stdout
    assert "ai is outside of its hours until 2033-05-18" in listed.stderr
    said = json.loads(run.invoke(app, ["status", "--json", *config]).stdout)
    (one,) = said["destinations"]
    assert (one["state"], one["owed"]) == ("closed", 1)
    assert one["reason"].startswith("outside of its hours until 2033-05-18")
    assert not [problem for problem in said["problems"] if problem["destination"]]
