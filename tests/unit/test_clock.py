"""A clock that is set, by a person or by NTP, neither holds what waits nor buries it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.spool import INSTANCES, Spool, clock, open_spool
from router.spool.clock import Jumps
from tests.unit.spooling import CALLERS, Clock, accept, decide, settings_of, turned_by_hand

DAY = 86400.0


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool"))
    yield opened
    opened.close()


@pytest.fixture
def hands() -> Iterator[Clock]:
    with turned_by_hand() as hands:
        yield hands


def owe(spool: Spool, uid: str, *, after: float) -> None:
    """A delivery that was tried and is to be tried again after so many seconds."""
    accept(spool, uid=uid)
    decide(spool, "ai")
    (owed,) = spool.claim_deliveries("ai", 1)
    spool.retry_delivery(owed, after, "down").result()


@pytest.mark.parametrize("back", [-DAY, -1000 * DAY])
def test_a_clock_that_is_put_back_delays_nothing(spool: Spool, hands: Clock, back: float) -> None:
    owe(spool, "1.1", after=10)
    accept(spool, uid="1.2")
    (claim,) = spool.claim_instances(1)
    spool.release_instance(claim, after=10).result()
    due, version = hands.at + 10, spool.signal(INSTANCES).version
    hands.turn(back)
    spool.clock_was_set(back)
    assert spool.signal(INSTANCES).version > version  # whoever sleeps until it is due must look again
    assert spool.next_due("ai") == spool.next_instance_due() == due + back
    assert spool.claim_deliveries("ai", 5) == []
    assert spool.claim_instances(5) == []
    hands.turn(10)
    assert len(spool.claim_deliveries("ai", 5)) == len(spool.claim_instances(5)) == 1


def test_a_clock_that_is_put_forward_does_not_count_towards_giving_up(spool: Spool, hands: Clock) -> None:
    owe(spool, "1.1", after=0)
    hands.turn(5)
    hands.turn(20 * DAY)
    owe(spool, "1.2", after=0)  # before anybody noticed
    spool.clock_was_set(20 * DAY)
    assert [hands.at - one.owed_since for one in spool.claim_deliveries("ai", 5)] == [5.0, 0.0]


def test_what_somebody_holds_stays_held(spool: Spool, hands: Clock) -> None:
    accept(spool, uid="1.1")
    decide(spool, "ai")
    (owed,) = spool.claim_deliveries("ai", 1)
    for seconds in (-DAY, DAY):
        hands.turn(seconds)
        spool.clock_was_set(seconds)
        assert spool.claim_deliveries("ai", 1) == []
    assert spool.retry_delivery(owed, 0, "later").result()


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
    for ours, one in (("2.25.1", due), ("2.25.2", held)):
        work.asked([row.id for row in work.pending(one)], "pacs", ours)
        hands.turn(seconds if one is due else 0)  # the other one was asked before anybody noticed
    work.release(due, 300, tries=1)
    hands.turn(10)
    spool.clock_was_set(seconds)
    (before,), (after,) = work.pending(due), work.pending(held)
    assert [hands.at - row.asked_at for row in (before, after)] == [10, 10]
    hands.turn(300)
    again, other = work.claim(()), work.claim(())
    assert again is not None
    assert other is not None
    assert [one.deadline - hands.at for one in (again, other)] == [3600 - 310] * 2


def test_a_jump_is_noticed_once_and_a_small_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hands:
        wall = mono = 1000.0

        def time(self) -> float:
            return self.wall

        def monotonic(self) -> float:
            return self.mono

    hands = Hands()
    monkeypatch.setattr(clock, "time", hands)
    jumps = Jumps()
    for wall, mono, moved in ((60, 60, 0.0), (60 - DAY, 60, -DAY), (60, 60, 0.0), (DAY, 60, DAY - 60), (70, 60, 0.0)):
        hands.wall, hands.mono = hands.wall + wall, hands.mono + mono
        assert jumps.since() == moved
