"""What `dicom-router queue list` says of destinations to which nothing is sent."""

from __future__ import annotations

import time
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
    spool.set_circuit("down", time.time() + 60, 3, "Connection refused")
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
