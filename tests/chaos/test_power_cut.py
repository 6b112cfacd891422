"""A short run of the power cuts: nothing is lost at any crash point, and the harness sees a loss where there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import power_cut
from tests.chaos.power_cut import KINDS, ONCE
from tests.chaos.recording import Recording, record

pytestmark = pytest.mark.strace
SEED = "1"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=power_cut.in_memory()) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def run(folder: Path) -> Recording:
    return record(folder, 12, SEED)


def test_what_was_acknowledged_is_there_after_a_power_cut(run: Recording, folder: Path) -> None:
    points = power_cut.crash_points(run, 12, SEED)
    outcome = power_cut.replay(run, points, folder, SEED)
    assert outcome.faults == []
    assert outcome.states == 2 * len(points) >= 24  # at least a point for each of 12 instances
    assert outcome.acknowledged_at_points >= 12 * 13 / 2


def test_a_delivery_that_is_called_done_and_never_arrived_is_seen(run: Recording, folder: Path) -> None:
    blind = replace(run, arrivals=[])
    outcome = power_cut.replay(blind, power_cut.crash_points(blind, 0, SEED)[-1:], folder, SEED, picks=["everything"])
    assert outcome.faults
    assert all("not at" in fault for fault in outcome.faults)


def test_a_node_goes_on_from_what_is_left(run: Recording, folder: Path) -> None:
    points = power_cut.crash_points(run, 0, SEED)[4:10]
    outcome = power_cut.replay(run, points, folder, SEED, picks=["synced"], restarts=1)
    assert (outcome.faults, outcome.restarts) == ([], 1)


LOG = "database's log"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != LOG])
def test_syncs_that_do_nothing_are_seen(run: Recording, folder: Path, kind: str) -> None:
    assert power_cut.blind_to(run, KINDS[kind], folder, SEED)


def test_syncs_of_the_log_that_do_nothing_cost_no_instance(run: Recording, folder: Path) -> None:
    """A blob says what its row knew, so that what the log has lost is taken in again.

    A blob that was removed says nothing more. Its instance was everywhere by then, and is forgotten, not lost: one row
    of the log was all that knew it. With `names`, that is so for each that was removed.
    """
    points = power_cut.crash_points(run, 0, SEED)
    faults = power_cut.replay(run, points, folder, SEED, picks=["synced", "names"], ignored=KINDS[LOG]).faults
    assert [fault for fault in faults if "delivered already, and forgotten" not in fault] == []
    assert faults, "no blob was removed"


@pytest.mark.parametrize("kind", [kind for kind in ONCE if kind != LOG])
def test_one_sync_that_does_nothing_is_seen(run: Recording, folder: Path, kind: str) -> None:
    assert any(power_cut.blind_once(run, KINDS[kind], nth, folder, SEED) for nth in power_cut.awaited(run, KINDS[kind]))


@pytest.mark.compiler
def test_what_a_failing_disk_refused_comes_back_whole_or_not_at_all(folder: Path) -> None:
    failed = record(folder / "failing", 12, SEED, failing=True)
    assert sum(one.tries for one in failed.sent.values()) > len(failed.sent)
    points = power_cut.crash_points(failed, 8, SEED)
    assert power_cut.replay(failed, points, folder, SEED, picks=["some", "everything"]).faults == []
