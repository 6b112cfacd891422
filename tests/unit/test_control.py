"""The control socket: who is asked, what its silence means, and that a change is one with a node and without."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, Problem, Settings, load
from router.errors import explain
from router.flow import Caller
from router.model.files import shipped_model
from router.node import api, client, local_socket
from router.node.carrying_out import carry_out
from router.node.client import NoAnswerError, NoNodeError, ask, give, state
from router.node.local_socket import ControlServer
from router.node.node import Node
from router.node.orders import (
    BY_NAME,
    NAMES,
    CancelJob,
    DecideAgain,
    Discard,
    Many,
    Order,
    OrderError,
    Pause,
    Promote,
    Reload,
    Resume,
    Retry,
    RollBack,
    SetShadow,
    Silence,
    SpoolOrder,
    Wipe,
    parse,
)
from router.spool import Spool, SpoolError, open_spool, read_spool
from tests.unit.spooling import accept

TEXT = """
spool: {path: spool, reserve: 1 MB}
destinations:
  here: {ae_title: HERE, host: 127.0.0.1, port: 1}
rules: []
otherwise: {send: here}
"""


Answer = Callable[[Order, str], dict[str, Any]]


def well() -> dict[str, Any]:
    return {"spool": True}


@contextmanager
def serving(folder: Path, carry_out: Answer) -> Iterator[ControlServer]:
    server = ControlServer(folder, api.application(carry_out, {"health": well}))
    server.start()
    yield server
    server.stop()


def done(_order: Order, _who: str) -> dict[str, Any]:
    return {"done": True}


def connected(folder: Path) -> socket.socket:
    other = socket.socket(socket.AF_UNIX)
    other.settimeout(10)
    with client.short_path(folder) as path:
        other.connect(path)
    return other


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    got = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            got += piece
    return got


def test_an_order_and_who_gives_it_arrive_as_they_were_given(tmp_path: Path) -> None:
    got: list[tuple[Order, str]] = []

    def carry_out(order: Order, who: str) -> dict[str, Any]:
        got.append((order, who))
        return {"changed": 2}

    with serving(tmp_path, carry_out):
        assert give(tmp_path, Discard((3, 4)), "ann") == {"changed": 2}
        assert give(tmp_path, SetShadow(None, "/models/a"), "y" * 100) == {"changed": 2}
        assert (tmp_path / client.SOCKET).stat().st_mode & 0o777 == 0o600
    assert got == [(Discard((3, 4)), "ann"), (SetShadow(None, "/models/a"), "y" * 64)]


@pytest.mark.parametrize("order", [
    Retry((1,)), Discard((1, 2)), DecideAgain("a"), Pause("b"), Resume("b"), Wipe(), Reload(),
    Promote("a", "b", "c", "d"), RollBack("d"), SetShadow("a", "d"), SetShadow(None, "d"), Many("retry"), CancelJob(1),
    Many("move", "b", "why", "text", 1.5, 2.5, "spine", "rule", "a", "XRAY_1", "10.0.0.1", "buried"),
    Silence(2.5, "disk"),
])  # fmt: skip
def test_every_order_survives_json(order: Order) -> None:
    assert parse(NAMES[type(order)], json.loads(json.dumps(asdict(order)))) == order


def test_every_order_has_one_name() -> None:
    assert set(BY_NAME.values()) == set(get_args(Order))


def test_an_order_without_a_case_cannot_say_that_it_is_done() -> None:
    spool = cast(Spool, MagicMock())
    node = SimpleNamespace(_models=MagicMock(), _spool=spool, settings=lambda: SimpleNamespace(destinations={}))
    for order in (SimpleNamespace(), Reload(), Promote("a", "b", "c", "d")):
        with pytest.raises(AssertionError):
            carry_out(cast(Any, order), "ann", spool, ())
    with pytest.raises(AssertionError):
        Node.carry_out(cast(Any, node), cast(Any, SimpleNamespace()), "ann")
    for kind in get_args(SpoolOrder):
        order = kind(*((1,) if one.name == "deliveries" else "a" for one in fields(kind)))
        with suppress(OrderError):
            Node.carry_out(cast(Any, node), order, "ann")


@pytest.mark.parametrize(
    ("name", "about", "told"),
    [
        ("coffee", {}, "no such order: use one of retry, discard, decide-again, "),
        ("wipe", {"all": True}, "wipe: unknown field 'all'; it has no fields"),
        ("pause", {"destination": "a", "to": "b"}, "pause: unknown field 'to'; it has destination"),
        ("pause", {}, "pause: the field destination is missing"),
        ("pause", {"destination": 3}, "pause: destination must be a text of at most 4096 characters"),
        ("pause", {"destination": None}, "pause: destination must be a text"),
        ("pause", {"destination": "x" * 4097}, "pause: destination must be a text"),
        ("retry", {"deliveries": "1"}, "retry: deliveries must be a list of at most 1000 numbers"),
        ("retry", {"deliveries": [1] * 1001}, "retry: deliveries must be a list of at most 1000 numbers"),
        ("retry", {"deliveries": [1, "2"]}, "retry: deliveries must contain only numbers of deliveries"),
        ("retry", {"deliveries": [True]}, "retry: deliveries must contain only numbers of deliveries"),
        ("retry", {"deliveries": [1 << 63]}, "retry: deliveries must contain only numbers of deliveries"),
        ("retry", {"deliveries": [1], "who": 3}, "who must be a text"),
    ],
)
def test_an_order_that_is_none_is_refused_with_the_fix(
    tmp_path: Path, name: str, about: dict[str, Any], told: str
) -> None:
    with serving(tmp_path, done), pytest.raises(OrderError) as caught:
        ask(tmp_path, "POST", f"/orders/{name}", about)
    assert str(caught.value).startswith(told)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("method", "path"), [("GET", "/orders/wipe"), ("POST", "/health"), ("GET", "/else")])
def test_what_is_no_request_is_told_so(tmp_path: Path, method: str, path: str) -> None:
    with serving(tmp_path, done), pytest.raises(OrderError, match="no such request"):
        ask(tmp_path, method, path, {} if method == "POST" else None)


def test_no_socket_and_one_that_a_killed_node_left_mean_that_no_node_runs(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(NoNodeError, match="no node is running"):
            state(folder, "health")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / client.SOCKET))
    with pytest.raises(NoNodeError, match="no node is running"):
        state(tmp_path, "health")


def test_a_spool_however_deep_has_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    with serving(folder, done):
        assert state(folder, "health") == {"spool": True}


def test_a_node_that_does_not_answer_in_time_is_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that took it for none would make the change beside it, a second time."""
    monkeypatch.setattr(client, "SECONDS", 0.2)
    enough = threading.Event()

    def late(_order: Order, _who: str) -> dict[str, Any]:
        enough.wait(10)
        return {}

    with serving(tmp_path, late):
        with pytest.raises(NoAnswerError, match="did not answer within") as caught:
            give(tmp_path, Wipe(), "")
        enough.set()
    assert explain(caught.value) == (1, "the node did not answer within 0 s; see dicom-router events", {})


def test_a_node_that_ends_before_it_answers_is_a_node(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / client.SOCKET))
        server.listen()
        threading.Thread(target=lambda: server.accept()[0].close()).start()
        with pytest.raises(NoAnswerError, match="ended before it answered"):
            state(tmp_path, "health")


def test_whatever_comes_ends_its_own_connection_only(tmp_path: Path) -> None:
    head = b"POST /orders/wipe HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    bodies = (b"[" * 200_000, b"1" * 10_000, b"\xff", b"[]", b"x" * (api.LONGEST_BODY + 1))
    requests = [b"", b"\n", b"\xff" * 100, b"x" * 100_000, *(head % len(body) + body for body in bodies)]
    with serving(tmp_path, done) as server:
        for request in requests:
            with connected(tmp_path) as other:
                with suppress(BrokenPipeError, ConnectionResetError):
                    other.sendall(request)
                    other.shutdown(socket.SHUT_WR)
                assert b"200 OK" not in everything(other)
        assert give(tmp_path, Wipe(), "") == {"done": True}
        assert server.is_alive


def test_silent_and_trickling_clients_hold_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "REQUEST_SECONDS", 0.5)
    with serving(tmp_path, done), ExitStack() as stack:
        silent = stack.enter_context(connected(tmp_path))
        assert everything(silent) == b""
        trickling = stack.enter_context(connected(tmp_path))
        trickling.sendall(b"POST /orders/wipe HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        begin = time.monotonic()
        with suppress(OSError):  # broken pipe, when its time is over
            while time.monotonic() < begin + 10:
                trickling.sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() < begin + 9


def test_a_client_does_not_wait_for_silent_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_socket, "REQUEST_SECONDS", 60.0)
    monkeypatch.setattr(client, "SECONDS", 10.0)
    monkeypatch.setattr(local_socket, "PLACES", 4)
    with serving(tmp_path, done), ExitStack() as stack:
        silent = [stack.enter_context(connected(tmp_path)) for _ in range(12)]
        assert give(tmp_path, Wipe(), "") == {"done": True}
        assert everything(silent[0]) == b""  # the oldest has lost its place


def test_many_clients_at_once_are_answered_one_after_another(tmp_path: Path) -> None:
    inside = threading.Semaphore()

    def alone(order: Order, _who: str) -> dict[str, Any]:
        assert isinstance(order, Pause)
        assert inside.acquire(blocking=False)
        inside.release()
        return {"got": order.destination}

    with serving(tmp_path, alone), ThreadPoolExecutor(16) as pool:
        asked = [str(n) for n in range(32)]
        answers = pool.map(lambda name: give(tmp_path, Pause(name), "")["got"], asked)
        assert list(answers) == asked


def test_more_orders_than_can_wait_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST_WAITING", 1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(_order: Order, _who: str) -> dict[str, Any]:
        begun.set()
        go_on.wait(10)
        return {"slow": True}

    with serving(tmp_path, slow), ThreadPoolExecutor(1) as pool:
        first = pool.submit(give, tmp_path, Wipe(), "")
        assert begun.wait(10)
        with pytest.raises(OrderError, match=client.BUSY):
            give(tmp_path, Wipe(), "")
        go_on.set()
        assert first.result() == {"slow": True}


class Refusing(socket.socket):
    """A listener in a process that is out of descriptors at first."""

    refused = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refused < 2:
            self.refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_out_of_descriptors_answers_when_it_has_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlServer(tmp_path, api.application(done, {}))
    monkeypatch.setattr("router.node.local_socket.socket.socket", Refusing)
    server.start()
    monkeypatch.undo()
    assert isinstance(server._socket, Refusing)
    assert give(tmp_path, Wipe(), "") == {"done": True}
    assert server._socket.refused == 2
    server.stop()


def test_an_order_that_fails_for_an_unforeseen_reason_says_where_and_not_with_what(tmp_path: Path) -> None:
    def fail(_order: Order, _who: str) -> dict[str, Any]:
        raise KeyError("a patient's name")

    with serving(tmp_path, fail), pytest.raises(OrderError, match="the node failed: KeyError at ") as caught:
        give(tmp_path, Wipe(), "")
    assert "patient" not in str(caught.value)


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """What a node is to the command line: the spool's lock, and the socket."""
    spool = open_spool(settings.spool)

    def carry(order: Order, who: str) -> dict[str, Any]:
        assert isinstance(order, SpoolOrder)
        return carry_out(order, who, spool, settings.destinations)

    with serving(settings.spool.path, carry):
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
        assert queue("pause", "nowhere") == (2, "no destination nowhere: use one of here\n")
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
    carry_out(Pause("here"), "\x1b[31mX\x9b", spool, settings.destinations)
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
    ("error", "code"),
    [
        (ConfigError([Problem("routing.yaml", 2, "wrong")]), 2),
        (SpoolError("the disk fails"), 1),
        (FileNotFoundError(2, "No such file or directory", "routing.yaml"), 1),
    ],
)
def test_a_reload_fails_with_the_code_of_what_failed(tmp_path: Path, error: Exception, code: int) -> None:
    (tmp_path / "routing.yaml").write_text(TEXT)
    (tmp_path / "spool").mkdir()

    def fail(_order: Order, _who: str) -> dict[str, Any]:
        raise error

    with serving(tmp_path / "spool", fail):
        done = CliRunner().invoke(app, ["reload", "--config", str(tmp_path / "routing.yaml")])
        as_json = CliRunner().invoke(app, ["reload", "--json", "--config", str(tmp_path / "routing.yaml")])
    assert (done.exit_code, done.output) == (code, f"{explain(error)[1]}\n")
    told = json.loads(as_json.stdout)
    assert (told["error"], told["exit_code"], "problems" in told) == (explain(error)[1], code, code == 2)
