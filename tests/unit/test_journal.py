"""The journal of `classify` and `send`: a run goes on with it, but only a run like the one that made it."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from router.cli import app
from router.cli.classify import columns
from router.cli.runs import plain, run_of
from router.commands import tables
from router.commands.journal import FullError, Journal, JournalError, open_journal
from router.commands.tables import write_csv, write_parquet
from router.config import load, shipped
from router.config.settings import ModelSettings

RUN = {"program": "1", "model": "m", "rules": "r"}
LATIN_1 = os.fsdecode(b"/archive/r\xf6ntgen.dcm")


def note(journal: Journal, path: str, error: str = "", **row: Any) -> None:
    journal.note(Path(path), {"path": path, "error": error or None} | row, done=True, failed=bool(error))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A journal with two files, one of which could not be looked at."""
    journal = open_journal(tmp_path / "journal", RUN, restart=False)
    note(journal, "/b", "no image")
    note(journal, "/a")
    journal.close()
    return tmp_path / "journal"


def test_it_goes_on_and_remembers_what_failed(begun: Path) -> None:
    again = open_journal(begun, RUN, restart=False)
    assert [again.failed(Path(path)) for path in ("/a", "/b", "/c")] == [False, True, None]
    note(again, "/c")
    assert [row["path"] for row in again.rows()] == ["/a", "/b", "/c"]
    again.close()


def test_what_is_not_done_is_tried_again_and_noted_once(begun: Path) -> None:
    journal = open_journal(begun, RUN, restart=False)
    journal.note(Path("/c"), {"path": "/c", "error": "refused"}, done=False, failed=True)
    assert journal.failed(Path("/c")) is None
    note(journal, "/c")
    assert [row["error"] for row in journal.rows()] == [None, "no image", None]
    journal.close()


def test_rows_come_in_the_order_of_paths_however_many(begun: Path) -> None:
    journal = open_journal(begun, RUN, restart=True)
    for number in reversed(range(2500)):
        note(journal, f"/{number:04}")
    assert [row["path"] for row in journal.rows()] == [f"/{number:04}" for number in range(2500)]
    journal.close()


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        ({"rules": "other"}, "rules was r, now other ("),
        ({"model": "n", "program": "2"}, "model was m, now n; program was 1, now 2 ("),
        ({"--body-part": "True"}, "--body-part was none, now True ("),
    ],
)
def test_another_run_is_refused_and_told_what_differs(begun: Path, now: dict[str, str], differs: str) -> None:
    with pytest.raises(JournalError, match="was made by another run: ") as refused:
        open_journal(begun, RUN | now, restart=False)
    assert f"{differs}use --restart" in str(refused.value)
    open_journal(begun, RUN, restart=False).close()


def test_a_restart_begins_anew(begun: Path) -> None:
    anew = open_journal(begun, RUN | {"rules": "other"}, restart=True)
    assert [*anew.rows()] == []
    anew.close()
    open_journal(begun, RUN | {"rules": "other"}, restart=False).close()


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, restart: bool) -> None:
    (tmp_path / "text").write_text("path,class\na,spine\n" * 100)
    with sqlite3.connect(tmp_path / "database") as other:
        other.execute("CREATE TABLE file (path)")
    other.close()
    os.mkfifo(tmp_path / "pipe")
    before = {name: (tmp_path / name).read_bytes() for name in ("text", "database")}
    for name in ("text", "database", "pipe", "."):
        with pytest.raises(JournalError, match=r"is no journal|is not a regular file"):
            open_journal(tmp_path / name, RUN, restart=restart)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_two_commands_do_not_share_a_journal(begun: Path) -> None:
    first = open_journal(begun, RUN, restart=False)
    with pytest.raises(JournalError, match="another command writes to it"):
        open_journal(begun, RUN, restart=True)
    assert len([*first.rows()]) == 2
    first.close()


def test_a_process_that_is_killed_loses_nothing_that_it_noted(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from router.commands.journal import open_journal\n"
        "journal = open_journal(Path(sys.argv[1]), {}, restart=False)\n"
        "for n in range(500): journal.note(Path(f'/{n}'), {'path': n}, done=True, failed=False)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "journal")], check=False)
    assert done.returncode == -9
    journal = open_journal(tmp_path / "journal", {}, restart=False)
    assert sum(1 for _ in journal.rows()) == 500
    journal.close()


def test_no_room_for_the_journal_is_one_line(begun: Path) -> None:
    journal = open_journal(begun, RUN, restart=False)
    journal._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(FullError, match="the same command goes on"):
        note(journal, "/c", text="x" * 1_000_000)
    journal.close()


# -- tables ------------------------------------------------------------------------------------------------------------


ROWS: list[dict[str, Any]] = [
    {"path": "/a", "top": "spine", "confidence": 0.9, "inverted": True, "destinations": ["one", "two"], "p_spine": 0.9},
    {"path": LATIN_1, "error": "no image", "destinations": []},
]


def test_a_table_holds_every_row_and_names_that_are_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 2)
    rows, kinds = [*ROWS, *ROWS[:1]], columns(body_part=False)
    write_csv(tmp_path / "out.csv", kinds, iter(rows))
    write_parquet(tmp_path / "out.parquet", kinds, iter(rows))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as lines:
        told = [*csv.DictReader(lines)]
    assert [row["path"] for row in told] == ["/a", "/archive/r\\udcf6ntgen.dcm", "/a"]
    assert (told[0]["destinations"], told[0]["p_spine"], told[1]["confidence"]) == ("one two", "0.9", "")
    parquet = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet")
    assert parquet.num_row_groups == 2
    held = parquet.read().to_pylist()
    assert [row["path"] for row in held] == [row["path"] for row in told]
    assert (held[0]["destinations"], held[0]["inverted"], held[1]["confidence"]) == (["one", "two"], True, None)
    assert list(held[0]) == list(told[0]) == list(kinds)


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_table_that_could_not_be_written_leaves_the_old_one(tmp_path: Path, write: Any) -> None:
    (tmp_path / "out").write_text("old")

    def rows() -> Any:
        yield ROWS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "out", columns(body_part=False), rows())
    assert ((tmp_path / "out").read_text(), [*tmp_path.iterdir()]) == ("old", [tmp_path / "out"])


# -- what a run is -----------------------------------------------------------------------------------------------------


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
        "import json; from router.config import load, shipped; from router.cli.runs import plain; "
        "print(json.dumps(plain(load(shipped(), {}).rules)))"
    )
    environ = {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert json.loads(done.stdout) == json.loads(json.dumps(plain(load(shipped(), {}).rules)))
    assert " object at 0x" not in done.stdout


# -- refusals of the commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_a_pipe_and_a_folder_are_refused_before_they_are_opened(tmp_path: Path, restart: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    picture = tmp_path / "a.png"
    picture.touch()
    for option in ("--csv", "--parquet"):
        for out in (tmp_path / "pipe", tmp_path):
            done = CliRunner().invoke(app, ["classify", str(picture), option, str(out), *["--restart"] * restart])
            assert (done.exit_code, "is not a regular file" in done.stderr) == (2, True), done.output
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "a.png"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--csv", "out.csv"], "out.csv exists, but without out.csv.journal"),
        (["--restart"], "--restart needs --resume"),
        (["--parquet", "none/out"], "none/out: its folder is not there"),
    ],
)
@pytest.mark.parametrize("command", [["classify"], ["send", "--to", "X@127.0.0.1:1"]])
def test_a_run_that_could_not_end_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], options: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv").write_text("path,class\na,spine\n")
    done = CliRunner().invoke(app, [*command, ".", *options])
    assert (done.exit_code, done.stderr.startswith(line)) == (2, True), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
