"""A short run of the campaign on PostgreSQL, and proof that it would see a loss. The long runs: `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import postgres
from tests.chaos.history import Verdict
from tests.chaos.kills import quiet
from tests.chaos.postgresql import KINDS, Result, play, read, summary


@pytest.mark.postgresql
@pytest.mark.slow
def test_two_nodes_on_one_server_lose_nothing_whatever_fails(tmp_path: Path) -> None:
    """One fault of each kind; and then the judge is shown the same history without one of its arrivals."""
    quiet()
    with postgres.server(postgres.SYNCED) as new_database:
        played, verdict = play(
            tmp_path, "short", new_database(), list(KINDS), lease=3.0, longest_stall=2.0, traffic_before=60
        )
        first = played.sinks.arrivals[0]
        played.sinks.arrivals = [
            one for one in played.sinks.arrivals if (one.uid, one.place) != (first.uid, first.place)
        ]
        without_one = played.verdict()
    assert verdict.kept, verdict.faults
    assert {kind: played.happened[kind] for kind in KINDS} == dict.fromkeys(KINDS, 1)
    assert verdict.acknowledged == verdict.sent > 0
    assert verdict.delivered >= verdict.sent
    assert without_one.faults == (f"lost: {first.uid} did not arrive at {first.place}",)


def test_rounds_on_postgresql_are_read_again_and_summed_up(tmp_path: Path) -> None:
    one = Result(1, "1:1", 10.0, {"node": 2}, {"0x0000": 30}, 1.5, Verdict(kills=2, sent=30))
    two = Result(2, "1:2", 5.4, {"node": 1, "stall": 1}, {"0xA700": 2}, 9.0, Verdict(kills=2, lost=1, faults=("x",)))
    file = tmp_path / "rounds.jsonl"
    assert read(file) == []
    file.write_text(one.line() + two.line())
    assert read(file) == [one, two]
    whole = summary(read(file))
    assert (whole["kills"], whole["sent"], whole["lost"], whole["seconds"]) == (4, 30, 1, 15)
    assert whole["happened"] == {"node": 3, "stall": 1}
    assert whole["answers"] == {"0x0000": 30, "0xA700": 2}
    assert (whole["longest_answer_s"], whole["faults"]) == (9.0, ["x"])
