"""A clock that is set, by a person or by NTP, neither holds what waits nor buries it, nor ends what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.spool import Spool, open_spool
from router.spool.steady import before
from tests.unit.forwarding import forwarding
from tests.unit.peer import Peer
from tests.unit.spooling import CALLERS, Clock, accept, decide, files, settings_of, turned_by_hand

DAY = 86400.0


@pytest.fixture
def hands() -> Iterator[Clock]:
    with turned_by_hand() as hands:
        hands.at = 2000 * DAY
        yield hands


@pytest.fixture
def spool(tmp_path: Path, database: str, hands: Clock) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database, keep=100.0, keep_records=1000.0))
    yield opened
    opened.close()


def owe(spool: Spool, uid: str, *, after: float) -> None:
    """A delivery that was tried and is to be tried again after so many seconds."""
    accept(spool, uid=uid)
    decide(spool, "ai")
    (owed,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.retry(owed, after, "down").result()


def owed_for(spool: Spool) -> list[float]:
    """As a worker is told: it judges by nothing else. The deliveries are given back."""
    claimed = spool.deliveries.claim("ai", 5)
    for one in claimed:
        spool.deliveries.retry(one, 0, "", tried=False).result()
    return [one.owed_for for one in claimed]


@pytest.mark.parametrize("back", [-DAY, -1000 * DAY])
def test_a_clock_that_is_put_back_delays_nothing(spool: Spool, hands: Clock, back: float) -> None:
    owe(spool, "1.1", after=10)
    accept(spool, uid="1.2")
    (claim,) = spool.decisions.claim(1)
    spool.decisions.release(claim, after=10).result()
    hands.put(back)
    assert spool.deliveries.claim("ai", 5) == []
    assert spool.decisions.claim(5) == []
    assert spool.deliveries.next_due("ai") == spool.decisions.next_due() == 10
    hands.turn(10)
    assert len(spool.deliveries.claim("ai", 5)) == len(spool.decisions.claim(5)) == 1


@pytest.mark.parametrize("seconds", [15 * DAY, -15 * DAY, 100.0])
def test_the_first_who_judges_an_age_sees_that_the_clock_was_set(spool: Spool, hands: Clock, seconds: float) -> None:
    owe(spool, "1.1", after=0)
    hands.turn(5)
    hands.put(seconds)
    assert owed_for(spool) == [5.0]
    hands.turn(10)
    owe(spool, "1.2", after=0)
    hands.put(-seconds)
    assert owed_for(spool) == [15.0, 0.0]


def test_a_destination_that_stands_still_while_the_clock_is_set_counts_that_once(spool: Spool, hands: Clock) -> None:
    owe(spool, "1.1", after=0)
    hands.turn(5)
    spool.orders.pause("ai", "a person")
    hands.turn(5)
    hands.put(15 * DAY)
    spool.orders.resume("ai", "a person")
    hands.turn(3)
    assert owed_for(spool) == [8.0]


@pytest.mark.parametrize("seconds", [15 * DAY, -15 * DAY])
def test_a_clock_that_is_set_while_no_node_runs_buries_nothing(tmp_path: Path, hands: Clock, seconds: float) -> None:
    settings = settings_of(tmp_path / "spool")
    spool = open_spool(settings)
    owe(spool, "1.1", after=10)
    hands.turn(5)
    spool.close()
    hands.put(seconds)
    spool = open_spool(settings)
    hands.turn(10)
    assert owed_for(spool) == [15.0]
    spool.close()


def test_time_in_which_no_node_ran_does_not_count(tmp_path: Path, hands: Clock) -> None:
    settings = settings_of(tmp_path / "spool")
    spool = open_spool(settings)
    owe(spool, "1.1", after=0)
    spool.close()
    hands.turn(15 * DAY)
    hands.passed = 0.0  # the machine was off, too
    spool = open_spool(settings)
    assert owed_for(spool) == [0.0]
    spool.close()


def test_little_is_no_jump(spool: Spool, hands: Clock) -> None:
    owe(spool, "1.1", after=0)
    hands.put(30)
    assert owed_for(spool) == [30.0]


def test_what_somebody_holds_stays_held(spool: Spool, hands: Clock) -> None:
    accept(spool, uid="1.1")
    decide(spool, "ai")
    (owed,) = spool.deliveries.claim("ai", 1)
    for seconds in (-DAY, DAY):
        hands.put(seconds)
        assert spool.deliveries.claim("ai", 1) == []
    assert spool.deliveries.retry(owed, 0, "later").result()


def test_an_open_circuit_stays_open_as_long_as_it_would_have(spool: Spool, hands: Clock) -> None:
    accept(spool)
    spool.destinations.set_circuit("ai", 300, 4, "no answer")
    for seconds in (DAY, -DAY):
        hands.put(seconds)
        spool.decisions.claim(0)  # whoever looks
        assert spool.destinations.state("ai").circuit_left == 300


@pytest.mark.parametrize("seconds", [15 * DAY, -15 * DAY])
def test_what_is_kept_is_kept_for_its_time_whatever_the_clock_says(
    spool: Spool, hands: Clock, tmp_path: Path, seconds: float
) -> None:
    accept(spool, uid="1.1")
    decide(spool)
    hands.turn(40)
    hands.put(seconds)
    assert spool.retention.sweep() == 0
    hands.turn(61)
    blobs, records = spool.retention.sweep(), 0
    if seconds > 0:
        assert (blobs, files(tmp_path / "spool")) == (1, set())
        hands.turn(890)
        assert spool.retention.sweep() == 0
        hands.turn(10)
        records = spool.retention.sweep()
        assert records == 1
        assert spool.views.instances() == []
    else:  # put back, it looks younger: it is kept longer, never shorter
        assert len(files(tmp_path / "spool")) == 1


@pytest.mark.parametrize(
    ("jumps", "now", "expected"),
    [
        ([], 1000, 900),
        ([(950, 500)], 1000, 400),
        ([(800, 500)], 1000, 900),
        ([(980, 500), (1470, 500)], 1500, 400),  # given latest first below
        ([(980, -500)], 1000, 980),
    ],
)
def test_how_far_back_a_time_lies(jumps: list[tuple[float, float]], now: float, expected: float) -> None:
    rows = [type("Jump", (), {"at": at, "seconds": by}) for at, by in reversed(jumps)]
    assert before(rows, now, 100) == expected


@pytest.mark.parametrize("seconds", [-DAY, -1000 * DAY, DAY, 1000 * DAY])
def test_what_an_archive_is_asked_has_its_time_whatever_the_clock_says(
    spool: Spool, hands: Clock, seconds: float
) -> None:
    work = spool.commitments
    for uid in ("1.1", "1.2"):
        work.add(CALLERS[0], uid, [("1.2", uid)], 3600)
    due, held = work.claim(()), work.claim(())
    assert due is not None
    assert held is not None
    spool.decisions.claim(0)
    for ours, one in (("2.25.1", due), ("2.25.2", held)):
        work.asked([row.id for row in work.pending(one)], "pacs", ours)
        hands.put(seconds if one is due else 0)  # the other one was asked before anybody noticed
    work.release(due, 300, tries=1)
    hands.turn(10)
    spool.decisions.claim(0)
    (before_it,), (after,) = work.pending(due), work.pending(held)
    assert [hands.at - float(row.asked_at or 0) for row in (before_it, after)] == [10, 10]
    hands.turn(300)
    again, other = work.claim(()), work.claim(())
    assert again is not None
    assert other is not None
    assert [one.deadline - hands.at for one in (again, other)] == [3600 - 310] * 2


@pytest.mark.parametrize("ahead", [600.0, -600.0])
def test_waits_are_reckoned_by_the_databases_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """It is a server's, and this machine's differs: what is due in half a second is tried then, and not looked for."""
    monkeypatch.setattr("router.spool.clock.now", lambda _: time.time() + ahead)
    monkeypatch.setattr("router.forward.worker.retry_after", lambda *_: 0.5)
    answers = iter([0xA700])
    with Peer(status=lambda _: next(answers, 0)) as peer, forwarding(tmp_path, peer, start=False) as stage:
        looked: list[float | None] = []
        next_due = stage.spool.deliveries.next_due

        def noted(to: str) -> float | None:
            looked.append(next_due(to))
            return looked[-1]

        monkeypatch.setattr(stage.spool.deliveries, "next_due", noted)
        stage.owe("dest")
        begin = time.monotonic()
        stage.start()
        stage.until("done")
        assert time.monotonic() - begin >= 0.5
        assert len([due for due in looked if due is not None]) < 5
        assert all(due is None or due <= 0.5 for due in looked)
