"""Roles of a node: how they are written, what they need, and copies without a model."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.cli.options import ROLES as VARIABLE
from router.config import ConfigError, load
from router.config.settings import ROLES, ModelSettings
from router.dicom.uids import EXPLICIT
from router.inference import CopyWorkers, InferenceError
from router.listening import listeners

POSTGRESQL = "spool: {database: postgresql://h/d}\n"
LEAST = """\
destinations: {ai: {ae_title: AI, host: ai.example.org, port: 104}}
rules: []
otherwise: {send: ai}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routing.yaml"
    path.write_text(LEAST)
    return path


@pytest.mark.parametrize(
    ("written", "roles"),
    [
        ("forward", ("forward",)), ("[web, receive, web]", ("receive", "web")), ("'forward, classify'", ROLES[1:3]),
        ("'receive,classify,forward,web'", ROLES),
    ],
)  # fmt: skip
def test_roles_are_a_list_or_words_with_commas(file: Path, written: str, roles: tuple[str, ...]) -> None:
    file.write_text(f"{LEAST}{POSTGRESQL}node: {{roles: {written}}}\n".replace("'", '"'))
    assert load(file, {}).node.roles == roles


@pytest.mark.parametrize("role", ["forward", "receive,classify,forward"])
def test_with_sqlite_one_node_does_everything(file: Path, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # put back what the command leaves
    ended = CliRunner().invoke(app, ["serve", "--config", str(file), "--role", role])
    assert isinstance(ended.exception, ConfigError)
    assert ended.exception.exit_code == 2
    (problem,) = ended.exception.problems
    assert "with SQLite one node does everything" in problem.message
    assert os.environ[VARIABLE] == role


def test_a_word_that_is_no_role_is_wrong_use(file: Path) -> None:
    ended = CliRunner().invoke(app, ["serve", "--config", str(file), "--role", "forward,sent"])
    assert ended.exit_code == 2
    assert "--role: 'sent' is not allowed (use one of: receive, classify, forward, web)" in ended.output


def test_ports_of_what_a_node_does_not_do_are_not_compared(file: Path) -> None:
    text = LEAST + POSTGRESQL + "web: {port: 11112}\nnode: {port: 11112, roles: ROLES}\n"
    file.write_text(text.replace("ROLES", "forward"))
    assert [name for name, *_ in listeners(load(file, {}))] == ["web.port"]
    file.write_text(text.replace("ROLES", "receive"))
    with pytest.raises(ConfigError, match=r"web\.port and node\.port are both 11112"):
        load(file, {})


# -- copies without a model


@pytest.fixture
def workers() -> Iterator[CopyWorkers]:
    made = CopyWorkers(ModelSettings(workers=1, pixel_timeout=10.0))
    made.start()
    yield made
    made.stop()


@pytest.mark.shared
@pytest.mark.slow
def test_copies_need_no_model(workers: CopyWorkers, shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "dicom" / "2-syntaxes" / "j2k_lossless_mr_i16.dcm"
    assert workers.transcode(source, tmp_path / "copy", EXPLICIT).result(60) == ""
    assert (tmp_path / "copy").stat().st_size > source.stat().st_size
    assert workers.transcode(Path(__file__), tmp_path / "no", EXPLICIT).result(60) != "", "it says why there is none"
    with pytest.raises(FileNotFoundError):
        workers.transcode(tmp_path / "gone", tmp_path / "no", EXPLICIT).result(60)


def test_who_waits_for_a_copy_at_the_end_is_told(tmp_path: Path) -> None:
    workers = CopyWorkers(ModelSettings(workers=1))
    waiting = workers.transcode(tmp_path, tmp_path / "copy", EXPLICIT)  # it was not started, so nothing takes it
    workers.stop(time.monotonic())
    for future in (waiting, workers.transcode(tmp_path, tmp_path / "copy", EXPLICIT)):
        with pytest.raises(InferenceError, match="the node is stopping"):
            future.result(1)
