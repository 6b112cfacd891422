"""Devices: header against pixels by calling AE title and station, drift, and numbers that lead to their rows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.commands.devices import MOST_STATIONS, OTHERS, devices_of, is_drift
from router.config.header_words import shipped_vocabulary
from router.decide.header_facts import HeaderFacts
from router.flow import Header
from router.page import devices as page
from router.spool import clock
from router.spool.devices import DAY, Taken
from tests.unit.paging import DOUBT, EVERYTHING, HOSTILE, SPINE, Client, Elements, Node, client_of, decided, node_in
from tests.unit.spooling import CALLERS

PART, STATION, MAKER, MODEL = 0x00180015, 0x00081010, 0x00080070, 0x00081090
ONE = Taken("0" * 32, "XRAY_1", "decoded", "spine", "spine", False, HeaderFacts({}, None), True, True, False)
WORDS = shipped_vocabulary()


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.fixture
def client(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(page, "FRESH", 0.0)
    with client_of(node, *EVERYTHING) as client:
        yield client


def header(part: str = "", station: str = "") -> Header:
    return {tag: (text,) for tag, text in ((PART, part), (STATION, station)) if text}


def fill(node: Node) -> None:
    for n, (what, prediction) in enumerate((
        (header("LSPINE", "ROOM 1"), SPINE), (header("", "ROOM 1"), SPINE), (header("CHEST", "ROOM 2"), SPINE),
        (header("CHEST", HOSTILE), DOUBT), (header(), replace(SPINE, inverted=True)), (header(), None),
    )):  # fmt: skip
        decided(node.spool, f"1.2.{n}", prediction=prediction, header=what)
    decided(node.spool, "1.3", CALLERS[1])


def test_header_against_pixels(node: Node) -> None:
    fill(node)
    found = devices_of(node.spool.overview.taken(["XRAY_1", "XRAY_2", "NOBODY"]), WORDS)
    assert set(found) == {"XRAY_1", "XRAY_2"}
    one = found["XRAY_1"].whole.shares
    assert (one.looked_at, one.pictures, one.without_picture) == (6, 5, 1)
    assert (one.agrees, one.missing, one.contradicts, one.doubt, one.inverted) == (1, 2, 1, 1, 1)
    assert one.classes == {"spine": 4, "uncertain": 1}
    assert [(g.station, g.shares.looked_at) for g in found["XRAY_1"].stations[:2]] == [("", 2), ("ROOM 1", 2)]


def test_numbers_lead_to_exactly_their_rows(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(node)
    decided(node.spool, "1.2.9", prediction=DOUBT)
    monkeypatch.setattr("router.spool.devices.MOST", 12)  # three of each
    text = client.get("/devices").text
    links = [link for link in Elements(text).links if "from=XRAY_1" in link and "since" in link]
    assert [len(re.findall("data-row", client.get(link).text)) for link in links] == [3, 1, 1]
    assert "<script>alert" not in text


def test_the_week_before_is_looked_at_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(node)
    later = time.time() + 1.5 * DAY
    monkeypatch.setattr(clock, "now", lambda _: later)
    monkeypatch.setattr("router.spool.devices.MOST", 4)  # one of each way: the same, which counts once
    (one,) = node.spool.overview.taken(["XRAY_1"])[:1]
    assert (one.is_latest, one.is_late, one.is_before) == (True, False, True)
    monkeypatch.setattr(clock, "now", lambda _: later + 8 * DAY)
    assert not any(one.is_before for one in node.spool.overview.taken(["XRAY_1"]))


def test_a_drift_needs_enough_images_and_more_than_chance() -> None:
    week = [replace(ONE, is_late=False, is_before=True)] * 200
    doubt = [replace(ONE, class_name="uncertain")]
    (group,) = devices_of(week + doubt * 30 + [ONE] * 70, WORDS)["XRAY_1"].stations
    assert [(one.what, one.before, one.now) for one in group.drifts] == [("doubt", 0.0, 0.3)]
    assert not devices_of(week + doubt * 30, WORDS)["XRAY_1"].whole.drifts
    wrong = replace(ONE, facts=HeaderFacts(header("CHEST"), None))
    right = replace(ONE, facts=HeaderFacts(header("SPINE"), None), is_late=False, is_before=True)
    (drift,) = devices_of([right] * 100 + [wrong] * 100, WORDS)["XRAY_1"].whole.drifts
    assert (drift.what, drift.before, drift.now) == ("contradiction", 0.0, 1.0)
    assert not is_drift(10, 100, 14, 100)
    assert not is_drift(0, 0, 0, 0)
    assert not is_drift(100, 100, 100, 100)


def test_what_was_not_kept_is_not_missing() -> None:
    cut = replace(ONE, facts=HeaderFacts({}, None, whole=False))
    shares = devices_of([replace(ONE, facts=None), cut], WORDS)["XRAY_1"].whole.shares
    assert (shares.not_known, shares.missing, shares.compared) == (2, 0, 0)


def test_stations_are_named_and_bounded() -> None:
    some = [replace(ONE, facts=HeaderFacts({STATION: (f"{n:02}",)}, None)) for n in range(MOST_STATIONS + 5)]
    stations = devices_of(some, WORDS)["XRAY_1"].stations
    assert [one.station for one in stations] == [f"{n:02}" for n in range(MOST_STATIONS)] + [OTHERS]
    values: Header = {STATION: ("R1",), MAKER: ("Maker",), MODEL: ("M" * 999,)}
    (one,) = devices_of([replace(ONE, facts=HeaderFacts(values, None))], WORDS)["XRAY_1"].stations
    assert one.station == f"R1, Maker {'M' * 64}"
