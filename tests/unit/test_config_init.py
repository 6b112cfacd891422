"""`init` writes a file that loads, for every set of AIs that a site can have."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from router.cli.init import command
from router.commands.new_config import AI_CLASSES, Endpoint, destination_of, generated
from router.config import load, shipped

APP = typer.Typer()
APP.command()(command)
REST = Endpoint("PACS", "pacs.example.org", 11112)
SETS = [chosen for n in range(len(AI_CLASSES) + 1) for chosen in combinations(AI_CLASSES, n)]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(APP, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("chosen", SETS, ids="+".join)
def test_every_set_of_ais_loads_without_a_loose_end(chosen: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(generated(shipped().read_text(), {n: Endpoint(n.upper(), "::1", 104) for n in chosen}, REST))
    settings = load(file, {})
    expected = [*map(destination_of, chosen), "catch-all"]
    assert list(settings.destinations) == expected
    assert {name for rule in settings.rules.rules for name in rule.send} == set(expected)
    assert len(settings.warnings) == 1, "only that everybody is accepted"
    assert settings.destinations["catch-all"].host == "pacs.example.org"
    if chosen:
        assert settings.destinations[destination_of(chosen[0])].host == "::1"


def test_rules_of_absent_ais_are_gone_and_the_others_keep_their_comments(tmp_path: Path) -> None:
    text = generated(shipped().read_text(), {"spine": REST}, REST)
    assert "chest" not in text.partition("rules:")[2]
    assert "# Images that no X-ray AI was made for" in text


def test_all_ais_change_only_the_addresses() -> None:
    before = shipped().read_text()
    after = generated(before, dict.fromkeys(AI_CLASSES, REST), REST)
    changed = [old for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 5
    assert all("ae_title" in line for line in changed)


def test_one_ai_and_a_catch_all(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    code, said = run(str(file), "--ai", "adult-chest=CHEST_AI@10.1.0.21:104", "--catch-all", "PACS@pacs:11112")
    assert (code, said) == (0, f"{file} is written. Check it with: dicom-router check {file}\n")
    destinations = load(file, {}).destinations
    assert list(destinations) == ["adult-chest-ai", "catch-all"]
    assert [path.name for path in tmp_path.iterdir()] == ["routing.yaml"]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("mine")
    assert run(str(file)) == (2, f"{file} exists; --force overwrites it\n")
    assert file.read_text() == "mine"
    assert run(str(file), "--force")[0] == 0
    assert file.read_text() == shipped().read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ai", "spine=A@h:104"], "--catch-all AE@HOST:PORT is missing"),
        (["--ai", "spin=A@h:104", "--catch-all", "A@h:104"], "did you mean 'spine'?"),
        (["--ai", "others=A@h:104", "--catch-all", "A@h:104"], "there is no AI for the class 'others'"),
        (["--ai", "spine", "--catch-all", "A@h:104"], "'spine' is not CLASS=AE@HOST:PORT"),
        (["--ai", "spine=A@h:104", "--ai", "spine=B@h:104", "--catch-all", "A@h:104"], "a class twice"),
        (["--catch-all", "h:104"], "'h:104' is not AE@HOST:PORT"),
        (["--catch-all", "A@h:0"], "'0' is not a port"),
        (["--ai", "spine=127.0.0.1@SPINE_AI:104", "--catch-all", "A@h:104"], "(write SPINE_AI@127.0.0.1:104)"),
        (
            ["--catch-all", "pacs.example.org@PACS:104"],
            "'pacs.example.org' is a host, and is in the place of the AE title",
        ),
        (["--catch-all", "fd00::1@PACS:104"], "(write PACS@[fd00::1]:104)"),
        (["--catch-all", "A@h/x:104"], "is not a host"),
        (["--catch-all", "A" * 17 + "@h:104"], "has 17 characters"),
        (["--catch-all", "${A}@h:104"], "the environment variable A is not set"),
    ],
)
def test_a_wrong_option_writes_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "routing.yaml"), *arguments)
    assert code == 2
    assert said in output
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_option_is_named_at_once(tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "routing.yaml"), "--ai", "spin=A@h:104", "--ai", "spine")
    assert code == 2
    assert [line.split(":")[0] for line in output.splitlines()] == ["--ai", "--ai", "--catch-all AE@HOST"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "no" / "routing.yaml"
    assert run(str(file)) == (2, f"{file} cannot be written: make its folder first: mkdir -p {file.parent}\n")


def test_on_a_terminal_it_asks_until_the_answers_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "routing.yaml"
    answers = iter(["", "nonsense", "CHEST_AI@10.1.0.21:104", "", "", "", "PACS@pacs:104"])
    monkeypatch.setattr("router.cli.init._on_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    code, said = run(str(file))
    assert code == 0
    assert "'nonsense' is not AE@HOST:PORT" in said
    assert list(load(file, {}).destinations) == ["adult-chest-ai", "catch-all"]
    assert next(answers, None) is None
