"""A short run of the chaos harness, and proof that it would see a loss. The long runs: `make chaos`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.corpus import database
from tests.chaos.history import Verdict
from tests.chaos.kills import Result, play, quiet, read, rows_without_blob, summary


@pytest.mark.strace
def test_nothing_is_lost_when_the_node_is_killed(tmp_path: Path) -> None:
    quiet()
    verdict = play(tmp_path, "short", ["aimed", "worker", "random"]).verdict()
    assert verdict.kept, verdict.faults
    assert verdict.kills == 3
    assert verdict.acknowledged == verdict.sent > 0
    assert verdict.delivered >= verdict.sent


@pytest.mark.slow
@pytest.mark.strace
@pytest.mark.parametrize("way", ["study", "stow", "results"])
def test_nothing_is_lost_with_studies_a_web_server_or_an_ai_that_answers(way: str, tmp_path: Path) -> None:
    quiet()
    played = play(tmp_path, f"short {way}", ["aimed", "random"], way=way)
    verdict = played.verdict()
    assert verdict.kept, verdict.faults
    assert verdict.acknowledged == verdict.sent > 0
    assert bool(played.sinks.requests) == (way == "stow")
    with database(played.life.node) as connection:
        followed = connection.execute("SELECT count(*) FROM delivery WHERE follows IS NOT NULL").fetchone()[0]
        matched = connection.execute("SELECT count(DISTINCT result_id) FROM result").fetchone()[0]
    assert bool(followed) == (way == "study")
    assert bool(matched) == (way == "results")


def test_a_destination_that_loses_what_it_took_is_seen(tmp_path: Path) -> None:
    quiet()
    verdict = play(tmp_path, "dropping", ["random"], dropping="two").verdict()
    assert verdict.lost > 0
    assert not verdict.kept
    assert all("two" in fault for fault in verdict.faults)


def test_a_row_without_its_blob_or_with_half_of_it_is_seen(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "node.db")) as connection:
        connection.execute("CREATE TABLE instance (id, offset, size, state)")
        rows = [("0aa", 10, 5, "new"), ("1aa", 10, 5, "gone"), ("2aa", 10, 5, "finished"), ("3aa", 10, 5, "decided")]
        connection.executemany("INSERT INTO instance VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    folder = tmp_path / "blobs" / "aa"
    folder.mkdir(parents=True)
    (folder / "0aa.dcm").write_bytes(bytes(15))
    (folder / "3aa.dcm").write_bytes(bytes(14))
    assert rows_without_blob(tmp_path) == {"2aa", "3aa"}


def test_rounds_are_read_again_and_summed_up(tmp_path: Path) -> None:
    one = Result(1, "1:1", "stub", 10.0, {"fsync": 2}, Verdict(kills=2, sent=30))
    two = Result(2, "1:2", "real", 5.4, {"fsync": 1}, Verdict(kills=1, sent=20, lost=1, faults=("lost: x",)))
    file = tmp_path / "rounds.jsonl"
    assert read(file) == []
    file.write_text(one.line() + two.line())
    assert read(file) == [one, two]
    whole = summary(read(file))
    assert (whole["kills"], whole["sent"], whole["lost"], whole["seconds"]) == (3, 50, 1, 15)
    assert whole["kills_by_model"] == {"stub": 2, "real": 1}
    assert whole["kills_before"] == {"fsync": 3}
    assert whole["faults"] == ["lost: x"]
