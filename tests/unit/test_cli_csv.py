"""The CSV of `classify` goes on only with a run like the one that made it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.cli.csv_file import CsvFile, plain, run_of
from router.config import load, shipped
from router.config.settings import ModelSettings
from router.flow import CLASSES

RUN = {"program": "1", "model": "m", "rules": "r"}


def row(path: str, **changes: Any) -> dict[str, Any]:
    seen = {"top": "spine", "class": "spine", "confidence": 0.9, "probabilities": dict.fromkeys(CLASSES, 0.2)}
    return {"path": path} | seen | {"rule": "spine", "destinations": ["spine-ai"], "error": None} | changes


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A CSV with two files, one of which could not be looked at."""
    out = CsvFile(tmp_path / "out.csv", RUN)
    assert (out.refusal(), out.begin(restart=False)) == ("", {})
    none = dict.fromkeys(("top", "class", "rule", "probabilities"))
    out.write([row("a"), row("b", **none, error="no image", destinations=[])])
    return tmp_path / "out.csv"


def test_it_goes_on_and_remembers_what_failed(begun: Path) -> None:
    again = CsvFile(begun, RUN)
    assert again.refusal() == ""
    assert again.begin(restart=False) == {"a": False, "b": True}
    again.write([row("c")])
    with begun.open(newline="") as lines:
        assert [one["path"] for one in csv.DictReader(lines)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        ({"rules": "other"}, "rules was r, now other ("),
        ({"model": "n", "program": "2"}, "model was m, now n; program was 1, now 2 ("),
        ({"--body-part": "True"}, "--body-part was none, now True ("),
    ],
)
def test_another_run_is_refused_and_told_what_differs(begun: Path, now: dict[str, str], differs: str) -> None:
    assert f"was made by another run: {differs}use --restart" in CsvFile(begun, RUN | now).refusal()


def test_a_csv_that_something_else_made_is_refused(begun: Path) -> None:
    begun.with_name("out.csv.run.json").unlink()
    assert "exists, but without out.csv.run.json" in CsvFile(begun, RUN).refusal()


def test_a_restart_begins_anew(begun: Path) -> None:
    anew = CsvFile(begun, RUN | {"rules": "other"})
    assert anew.begin(restart=True) == {}
    assert (begun.read_bytes(), CsvFile(begun, RUN | {"rules": "other"}).refusal()) == (b"", "")


@pytest.mark.parametrize("restart", [False, True])
def test_a_pipe_and_a_folder_are_refused_before_they_are_opened(tmp_path: Path, restart: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        assert "is not a regular file" in CsvFile(path, RUN).refusal(restart=restart)
    picture = tmp_path / "a.png"
    picture.touch()
    words = ["classify", str(picture), "--csv", str(tmp_path / "pipe"), *["--restart"] * restart]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, {path.name for path in tmp_path.iterdir()}) == (2, {"pipe", "a.png"})


def test_half_a_row_is_looked_at_again(begun: Path) -> None:
    with begun.open("a") as file:
        file.write("c,spine,spi")
    again = CsvFile(begun, RUN)
    assert "c" not in again.begin(restart=False)
    again.write([row("c")])
    with begun.open(newline="") as lines:
        assert [one["class"] for one in csv.DictReader(lines)] == ["spine", "", "spine"]


def test_the_run_changes_with_rules_model_and_options_and_with_nothing_else(tmp_path: Path) -> None:
    settings, model = load(shipped(), {}), ModelSettings()
    (tmp_path / "card.json").write_text("{}")
    run = run_of(settings, model, calling_ae="")
    commented = tmp_path / "routing.yaml"
    commented.write_text("# another comment\n" + shipped().read_text())
    assert run_of(load(commented, {}), model, calling_ae="") == run
    others = {
        "rules": run_of(replace(settings, rules=replace(settings.rules, rules=settings.rules.rules[1:])), model),
        "model": run_of(settings, replace(model, path=tmp_path)),
        "--calling-ae": run_of(settings, model, calling_ae="X"),
    }
    for name, other in others.items():
        assert other[name] != run[name]


def test_the_digest_of_a_table_is_the_same_in_every_process() -> None:
    program = (
        "import json; from router.config import load, shipped; from router.cli.csv_file import plain; "
        "print(json.dumps(plain(load(shipped(), {}).rules)))"
    )
    environ = {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert json.loads(done.stdout) == json.loads(json.dumps(plain(load(shipped(), {}).rules)))
    assert " object at 0x" not in done.stdout


def test_classify_refuses_before_it_looks_at_anything(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("path,class\na,spine\n")
    done = CliRunner().invoke(app, ["classify", str(tmp_path), "--csv", str(tmp_path / "out.csv")])
    assert (done.exit_code, "exists, but without out.csv.run.json" in done.stderr) == (2, True), done.output
    done = CliRunner().invoke(app, ["classify", str(tmp_path), "--restart"])
    assert (done.exit_code, done.stderr) == (2, "--restart needs --csv\n")
