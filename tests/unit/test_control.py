"""The control socket: who is asked, what its silence means, and that a change is one with a node and without."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.cli.failures import explain
from router.config import ConfigError, Problem, Settings, load
from router.flow import Caller
from router.model.files import shipped_model
from router.node import control
from router.node.control import ControlServer, NoAnswerError, NoNodeError, ask, carry_out
from router.spool import SpoolError, open_spool, read_spool
from tests.unit.spooling import accept

TEXT = """
spool: {path: spool, reserve: 1 MB}
destinations:
  here: {ae_title: HERE, host: 127.0.0.1, port: 1}
rules: []
otherwise: {send: here}
"""


@contextmanager
def serving(folder: Path, handler: control.Handler) -> Iterator[ControlServer]:
    server = ControlServer(folder, handler)
    server.start()
    yield server
    server.stop()


def connected(folder: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    with control._short(folder) as path:
        client.connect(path)
    return client


def test_a_request_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path, lambda request: {"got": request}):
        assert ask(tmp_path, {"do": "it"}) == {"got": {"do": "it"}}


def test_no_socket_and_one_that_a_killed_node_left_mean_that_no_node_runs(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(NoNodeError, match="no node is running"):
            ask(folder, {})
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / control.SOCKET))
    with pytest.raises(NoNodeError, match="no node is running"):
        ask(tmp_path, {})


def test_a_node_that_does_not_answer_in_time_is_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took it for none would make the change beside it, a second time."""
    monkeypatch.setattr(control, "SECONDS", 0.2)
    done = threading.Event()

    def late(_request: dict[str, Any]) -> dict[str, Any]:
        done.wait(10)
        return {}

    with serving(tmp_path, late):
        with pytest.raises(NoAnswerError, match="did not answer within") as caught:
            ask(tmp_path, {"do": "wipe"})
        done.set()
    assert explain(caught.value) == (1, "the node did not answer within 0 s; see dicom-router events")


def test_a_node_that_ends_before_it_answers_is_a_node(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / control.SOCKET))
        server.listen()
        threading.Thread(target=lambda: server.accept()[0].close()).start()
        with pytest.raises(NoAnswerError, match="ended before it answered"):
            ask(tmp_path, {})


def test_whatever_comes_ends_its_own_connection_only(tmp_path: Path) -> None:
    deep, wide = b"[" * 200_000 + b"\n", b"1" * 10_000 + b"\n"
    with serving(tmp_path, lambda request: request) as server:
        for line in (b"", b"\n", deep, wide, b"\xff\n", b"[]\n"):
            with connected(tmp_path) as client:
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        assert ask(tmp_path, {"do": "it"}) == {"do": "it"}
        assert server.is_alive


def test_silent_and_trickling_clients_hold_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.5)
    with serving(tmp_path, lambda request: request), ExitStack() as stack:
        silent = stack.enter_context(connected(tmp_path))
        assert silent.recv(1) == b""
        trickling = stack.enter_context(connected(tmp_path))
        begin = time.monotonic()
        with suppress(OSError):  # broken pipe, when its time is over
            while time.monotonic() < begin + 10:
                trickling.sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() < begin + 9


def test_a_client_does_not_wait_for_silent_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 60.0)
    monkeypatch.setattr(control, "SECONDS", 10.0)
    monkeypatch.setattr(control, "PLACES", 4)
    with serving(tmp_path, lambda request: request), ExitStack() as stack:
        silent = [stack.enter_context(connected(tmp_path)) for _ in range(12)]
        assert ask(tmp_path, {"do": "it"}) == {"do": "it"}
        assert silent[0].recv(1) == b""  # the oldest has lost its place


def test_many_clients_at_once_are_answered_one_after_another(tmp_path: Path) -> None:
    inside = threading.Semaphore()

    def alone(request: dict[str, Any]) -> dict[str, Any]:
        assert inside.acquire(blocking=False)
        inside.release()
        return request

    with serving(tmp_path, alone), ThreadPoolExecutor(16) as pool:
        asked = [{"do": n} for n in range(32)]
        assert list(pool.map(lambda request: ask(tmp_path, request), asked)) == asked


def test_more_orders_than_can_wait_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ORDERS", 1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        go_on.wait(10)
        return request

    with serving(tmp_path, slow), ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, tmp_path, {"do": "first"})
        assert begun.wait(10)
        assert ask(tmp_path, {"do": "second"}) == {"error": control.BUSY}
        go_on.set()
        assert first.result() == {"do": "first"}


class Refusing(socket.socket):
    """A listener in a process that is out of descriptors at first."""

    refused = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refused < 2:
            self.refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_out_of_descriptors_answers_when_it_has_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlServer(tmp_path, lambda request: request)
    monkeypatch.setattr(socket, "socket", Refusing)
    server.start()
    monkeypatch.undo()
    assert ask(tmp_path, {"do": "it"}) == {"do": "it"}
    server.stop()


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """What a node is to the command line: the spool's lock, and the socket."""
    spool = open_spool(settings.spool)
    with serving(settings.spool.path, lambda request: carry_out(spool, request, settings.destinations)):
        yield
    spool.close()


@pytest.mark.parametrize("with_node", [True, False])
def test_a_change_is_the_same_with_a_node_and_without(tmp_path: Path, with_node: bool) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    settings = load(tmp_path / "routing.yaml", {})

    def queue(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["queue", *words, "--config", str(settings.file)])
        return done.exit_code, done.output

    with working(settings) if with_node else nullcontext():
        assert queue("pause", "nowhere") == (2, "no destination nowhere: one of here\n")
        assert queue("pause", "here") == (0, "here is paused\n")
        assert queue("resume", "here", "--json") == (0, '{"done": true}\n')
        assert queue("decide-again", "0" * 32) == (1, "no such instance, or its blob is gone\n")
    events = read_spool(settings.spool).views.events()
    assert [(event.kind, event.destination) for event in events] == [("paused", "here"), ("resumed", "here")]


def test_an_instance_is_shown_in_words(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    settings = load(tmp_path / "routing.yaml", {})
    spool = open_spool(settings.spool)
    instance_id = accept(spool).instance_id
    spool.close()
    with sqlite3.connect(settings.spool.path / "node.db") as database:
        shares = "[0.01, 0.95, 0.02, 0.01, 0.01]"
        database.execute("UPDATE instance SET probabilities = ?, facts = ?", (shares, '{"rows": 9, "window": null}'))
    database.close()
    done = CliRunner().invoke(app, ["queue", "show", instance_id, "--config", str(settings.file)])
    assert "adult_chest 0.95, pediatric_chest 0.02" in done.output
    assert "rows 9\n" in done.output


@pytest.mark.parametrize(
    ("novel", "digest", "told"),
    [
        (0, "shipped", "uncertain (spine 0.31 is below its threshold "),
        (1, "shipped", "uncertain (unlike what the model was trained on)"),
        (0, "unknown", "uncertain\n"),
    ],
)
def test_why_a_prediction_is_uncertain_is_shown(tmp_path: Path, novel: int, digest: str, told: str) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    settings = load(tmp_path / "routing.yaml", {})
    spool = open_spool(settings.spool)
    instance_id = accept(spool).instance_id
    spool.close()
    if digest == "shipped":
        digest = json.loads((shipped_model() / "card.json").read_bytes())["digest"]
    with sqlite3.connect(settings.spool.path / "node.db") as database:
        database.execute(
            "UPDATE instance SET class = 'uncertain', top = 'spine', confidence = 0.31, novel = ?, model = ?",
            (novel, digest),
        )
    database.close()
    done = CliRunner().invoke(app, ["queue", "show", instance_id, "--config", str(settings.file)])
    assert told in done.output


def test_what_is_shown_gives_no_orders_to_a_terminal_and_one_damaged_value_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    settings = load(tmp_path / "routing.yaml", {})
    spool = open_spool(settings.spool)
    instance_id = accept(spool, caller=Caller("\x1b]0;OWNED\x07é", "ROUTER", "10.0.0.1")).instance_id
    carry_out(spool, {"do": "pause", "destination": "here", "who": "\x1b[31mX\x9b"}, settings.destinations)
    spool.close()
    with sqlite3.connect(settings.spool.path / "node.db") as database:
        database.execute("UPDATE instance SET facts = '{broken'")
        database.execute("INSERT INTO event (at, kind, detail) VALUES (1, 'broken', '{broken')")
    database.close()
    for words, told in ((["queue", "show", instance_id], "?]0;OWNED?é"), (["events"], "who=?[31mX?")):
        done = CliRunner().invoke(app, [*words, "--config", str(settings.file)])
        assert done.exit_code == 0
        assert told in done.output
        assert "damaged" in done.output
        assert not set("\x1b\x07\x9b") & set(done.output)


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError([Problem("routing.yaml", 2, "wrong")]), 2), (SpoolError("the disk fails"), 1)]
)
def test_a_reload_fails_with_the_code_of_what_failed(tmp_path: Path, error: Exception, code: int) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    (tmp_path / "spool").mkdir()

    def fail(_request: dict[str, Any]) -> dict[str, Any]:
        raise error

    with serving(tmp_path / "spool", fail):
        done = CliRunner().invoke(app, ["reload", "--config", str(tmp_path / "routing.yaml")])
        as_json = CliRunner().invoke(app, ["reload", "--json", "--config", str(tmp_path / "routing.yaml")])
    assert (done.exit_code, done.output) == (code, f"{error}\n")
    told = json.loads(as_json.stdout)
    assert (told["error"], told["exit_code"], "problems" in told) == (str(error), code, code == 2)
