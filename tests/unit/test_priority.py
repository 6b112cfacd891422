"""`priority: urgent` on a rule and `limit_rate` on a destination: who goes first, and how many go at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from router.cli import app
from router.commands import quota_words
from router.config import ConfigError, load
from router.config.settings import DestinationSettings
from router.config.values import WrongError, how_often
from router.decide import decide as decided
from router.flow import Decision, Instance, Seen
from router.spool import DeliveryState, Spool, gathering, open_spool
from router.spool.deliveries import URGENT_CLAIMS
from tests.unit.forwarding import forwarding
from tests.unit.peer import Peer
from tests.unit.spooling import CALLERS, Clock, settings_of, turned_by_hand
from tests.unit.test_studies import comes, work_off

URGENT = Decision("chest pain", ("ai",), "because", urgent=True)
NORMAL = Decision("chests", ("ai",), "because")


@pytest.fixture
def hands() -> Iterator[Clock]:
    with turned_by_hand() as hands:
        yield hands


@pytest.fixture
def spool(tmp_path: Path, database: str, hands: Clock) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def claimed(spool: Spool, most: int, rate: float | None = None) -> list[str]:
    return [one.instance.sop_instance for one in spool.deliveries.claim("ai", most, rate=rate)]


# -- priority


def test_urgent_ones_go_first(spool: Spool) -> None:
    for uid, decision in (("1.1", NORMAL), ("1.2", URGENT), ("1.3", NORMAL), ("1.4", URGENT)):
        comes(spool, uid, decision)
    assert claimed(spool, 3) == ["1.2", "1.4", "1.1"]
    assert claimed(spool, 3) == ["1.3"]


def test_nothing_starves(spool: Spool) -> None:
    """However many urgent ones come, one claim in four is of others."""
    for number in range(2):
        comes(spool, f"1.{number}", NORMAL)
    for number in range(20):
        comes(spool, f"2.{number}", URGENT)
    got = [claimed(spool, 1)[0] for _ in range(2 * URGENT_CLAIMS + 2)]
    assert [uid for uid in got if uid.startswith("1.")] == ["1.0", "1.1"]
    assert got[:URGENT_CLAIMS] == ["2.0", "2.1", "2.2"]
    assert len([claimed(spool, 1) for _ in range(14)]) == 14


def test_what_is_given_back_or_freed_or_ordered_stays_urgent(spool: Spool, tmp_path: Path, database: str) -> None:
    comes(spool, "1.1", NORMAL)
    comes(spool, "1.2", URGENT)
    for one in spool.deliveries.claim("ai", 2):
        spool.deliveries.retry(one, 0, "", tried=False).result()
    assert claimed(spool, 1) == ["1.2"]
    (row,) = [row for row in spool.views.deliveries(to="ai") if row.priority < 0]
    spool.close()
    if database == "sqlite":  # elsewhere the lease of another start ends by itself
        again = open_spool(settings_of(tmp_path / "spool", database))
        assert claimed(again, 1) == ["1.2"]
        again.close()
    assert row.state is DeliveryState.OPEN


def test_the_newest_untried_may_be_urgent_or_not(spool: Spool) -> None:
    comes(spool, "1.1", NORMAL)
    comes(spool, "1.2", URGENT)
    got = [spool.deliveries.claim_untried("ai")[0].instance.sop_instance for _ in range(2)]
    assert got == ["1.2", "1.1"]
    assert spool.deliveries.claim_untried("ai") == []


def test_a_study_follows_with_the_priority_of_who_leads(spool: Spool) -> None:
    rests = Decision("otherwise", ("pacs",), "because")
    leads = Decision("chest pain", ("ai",), "because", study=True, urgent=True)
    comes(spool, "1.1", rests)
    comes(spool, "1.2", leads)
    work_off(spool)
    comes(spool, "1.3", rests)
    assert {row.priority for row in spool.views.deliveries(to="ai")} == {-1}
    assert {row.priority for row in spool.views.deliveries(to="pacs")} == {0}


# -- a quota


@pytest.mark.parametrize(("rate", "at_once", "gap"), [(1.0, 1, 1.0), (60 / 3600, 1, 60.0), (10.0, 10, 0.1)])
def test_a_rate_spreads_claims(spool: Spool, hands: Clock, rate: float, at_once: int, gap: float) -> None:
    for number in range(13):
        comes(spool, f"1.{number}", NORMAL)
    assert len(claimed(spool, 13, rate)) == at_once
    assert claimed(spool, 13, rate) == []
    assert spool.deliveries.wait_for_rate("ai", rate) == pytest.approx(gap, abs=1e-6)
    hands.turn(gap)
    assert len(claimed(spool, 13, rate)) == 1


def test_a_quota_holds_over_nodes_and_starts(tmp_path: Path, hands: Clock, postgresql: Callable[[], str]) -> None:
    for database in ("sqlite", postgresql()):
        wanted = settings_of(tmp_path / str(len(database)), database)
        first = open_spool(wanted)
        comes(first, "1.1", NORMAL)
        comes(first, "1.2", NORMAL)
        assert len(claimed(first, 5, 1 / 60)) == 1
        if database == "sqlite":
            first.close()
        second = open_spool(wanted)
        assert claimed(second, 5, 1 / 60) == []
        hands.put(-86_400.0)  # whatever the clock says, nothing waits for longer than a share
        assert second.deliveries.wait_for_rate("ai", 1 / 60) <= 60.0
        second.close()
        if database != "sqlite":
            first.close()


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    waits=st.lists(st.floats(0, 5), min_size=5, max_size=30), rate=st.sampled_from([0.5, 1.0, 3.0, 7.5]),
    most=st.integers(1, 8),
)  # fmt: skip
def test_no_window_has_more_than_its_share(
    tmp_path_factory: pytest.TempPathFactory, waits: list[float], rate: float, most: int
) -> None:
    with turned_by_hand() as hands:
        spool = open_spool(settings_of(tmp_path_factory.mktemp("rate") / "spool"))
        sent: list[float] = []
        for number, wait in enumerate(waits):
            comes(spool, f"1.{number}", NORMAL)
            hands.turn(wait)
            sent += [hands.at] * len(claimed(spool, most, rate))
        for place, begin in enumerate(sent):
            for end in sent[place:]:
                count = sum(begin <= at <= end for at in sent)
                assert count <= (end - begin) * rate + max(1, int(rate)) + 1e-3
        spool.close()


def test_a_worker_keeps_to_the_rate_and_goes_on(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False, limit_rate=5.0, associations=3) as stage:
        stage.owe("dest", count=8)
        stage.start()
        stage.until("done", 8)
        (row,) = [stage.spool.deliveries.wait_for_rate("dest", 5.0)]
        assert row >= 0
        assert len(peer.stored) == 8


# -- in the table

TABLE = """
destinations: {ai: {ae_title: A, host: 127.0.0.1, port: 104, limit_rate: 60/min}}
rules: [{name: all, when: {pixels: none}, send: ai, priority: urgent}]
otherwise: {send: ai}
"""


def test_both_are_written_in_the_table(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(TABLE)
    loaded = load(file, {})
    assert loaded.destinations["ai"].limit_rate == 1.0
    one = Instance("0" * 32, 0.0, CALLERS[0], "1.2", "1.2", "1.2", 0, 0, "")
    assert decided(loaded.rules, one, Seen("none"), enabled=loaded.enabled).urgent
    file.write_text(TABLE.replace("urgent", "high"))
    with pytest.raises(ConfigError, match="use one of: normal, urgent"):
        load(file, {})


@pytest.mark.parametrize("written", ["60", "60/ms", "0/min", "-1/s", "x/min", "60/year", "1.5/s", ""])
def test_other_rates_are_refused(written: str) -> None:
    with pytest.raises(WrongError):
        how_often(written)


# -- what people see of a quota


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("60/min", "60 in a minute"), ("1/s", "60 in a minute"), ("10/s", "10 in a second"), ("30/h", "30 in an hour"),
        ("100/d", "100 in a day"), ("7/h", "7 in an hour"),
    ],
)  # fmt: skip
def test_a_quota_in_words(written: str, words: str) -> None:
    assert quota_words.in_words(how_often(written)) == words


def test_a_delivery_that_waits_for_its_quota_says_so_and_no_other(spool: Spool) -> None:
    to = DestinationSettings("ai", "A", "127.0.0.1", 1, limit_rate=1 / 60)

    def said(tries: int = 0, reason: str = "", destination: DestinationSettings | None = to) -> str:
        state = spool.destinations.states().get("ai")
        return quota_words.waits_for_quota(destination, state, tries=tries, reason=reason)

    for number in range(2):
        comes(spool, f"1.{number}", NORMAL)
    assert said() == ""
    assert len(claimed(spool, 5, 1 / 60)) == 1
    assert said() == "waits for its quota: 1 in a minute"
    assert said(tries=1) == said(reason=gathering.WAITS) == said(destination=None) == ""
    assert said(destination=replace(to, limit_rate=None)) == ""
    spool.orders.pause("ai", "ann")
    assert said() == ""
    spool.orders.resume("ai", "ann")
    assert said()


def test_commands_and_page_say_it(tmp_path: Path) -> None:
    config = tmp_path / "routing.yaml"
    config.write_text(
        "spool: {path: spool}\ndestinations: {ai: {ae_title: A, host: 127.0.0.1, port: 1, limit_rate: 1/h}}\n"
        "rules: []\notherwise: {send: ai}\n"
    )
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        for number in range(2):
            comes(spool, f"1.{number}", NORMAL)
        assert len(claimed(spool, 5, 1 / 3600)) == 1
    run = CliRunner()
    words = "waits for its quota: 1 in an hour"
    rows = run.invoke(app, ["queue", "list", "--config", str(config)]).stdout.splitlines()
    assert sorted(words in row for row in rows) == [False, True], rows
    found = [json.loads(row)["quota"] for row in
             run.invoke(app, ["queue", "list", "--json", "--config", str(config)]).stdout.splitlines()]  # fmt: skip
    assert sorted(map(str, found)) == ["None", words]
    assert f"ai waiting ({words})" in run.invoke(app, ["find", "--config", str(config)]).stdout
