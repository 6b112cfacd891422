"""What `dicom-router queue list` says of destinations to which nothing is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.spool import open_spool
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
    spool.set_circuit("down", 60, 3, "Connection refused")
    spool.pause("still", "somebody")
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
    assert (code, told.endswith("nowhere: one of down, fine, new, still\n")) == (2, True), told
    assert queue(config, *words, "fine")[0] == 0


def test_all_says_that_what_waits_is_not_among_it(config: Path) -> None:
    words = "3 wait and are not buried; --to DESTINATION takes these, too\n"
    assert queue(config, "retry", "--all") == (0, "0 of 0 changed\n" + words)
    assert queue(config, "discard", "--to", "down", "--all") == (0, "1 of 1 changed\n")


def test_numbers_that_cannot_be_changed_are_told_why(config: Path) -> None:
    assert queue(config, "discard", "1")[0] == 0
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
