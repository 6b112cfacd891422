"""The page on the port of health: by the real server, over TLS, for slow readers, and by the commands of users."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typer.testing import CliRunner

from router.cli import app
from router.config import load
from router.config.settings import Networks, WebSettings, WebTls
from router.flow import Role
from router.listening import AddressError
from router.node.orders import BY_NAME, AddUser, RemoveUser
from router.spool import Spool, open_spool
from router.web import WebServer, server
from router.web.access import Access, needs, passwords, protected
from tests.unit.access import LOOPBACK, PASSWORD, QUICK, add_user, site
from tests.unit.peer import wait_for
from tests.unit.spooling import settings_of
from tests.unit.test_control import working
from tests.unit.test_web import Sound, half_a_request


@contextmanager
def serving(spool: Spool, settings: WebSettings) -> Iterator[int]:
    view: Any = Sound()
    settings = replace(settings, address="127.0.0.1", port=0)
    web = WebServer(settings, view, site(spool, settings).app)
    yield web.start()
    web.stop()


def whole(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        got = b""
        while piece := client.recv(65536):
            got += piece
    return got


def test_page_and_health_on_one_port(spool: Spool) -> None:
    with serving(spool, LOOPBACK) as port:
        head = f"Host: localhost:{port}\r\n\r\n".encode()
        assert b"local sees /now" in whole(port, b"GET /now HTTP/1.1\r\n" + head)
        assert b" 200 " in whole(port, b"GET /healthz HTTP/1.1\r\n" + head)
        assert b" 400 " in whole(port, b"GET /..%2fhealthz HTTP/1.1\r\n" + head)
        assert b" 400 " in whole(port, b"GET //healthz HTTP/1.1\r\n" + head)
        assert b" 403 " in whole(port, b"GET /now HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert b" 200 " in whole(port, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n"), "as before"
        assert b" 403 " in whole(port, b"GET /now HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1\r\n" + head)


def test_a_body_that_is_too_large_is_refused_before_it_has_come(spool: Spool) -> None:
    with serving(spool, LOOPBACK) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(
            b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 1_100_000
        )
        assert b" 413 " in client.recv(1000)


def test_a_slow_sender_loses_its_place(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 0.5)
    with serving(spool, LOOPBACK) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""


def test_a_slow_reader_loses_its_place(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for more than the buffers between hold, and reads nothing of it."""
    monkeypatch.setattr(server, "SECONDS", 0.5)

    @needs(Role.VIEW)
    async def much(_: Request) -> Response:
        return Response(bytes(1 << 26))

    view: Any = Sound()
    app = protected(Starlette(routes=[Route("/much", much)]), Access(LOOPBACK, spool))
    web = WebServer(replace(LOOPBACK, port=0), view, app)
    port = web.start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: client.recv(1, socket.MSG_PEEK) != b"", 10)
        wait_for(lambda: not web._server.server_state.connections, 10)
        assert b" 200 " in whole(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    web.stop()


@pytest.mark.parametrize(("longest", "answered"), [(30.0, True), (0.2, False)])
def test_a_peer_that_waits_for_a_busy_node_is_answered(
    longest: float, answered: bool, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that gets no answer at all says that the node is broken; but a node does not work for ever."""
    monkeypatch.setattr(server, "SECONDS", 0.1)
    monkeypatch.setattr(server, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(server, "WORK_SECONDS", longest)

    @needs(Role.VIEW)
    async def late(_: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response("at last")

    app = protected(Starlette(routes=[Route("/late", late)]), Access(LOOPBACK, spool))
    view: Any = Sound()
    web = WebServer(replace(LOOPBACK, port=0), view, app)
    port = web.start()
    got = b""
    with suppress(ConnectionResetError):
        got = whole(port, b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
    web.stop()
    assert (b"at last" in got) == answered


@pytest.mark.parametrize("proxies", [(), (ip_network("127.0.0.1"),)])
def test_a_proxy_has_as_many_places_as_there_are(spool: Spool, proxies: Networks) -> None:
    with serving(spool, replace(LOOPBACK, behind_proxy=proxies)) as port, ExitStack() as stack:
        clients = [stack.enter_context(half_a_request(port)) for _ in range(server.PER_PEER + 1)]
        assert b" 200 " in whole(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            clients[0].sendall(b"\r\n")
            answer = clients[0].recv(1000)
        assert (b" 200 " in answer) == bool(proxies)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> WebTls:
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    files = ["-keyout", str(folder / "web.key"), "-out", str(folder / "web.crt")]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return WebTls(folder / "web.crt", folder / "web.key")


def test_over_tls(spool: Spool, tls: WebTls, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    monkeypatch.setattr(server, "SECONDS", 1.0)
    context = ssl.create_default_context(cafile=str(tls.certificate))
    with (
        serving(spool, replace(LOOPBACK, tls=tls)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as silent,
    ):
        with urllib.request.urlopen(f"https://localhost:{port}/healthz", context=context) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"https://localhost:{port}/x", context=context) as answer:
            assert answer.url.endswith("/login?next=/x")
            assert "__Host-" in answer.headers["set-cookie"]
            assert "Secure" in answer.headers["set-cookie"]
        assert silent.recv(1) == b"", "a handshake has its time"


def test_tls_files_that_cannot_be_used_are_told_at_the_start(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "web.crt").write_text("no certificate")
    view: Any = Sound()
    settings = replace(LOOPBACK, port=0, tls=WebTls(tmp_path / "web.crt", tmp_path / "web.key"))
    with pytest.raises(AddressError, match=r"web\.tls: .*correct the file"):
        WebServer(settings, view).start()


# -- commands


@pytest.fixture
def config(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK)
    file = tmp_path / "routing.yaml"
    file.write_text(
        f"spool: {{path: spool, database: '{database}'}}\n"
        "destinations: {a: {ae_title: A, host: h, port: 104}}\nrules: []\notherwise: {send: a}\n"
    )
    (tmp_path / "password").write_text(PASSWORD + "\n")
    open_spool(settings_of(tmp_path / "spool", database)).close()
    return file


def run(config: Path, *words: str, code: int = 0, **more: Any) -> str:
    done = CliRunner().invoke(app, ["user", *words, "--config", str(config)], **more)
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_users_by_the_command_line(config: Path) -> None:
    of_file = ("--password-file", str(config.parent / "password"))
    run(config, "add", "ann", "--role", "view", "--role", "images", *of_file)
    run(config, "add", "root", "--role", "all", *of_file)
    run(config, "add", "bob", "--no-password")
    rows = [json.loads(line) for line in run(config, "list", "--json").splitlines()]
    assert [(row["user"], row["roles"], row["has_password"]) for row in rows] == [
        ("ann", ["view", "images"], True), ("bob", ["view"], False), ("root", [*Role], True)
    ]  # fmt: skip
    assert PASSWORD not in run(config, "list", "--json")
    run(config, "roles", "ann", "--role", "operate")
    run(config, "password", "ann", *of_file)
    run(config, "remove", "bob")
    assert "ann                   view, operate" in run(config, "list")


def test_what_is_wrong_use(config: Path) -> None:
    of_file = ("--password-file", str(config.parent / "password"))
    run(config, "add", "ann", "--role", "root", *of_file, code=2)
    run(config, "add", "ann", "--no-password", *of_file, code=2)
    run(config, "add", "ann", code=2)  # no terminal to ask
    run(config, "roles", "ann", code=2)
    (config.parent / "short").write_text("short")
    for words in (
        ("remove", "ann"),
        ("add", "a b", *of_file),
        ("add", "x", "--password-file", f"{config.parent}/short"),
    ):
        done = CliRunner().invoke(app, ["user", *words, "--config", str(config)])
        assert getattr(done.exception, "exit_code", 0) == 2, words


def test_the_password_is_asked_for_twice(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.cli.user.on_terminal", lambda: True)
    wrong_then_right = f"{PASSWORD}\nother words\n{PASSWORD}\n{PASSWORD}\n"
    said = run(config, "add", "ann", input=wrong_then_right)
    assert PASSWORD not in said
    assert '"has_password": true' in run(config, "list", "--json")


def test_an_order_about_users_has_roles_that_exist() -> None:
    from router.node.orders import OrderError, parse

    assert parse("add-user", {"name": "ann", "password": None, "roles": ["view"]}) == AddUser("ann", None, ("view",))
    assert parse("remove-user", {"name": "ann"}) == RemoveUser("ann")
    for roles in ([], ["root"], "view", [3], None):
        with pytest.raises(OrderError):
            parse("set-roles", {"name": "ann", "roles": roles})
    assert "set-password" in BY_NAME


def test_a_node_that_runs_carries_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone writes to the spool; what goes to it is the hash of the password."""
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK)
    (tmp_path / "password").write_text(PASSWORD)
    file = tmp_path / "routing.yaml"
    file.write_text("destinations: {a: {ae_title: A, host: h, port: 104}}\nrules: []\notherwise: {send: a}\n")
    with working(load(file, {})):
        run(file, "add", "ann", "--role", "rules", "--password-file", str(tmp_path / "password"))
        assert json.loads(run(file, "list", "--json"))["roles"] == ["view", "rules"]


def test_slow_senders_of_many_addresses_do_not_keep_health_from_its_answer(spool: Spool) -> None:
    with serving(spool, LOOPBACK) as port, ExitStack() as stack:
        for number in range(server.MOST_AT_ONCE + 1):
            source = f"127.0.0.{2 + number // server.PER_PEER}", 0
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, source_address=source))
            client.sendall(b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        assert b" 200 " in whole(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
