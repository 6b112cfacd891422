"""The circuit: what opens it, one probe at a time, what closes it, and what survives a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config.settings import SpoolSettings
from router.forward.circuit import Circuit
from router.forward.outcomes import Fate, Outcome, Sign, outcome_of
from router.spool import Spool, open_spool
from tests.unit.peer import wait_for

REFUSED, FULL = outcome_of(0xC000), outcome_of(0xA700)
ENDED, ENDED_OTHERWISE = Outcome(Fate.LATER, "aborted", sign=Sign.ENDED), Outcome(Fate.LATER, "closed", sign=Sign.ENDED)
SILENT = Outcome(Fate.LATER, "no answer in time", sign=Sign.SILENT)
OURS = Outcome(Fate.FEW, "failed here", sign=Sign.OURS)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("router.forward.circuit.time", clock)
    return clock


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = open_spool(SpoolSettings(path=tmp_path / "spool", reserve=0))
    yield spool
    spool.close()


def circuit(spool: Spool) -> Circuit:
    return Circuit("dest", spool, lambda: 0.5)


def waits(one: Circuit) -> float:
    """What another worker would be told."""
    found: list[float] = []

    def ask() -> None:
        found.append(one.wait())
        one.end_probe()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def answered(status: int) -> Outcome:
    return Outcome(Fate.FEW, f"status {status:04X}", status, Sign.ANSWERED)


def test_failures_in_a_row_are_counted_although_the_circuit_opens_and_closes(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    assert one.failures.so_far() is None
    for n in range(6):  # another answer each time: no circuit opens for good by that
        one.attempt_failed(f"instance {n % 2}", answered(0xA700 + n))
    found = one.failures.so_far()
    assert found is not None
    assert (found.tries, found.instances, found.reason) == (6, 2, "status A705")
    assert not one.is_open
    one.attempt_failed("ours", Outcome(Fate.FEW, "our own fault", sign=Sign.OURS))
    assert one.failures.so_far() == found
    one.succeeded()
    assert one.failures.so_far() is None


# -- the state machine -----------------------------------------------------------------------------------------------


def test_a_failure_opens_and_each_further_one_doubles_the_time(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    assert (one.wait(), one.is_open) == (0.0, False)
    expected = [2.0, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    for seconds in expected:
        one.failed("down")
        assert one.is_open
        assert one.wait() == pytest.approx(seconds)
        clock.now += seconds
        assert one.wait() == 0.0
    one.succeeded()
    assert (one.wait(), one.is_open) == (0.0, False)
    one.failed("down")
    assert one.wait() == pytest.approx(2.0)
    spool.event("flush")
    wait_for(lambda: [e.kind for e in spool.views.events()][-1] == "flush")
    assert [e.kind for e in spool.views.events()] == ["circuit opened", "circuit closed", "circuit opened", "flush"]


def test_a_rejection_for_good_is_no_hot_loop(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.failed("calling AE title not recognised there", for_good=True)
    assert one.wait() >= 300


def test_several_workers_that_fail_together_count_once(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    for _ in range(4):
        one.failed("down")
    assert one.wait() == pytest.approx(2.0)


def test_one_probe_at_a_time(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.failed("down")
    clock.now += 2
    assert one.wait() == 0.0
    assert one.wait() == 0.0  # still ours
    assert waits(one) == 1.0
    one.end_probe()  # nothing to probe with: the next may
    assert waits(one) == 0.0
    assert one.wait() == 0.0
    one.failed("down")
    one.end_probe()
    clock.now += 4
    assert waits(one) == 0.0


def test_a_clock_that_is_set_changes_nothing(spool: Spool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = circuit(spool)
    one.failed("down")
    for moved in (86_400, -86_400):
        monkeypatch.setattr("time.time", lambda by=moved: 1_800_000_000.0 + by)
        assert one.wait() == pytest.approx(2.0)


def test_a_circuit_is_never_open_for_longer_than_any_is_opened(spool: Spool, clock: Clock) -> None:
    """Its end was written by a clock that was wrong."""
    spool.destinations.set_circuit("dest", 1e9, 1, "down")
    assert circuit(spool).wait() == pytest.approx(750)


def test_it_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    settings = SpoolSettings(path=tmp_path / "spool", reserve=0)
    spool = open_spool(settings)
    before = circuit(spool)
    for _ in range(3):
        before.failed("down")
        clock.now += 60
        assert before.wait() == 0.0
    for instance in "abc":
        before.attempt_failed(instance, REFUSED)
    spool.close()
    spool = open_spool(settings)
    after = circuit(spool)
    assert after.is_open
    assert after.by_instances
    assert after.wait() == pytest.approx(before.wait(), abs=5)  # the spool's own clock goes on
    assert after.wait() > 0
    after.succeeded()
    spool.close()
    spool = open_spool(settings)
    assert not circuit(spool).is_open
    spool.close()


@pytest.mark.parametrize("outcome", [REFUSED, FULL, ENDED])
def test_the_same_error_from_three_instances_in_a_row(spool: Spool, clock: Clock, outcome: Outcome) -> None:
    one = circuit(spool)
    assert not any(one.attempt_failed("a", outcome) for _ in range(5))  # one instance, however often
    assert not one.attempt_failed("b", outcome)
    assert not one.is_open
    assert one.attempt_failed("c", outcome)
    assert one.by_instances


def test_another_error_or_a_success_begins_a_new_row(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    for name in "ab":
        one.attempt_failed(name, REFUSED)
    assert not one.attempt_failed("c", FULL)
    assert not one.attempt_failed("d", REFUSED)
    assert not one.attempt_failed("e", REFUSED)
    one.succeeded()
    assert not one.attempt_failed("f", REFUSED)
    assert not one.is_open


def test_every_way_to_end_an_association_is_one_error(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.attempt_failed("a", ENDED)
    one.attempt_failed("b", ENDED_OTHERWISE)
    assert one.attempt_failed("c", ENDED)


def test_silence_opens_at_once(spool: Spool, clock: Clock) -> None:
    assert circuit(spool).attempt_failed("a", SILENT)


def test_what_failed_here_is_never_held_against_the_destination(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.attempt_failed("a", REFUSED)
    one.attempt_failed("b", REFUSED)
    assert not any(one.attempt_failed(str(n), OURS) for n in range(9))
    assert not one.is_open
    assert one.attempt_failed("c", REFUSED)
    assert not one.attempt_failed("d", OURS)
    assert one.is_open  # and it shows nothing good either


def test_opened_by_instances_and_closed_by_another_answer(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    for name in "abc":
        one.attempt_failed(name, REFUSED)
    clock.now += 2
    assert one.wait() == 0.0
    assert one.attempt_failed("d", REFUSED)  # the probe meets the same: open, and longer
    assert one.wait() == pytest.approx(4.0)
    clock.now += 4
    assert one.wait() == 0.0
    assert not one.attempt_failed("e", FULL)
    assert not one.is_open


def test_what_was_not_tried_waits_for_the_first_time_only_where_instances_opened_it(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    for name in "abc":
        one.attempt_failed(name, ENDED)
    for name, seconds in ("d", 4.0), ("e", 8.0), ("f", 16.0):
        assert one.wait(untried=True) == pytest.approx(2.0)
        clock.now += 2
        assert one.wait(untried=True) == 0.0
        assert one.attempt_failed(name, ENDED)
        one.end_probe()
        assert one.wait() == pytest.approx(seconds)
    clock.now += 16
    assert one.wait() == 0.0
    one.failed("cannot connect")
    assert one.wait(untried=True) == one.wait() == pytest.approx(32.0)


def test_opened_by_the_connection_and_closed_by_an_answer(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.failed("cannot connect")
    by_instances = [one.by_instances]
    clock.now += 2
    assert one.wait() == 0.0
    assert one.attempt_failed("a", ENDED)
    assert [*by_instances, one.by_instances] == [False, True]
    clock.now += 4
    assert one.wait() == 0.0
    assert not one.attempt_failed("b", REFUSED)
    assert not one.is_open


def test_changed_settings_are_tried_at_once(spool: Spool, clock: Clock) -> None:
    one = circuit(spool)
    one.hurry()
    was_open = one.is_open
    one.failed("cannot connect", for_good=True)
    one.hurry()
    assert (was_open, one.is_open) == (False, True)
    assert one.wait() == 0.0


def test_a_person_who_is_too_early_waits_for_the_first_time_only(spool: Spool, clock: Clock) -> None:
    """Ordered while a probe is under way, which then fails: the pauses begin anew, and grow as ever."""
    one = circuit(spool)
    for _ in range(9):
        one.failed("down")
        clock.now += 600
        assert one.wait() == 0.0
    spool.orders.resume("dest", "a person")
    one.failed("down")
    assert one.wait() == pytest.approx(2.0)
    one.heed()  # an order is good for one time
    assert one.wait() == pytest.approx(2.0)
    clock.now += 2
    assert one.wait() == 0.0
    one.failed("down")
    assert one.wait() == pytest.approx(4.0)
