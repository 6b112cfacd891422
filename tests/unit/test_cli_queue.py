"""What `dicom-router queue list` says of destinations to which nothing is sent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.spool import DeliveryState, open_spool, read_spool
from tests.unit.spooling import accept, decide, settings_of

CONFIG = """
spool: {path: spool, reserve: 1 MB}
destinations:
  down: {ae_title: DOWN, host: 127.0.0.1, port: 1}
  still: {ae_title: STILL, host: 127.0.0.1, port: 1}
  fine: {ae_title: FINE, host: 127.0.0.1, port: 1}
rules: []
otherwise: {send: down}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(CONFIG)
    spool = open_spool(settings_of(tmp_path / "spool"))
    accept(spool)
    decide(spool, "down", "still", "fine")
    spool.destinations.set_circuit("down", 60, 3, "Connection refused")
    spool.orders.pause("still", "somebody")
    spool.close()
    return tmp_path / "routing.yaml"


def test_a_destination_that_is_down_or_paused_is_named_with_what_waits(config: Path) -> None:
    done = CliRunner().invoke(app, ["queue", "list", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 3
    down, still = done.stderr.splitlines()
    assert down.startswith("down does not take anything, 1 wait, next try ")
    assert down.endswith("Connection refused")
    assert still == "still is paused, 1 wait: dicom-router queue resume still"


def test_one_destination_alone(config: Path) -> None:
    done = CliRunner().invoke(app, ["queue", "list", "--to", "fine", "--config", str(config)])
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)


def bury(config: Path, destination: str) -> None:
    spool = open_spool(settings_of(config.parent / "spool"))
    (one,) = spool.deliveries.claim(destination, 1)
    assert spool.deliveries.close(one, DeliveryState.BURIED, "refused").result()
    spool.close()


def queue(config: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["queue", *words, "--config", str(config)])
    return done.exit_code, done.stdout + done.stderr


def test_what_a_person_has_ordered_is_due_now(config: Path) -> None:
    assert queue(config, "retry", "--to", "down") == (0, "1 of 1 changed\n")
    assert "down does not take anything, 1 wait, next try now: Connection refused\n" in queue(config, "list")[1]


@pytest.mark.parametrize("words", [["pause"], ["resume"], ["retry", "--to"], ["discard", "--to"], ["list", "--to"]])
def test_a_destination_that_nobody_knows_is_wrong_use_and_one_that_is_gone_is_known(
    config: Path, words: list[str]
) -> None:
    config.write_text(CONFIG.replace("  fine:", "  new:"))  # `fine` is gone, and still owed something
    code, told = queue(config, *words, "nowhere")
    assert (code, told.endswith("nowhere: use one of down, fine, new, still\n")) == (2, True), told
    assert queue(config, *words, "fine")[0] == 0


def test_all_says_that_what_waits_is_not_among_it(config: Path) -> None:
    words = "3 wait and are not buried; use --to DESTINATION to retry these too\n"
    assert queue(config, "retry", "--all") == (0, "0 of 0 changed\n" + words)
    told = "3 wait and are not buried; use --to DESTINATION --all to discard these too\n"
    assert queue(config, "discard", "--all", "--yes") == (0, "0 of 0 changed\n" + told)


def test_discard_takes_what_is_buried_unless_told_otherwise(config: Path) -> None:
    bury(config, "down")
    assert queue(config, "discard", "--to", "still", "--yes") == (
        0, "0 of 0 changed\n1 wait and are not buried; use --waiting or --all to discard these\n",
    )  # fmt: skip
    for choice, taken in (("--waiting", "still"), ("--all", "fine"), ("--to", "down")):
        words = ["--to", taken, *([choice] if choice != "--to" else []), "--yes"]
        code, told = queue(config, "discard", *words)
        assert (code, told.splitlines()[0]) == (0, "1 of 1 changed"), told
    spool = read_spool(settings_of(config.parent / "spool"))
    dropped = [event for event in spool.views.events() if event.kind == "discarded by a person"]
    assert [event.destination for event in dropped] == ["still", "fine", "down"]
    assert all(event.detail["who"] for event in dropped)


def test_what_cannot_be_undone_says_what_it_takes_and_asks(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(config, "down")
    takes = "down: 1 deliveries (1 buried, 0 waiting), oldest since "
    code, told = queue(config, "discard", "--all")
    assert (code, told.startswith(takes)) == (2, True)
    assert told.endswith("nothing has changed: --yes is needed to discard for good\n")
    as_json = json.loads(queue(config, "discard", "--all", "--json")[1])
    assert (as_json["exit_code"], takes in as_json["error"]) == (2, True)
    monkeypatch.setattr("router.cli.options.on_terminal", lambda: True)
    for answer, code, left in (("n", 1, ["buried"]), ("y", 0, [])):
        done = CliRunner().invoke(app, ["queue", "discard", "--all", "--config", str(config)], input=answer + "\n")
        assert (done.exit_code, takes in done.stderr) == (code, True)
        spool = read_spool(settings_of(config.parent / "spool"))
        assert [row.state for row in spool.views.deliveries(states=["buried"])] == left


def test_wipe_says_what_it_takes_and_asks_and_records_who(config: Path) -> None:
    assert queue(config, "discard", "1", "2", "3", "--yes")[0] == 0
    for words, code in (([], 2), (["--yes"], 0)):
        done = CliRunner().invoke(app, ["wipe", *words, "--config", str(config)])
        assert (done.exit_code, "1 blobs of finished instances, 0.00 GB, the oldest" in done.stderr) == (code, True)
    (wiped,) = read_spool(settings_of(config.parent / "spool")).views.events(kind="wiped")
    assert wiped.detail["removed"] == 1
    assert wiped.detail["who"]


def test_the_list_says_for_each_delivery_what_its_destination_does(config: Path) -> None:
    lines = CliRunner().invoke(app, ["queue", "list", "--config", str(config)]).stdout.splitlines()
    assert [line.rpartition("tries 0")[2].strip() for line in lines] == ["(circuit open)", "(paused)", ""]
    done = CliRunner().invoke(app, ["queue", "list", "--json", "--config", str(config)])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["paused"], row["circuit_open"]) for row in rows] == [(False, True), (True, False), (False, False)]
    assert (rows[0]["circuit_reason"], rows[0]["next_try_at"] > time.time()) == ("Connection refused", True)


def test_numbers_that_cannot_be_changed_are_told_why(config: Path) -> None:
    assert queue(config, "discard", "1", "--yes")[0] == 0
    assert queue(config, "retry", "1", "2", "999") == (
        1, "1 of 3 changed\n1: discarded already\n999: no such delivery\n",
    )  # fmt: skip


def test_an_instance_is_known_by_its_id_and_by_the_number_of_a_delivery(config: Path) -> None:
    by_number = queue(config, "show", "2")
    instance = by_number[1].splitlines()[0].split()[-1]
    assert by_number == queue(config, "show", instance) != (0, "")
    assert queue(config, "decide-again", "2") == (0, "a new decision is ordered\n")
    for unknown in ("999", "0" * 32, "x"):
        assert queue(config, "show", unknown) == (
            1, f"no instance or delivery '{unknown}'; queue list shows them\n",
        )  # fmt: skip
        assert queue(config, "decide-again", unknown)[0] == 1
