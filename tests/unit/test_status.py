"""`status`: one sentence on top, what needs a person, and the figures behind it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.commands.status import silent_callers, span, status_of
from router.config import load
from router.flow import Caller, Decision, Prediction, Seen
from router.spool import Act, DeliveryState, Spool, open_spool
from router.spool.find import Filter
from tests.unit.spooling import CALLERS, accept, settings_of

CONFIG = """
spool: {path: spool}
destinations:
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 104}
  ai: {ae_title: AI, host: 127.0.0.1, port: 105}
rules: []
otherwise: {send: pacs}
"""
CHEST = Prediction((0.01, 0.96, 0.01, 0.01, 0.01), "adult_chest", 0.96, 0.1, False, "adult_chest", "m")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(CONFIG)
    return tmp_path / "routing.yaml"


@pytest.fixture
def spool(config: Path, database: str) -> Iterator[Spool]:
    if database != "sqlite":
        config.write_text(CONFIG.replace("{path: spool}", f"{{path: spool, database: '{database}'}}"))
    opened = open_spool(settings_of(config.parent / "spool", database))
    yield opened
    opened.close()


def decided(spool: Spool, uid: str, caller: Caller, *to: str) -> None:
    accept(spool, uid.encode(), uid, caller)
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, Seen("decoded", {}, CHEST), Decision("chest", to, "because"), {}).result()


def ended(spool: Spool, to: str, state: DeliveryState) -> None:
    (owed,) = spool.deliveries.claim(to, 1)
    spool.deliveries.close(owed, state, reason="no such patient here").result()


def run(config: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["status", "--config", str(config), *arguments])
    return result.exit_code, result.stdout


def test_what_needs_a_person_comes_first_with_what_to_do(spool: Spool, config: Path) -> None:
    decided(spool, "1.2.3", CALLERS[0], "pacs", "ai")
    ended(spool, "ai", DeliveryState.BURIED)
    spool.orders.pause("pacs", "a person")
    code, out = run(config)
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "Needs you: 3"
    assert "dicom-router queue resume pacs" in out
    assert "dicom-router find --to ai --state buried" in out
    assert "no node answers on this spool" in out
    assert "buried" in lines[-1]


def test_a_destination_that_takes_nothing_needs_a_person_also_if_it_is_owed_nothing(spool: Spool, config: Path) -> None:
    decided(spool, "1.2.3", CALLERS[0], "ai")
    decided(spool, "1.2.4", CALLERS[0], "ai")
    ended(spool, "ai", DeliveryState.DONE)
    spool.destinations.set_circuit("ai", 60.0, 1, "Connection refused")
    spool.destinations.set_circuit("pacs", 60.0, 1, "no answer")
    out = run(config)[1]
    assert "ai takes nothing, 1 wait: Connection refused. What waits goes by itself when it answers\n" in out
    assert "pacs takes nothing, 0 wait: no answer\n" in out
    assert [one["drains_in_s"] for one in json.loads(run(config, "--json")[1])["destinations"]] == [None, None]


def failing(since: float, tries: int, instances: int) -> dict[str, Any]:
    return {"failing": {"ai": {"since": since, "tries": tries, "instances": instances, "reason": "status A700"}}}


def test_a_destination_that_refuses_everything_needs_a_person_within_minutes(spool: Spool, config: Path) -> None:
    settings, now = load(config), time.time()

    def states(node: dict[str, Any]) -> tuple[str, list[str]]:
        found = status_of(settings, spool, node, 0)
        return found.destinations[1].state, [one.what for one in found.problems]

    state, problems = states(failing(now - 130, 3, 2))
    assert state == "refusing"
    assert problems == ["ai refuses what it gets: each of 3 tries has failed for 2 min, the last: status A700"]
    none: dict[str, Any] = {"failing": {}}
    for few in (failing(now - 60, 9, 9), failing(now - 900, 2, 2), failing(now - 900, 9, 1), none, {}):
        assert states(few) == ("open", [])
    spool.orders.pause("ai", "ann")
    assert states(failing(now - 130, 3, 2)) == ("paused", [])


def test_jobs_under_way_and_silences_are_named(spool: Spool, config: Path) -> None:
    decided(spool, "1.2.3", CALLERS[0], "ai")
    number = spool.bulk.begin(Act.MOVE, Filter(to="ai"), "pacs", "ann", "it is down")
    spool.notices.silence("buried", 3600, "bob")
    _, told = run(config)
    assert f"job         {number}: move ai to pacs, 0" in told
    assert "silent      buried until " in told
    about = json.loads(run(config, "--json")[1])
    assert [(one["job"], one["act"], one["filter"]["to"]) for one in about["jobs"]] == [(number, "move", "ai")]
    assert [(one["condition"], one["who"]) for one in about["silences"]] == [("buried", "bob")]
    while spool.bulk.step() is not None:
        pass
    assert json.loads(run(config, "--json")[1])["jobs"] == []


def test_a_caller_is_silent_after_the_time_that_was_chosen_for_it(spool: Spool, config: Path) -> None:
    decided(spool, "1.2.3", CALLERS[0], "pacs")
    decided(spool, "1.2.4", CALLERS[1], "pacs")
    settings, lately = load(config, {}), spool.views.activity(3600.0)
    later = replace(lately, now=lately.now + 120.0)
    for chosen, silent in (({}, ()), ({"XRAY_1": 60.0}, ("XRAY_1",)), ({"XRAY_1": 600.0}, ())):
        changed = replace(settings, notify=replace(settings.notify, silent=chosen))
        assert silent_callers(changed, later) == silent


def test_a_watched_caller_that_is_silent_needs_a_person(spool: Spool, config: Path) -> None:
    """People are told of it by `notify`: the status must not say that all is well."""
    decided(spool, "1.2.3", CALLERS[0], "pacs")
    assert "nothing has come from" not in run(config)[1]
    settings = load(config, {})
    settings = replace(settings, notify=replace(settings.notify, silent={"XRAY_1": -1.0}))
    found = status_of(settings, spool, {}, 0)
    assert (found.well, found.silent) == (False, ("XRAY_1",))
    (problem,) = found.problems
    assert problem.what.startswith("nothing has come from XRAY_1 for ")


def test_the_figures_are_those_of_the_last_hour(spool: Spool, config: Path) -> None:
    decided(spool, "1.2.3", CALLERS[0], "pacs")
    decided(spool, "1.2.4", CALLERS[0], "pacs", "ai")
    decided(spool, "1.2.5", CALLERS[1], "pacs")
    accept(spool, b"new", "1.2.6", CALLERS[1])
    ended(spool, "pacs", DeliveryState.DONE)
    found = json.loads(run(config, "--json")[1])
    lately = found["lately"]
    assert (lately["received"], found["undecided"]) == (4, 1)
    assert lately["delivered"] == {"pacs": 1}
    assert (lately["classes"], lately["rules"]) == ({"adult_chest": 3}, {"chest": 3})
    assert {one["calling_ae"]: one["received"] for one in lately["senders"]} == {"XRAY_1": 2, "XRAY_2": 2}
    assert all(abs(one["last_at"] - time.time()) < 60 for one in lately["senders"])
    pacs, ai = found["destinations"]
    assert (pacs["name"], pacs["owed"], pacs["delivered"], ai["owed"], ai["delivered"]) == ("pacs", 2, 1, 1, 0)
    assert pacs["drains_in_s"] == 2 * 3600
    assert ai["drains_in_s"] is None
    config.write_text(config.read_text().replace("pacs: {", "pacs: {limit_rate: 1/h, "))
    pacs = json.loads(run(config, "--json")[1])["destinations"][0]
    assert pacs["drains_in_s"] == 2 * 3600
    config.write_text(config.read_text().replace("limit_rate: 1/h", "limit_rate: 12/d"))
    pacs = json.loads(run(config, "--json")[1])["destinations"][0]
    assert pacs["drains_in_s"] == 4 * 3600
    assert found["spool"]["used"] == sum(len(data) for data in (b"1.2.3", b"1.2.4", b"1.2.5", b"new"))


def test_a_year_ago_does_not_count(config: Path) -> None:
    spool = open_spool(settings_of(config.parent / "spool"))
    decided(spool, "1.2.3", CALLERS[0], "pacs")
    ended(spool, "pacs", DeliveryState.DONE)
    old = f"{int((time.time() - 400 * 86400) * 1e9):016x}" + "0" * 16
    spool.close()
    with closing(sqlite3.connect(config.parent / "spool" / "node.db")) as database, database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute("UPDATE delivery SET instance_id=?, closed_at=closed_at-400*86400", (old,))
        database.execute("UPDATE instance SET id=?", (old,))
    lately = json.loads(run(config, "--json")[1])["lately"]
    assert (lately["received"], lately["delivered"], lately["classes"]) == (0, {}, {})
    (sender,) = lately["senders"]
    assert (sender["calling_ae"], sender["received"]) == ("XRAY_1", 0)
    assert "silent" in run(config)[1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (90000, "25 h"), (1e6, "12 d")]
)
def test_a_span_has_one_unit(seconds: float, words: str) -> None:
    assert span(seconds) == words
