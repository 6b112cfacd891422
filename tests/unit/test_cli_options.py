"""What every command shares: where its configuration is found, and how a failure is told to a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router import cli
from router.cli import app, options

BROKEN = "rules: nonsense\nothrwise: {}\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder in which a command runs, and that of the machine; no variable is set."""
    here, machine = tmp_path / "here", tmp_path / "machine"
    here.mkdir()
    machine.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(options, "PLACES", (Path("routing.yaml"), machine / "routing.yaml"))
    monkeypatch.delenv(options.VARIABLE, raising=False)
    return [here / "routing.yaml", machine / "routing.yaml"]


def test_a_configuration_is_found_in_order(places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here, machine = places
    machine.touch()
    assert options.config_file(None) == machine
    here.touch()
    assert options.config_file(None) == Path("routing.yaml")
    monkeypatch.setenv(options.VARIABLE, "/of/the/environment.yaml")
    assert options.config_file(None) == Path("/of/the/environment.yaml")
    assert options.config_file(None, Path("named.yaml")) == Path("named.yaml")


COMMANDS = [
    ["check"], ["serve"], ["conformance"], ["events"], ["reload"], ["wipe"], ["queue", "list"], ["queue", "show", "1"],
    ["queue", "retry", "--all"], ["queue", "discard", "--all"], ["queue", "pause", "x"], ["queue", "resume", "x"],
    ["queue", "decide-again", "1"], ["model", "show"], ["model", "rollback"], ["model", "compare"],
    ["model", "shadow", "off"], ["send", ".", "--to", "x"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_looks_there_and_says_where_it_looked(places: list[Path], words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr.startswith("no configuration: there is no routing.yaml in")) == (2, True)
    places[1].write_text(BROKEN)
    done = CliRunner().invoke(app, words)
    assert str(done.exception).startswith(f"{places[1]}:1: ")
    done = CliRunner().invoke(app, [*words, "-c", "named.yaml"])
    assert str(done.exception).startswith("named.yaml: cannot be read")


def test_check_takes_a_configuration_either_way_and_only_one(places: list[Path]) -> None:
    done = CliRunner().invoke(app, ["check", "a.yaml", "--config", "b.yaml"])
    assert (done.exit_code, done.stderr) == (2, "two configurations are named: a.yaml and b.yaml; name one\n")
    for words in (["a.yaml"], ["-c", "a.yaml"], ["a.yaml", "-c", "a.yaml"]):
        assert str(CliRunner().invoke(app, ["check", *words]).exception).startswith("a.yaml: cannot be read")


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the console script."""
    monkeypatch.setattr("sys.argv", ["dicom-router", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, error = capsys.readouterr()
    return int(ended.value.code or 0), out, error


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["queue", "list", "--nonsense"], 2, "nonsense"),
        (["queue", "list", "-c", "none.yaml"], 2, "none.yaml: cannot be read"),
        (["queue", "retry"], 2, "name deliveries by number, or use --to DESTINATION, --all or a filter of find"),
        (["queue", "discard", "1", "--all"], 2, "name deliveries either by number, or by --to, --all"),
        (["queue", "discard", "--waiting"], 2, "--waiting needs --to DESTINATION"),
        (["queue", "list"], 2, "no configuration"),
        (["classify", "nothing"], 2, "nothing: no such file or folder"),
        (["evaluate"], 2, "give either --folder DIR or --manifest FILE.csv"),
    ],
)
def test_every_failure_is_json_where_json_was_asked_for(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, says: str,
) -> None:  # fmt: skip
    ended, out, error = told(monkeypatch, capsys, *words, "--json")
    answer = json.loads(out)
    assert (ended, answer["exit_code"], error) == (code, code, "")
    assert says in answer["error"]
    ended, out, error = told(monkeypatch, capsys, *words)
    assert (ended, out) == (code, "")
    assert error


def test_each_mistake_of_a_configuration_is_told_by_itself(
    places: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places[0].write_text(BROKEN)
    _, out, _ = told(monkeypatch, capsys, "check", "--json")
    problems = json.loads(out)["problems"]
    assert {"file": "routing.yaml", "line": 2, "message": "unknown key 'othrwise'",
            "fix": "did you mean 'otherwise'?"} in problems  # fmt: skip
    assert len(problems) > 2
