"""The capacity model: docs/capacity.md is what it makes of the results, and its simulation keeps known laws."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks import capacity_model as model
from benchmarks.capacity_model import Costs, Machine
from benchmarks.cluster import ROLES

EACH = Costs(
    cpu={"receive": 0.02, "classify": 0.05, "forward": 0.02, "PostgreSQL": 0.005, "store": 0.1},
    syncs=3, syncs_alone=5, transactions=15, wal=10_000, sent=dict.fromkeys(model.LINES, 1e7), requests=3,
)  # fmt: skip
HERE = Machine(
    commits=5000, clients="16 clients", commits_alone=1000, wal=1e8, idle=dict.fromkeys(ROLES, 0.0),
    memory=dict.fromkeys(ROLES, 1e8),
)  # fmt: skip


def test_page_is_what_the_program_makes_of_the_results() -> None:
    assert model.PAGE.read_text() == model.page(model.read())


def test_replicas_are_planned_below_their_load_and_never_fewer_than_the_least() -> None:
    assert model.replicas(1, 0.05, 0.0) == model.ASSUMED.least
    assert model.replicas(100, 0.05, 0.0) == math.ceil(5 / model.ASSUMED.load)
    assert model.replicas(100, 0.05, 0.1) == math.ceil(5 / (model.ASSUMED.load - 0.1))
    assert model.need(100, EACH, HERE).replicas["classify"] > model.need(100, EACH, HERE).replicas["receive"]


def test_what_costs_more_of_a_single_thing_comes_first() -> None:
    assert model.limits(EACH, HERE)[0][0] == "object store on one core"
    slow_disk = replace(HERE, commits_alone=10)
    name, rate = model.limits(EACH, slow_disk)[0]
    assert name == "syncs of the database's disk, each for one commit"
    assert rate == pytest.approx(10 / 3)
    slow_commits = dict(model.limits(EACH, replace(HERE, commits=20)))
    assert slow_commits["commits that share syncs, as of many clients"] == pytest.approx(20 / 5)


@pytest.mark.parametrize("servers", [1, 3])
def test_simulated_queue_is_that_of_the_formula(servers: int) -> None:
    """Erlang C for the last role, which alone has work to do: the mean number that wait at a load of 0.8."""
    load = 0.8
    each = replace(EACH, cpu=EACH.cpu | {"receive": 1e-9, "classify": 1e-9, "forward": 0.05})
    queues, _ = model.at_load(load, each, dict.fromkeys(ROLES, servers), count=60_000)
    offered = load * servers
    waits = offered**servers / math.factorial(servers) / (1 - load)
    waits /= sum(offered**n / math.factorial(n) for n in range(servers)) + waits
    assert queues["forward"] == pytest.approx(waits * load / (1 - load), rel=0.15)
    assert queues["receive"] < 0.001


def test_drain_takes_as_long_as_the_rule_says_and_holds_nobody_up() -> None:
    took, late = model.drain(1, 2, 0.2)
    assert took == pytest.approx(model.drain_time(1, 2, 0.2), rel=0.05)
    assert late < 20 * 0.2
    assert model.drain_time(10, 2, 0.2) == math.inf
