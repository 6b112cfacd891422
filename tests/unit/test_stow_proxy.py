"""A STOW-RS destination behind an HTTP proxy: CONNECT for https, the whole address for http, and what can go wrong."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from router.commands.echo import echo
from router.config.settings import ClientTls, HttpAuth, HttpProxy, Secret
from router.forward.outcomes import Fate
from router.forward.stow import StowSender
from tests.unit.receiving import settings
from tests.unit.test_expiry import certificate
from tests.unit.test_stow import instance
from tests.unit.test_stow_config import URL, loaded
from tests.unit.webpeer import Talk, WebPeer


class Proxy(WebPeer):
    """It takes CONNECT, and hands on what both sides say."""

    def __init__(self) -> None:
        super().__init__(self.connect)
        self.asked: list[str] = []

    @property
    def there(self) -> HttpProxy:
        return HttpProxy("127.0.0.1", self.port)

    def connect(self, talk: Talk) -> None:
        line, headers = talk.head()
        self.asked.append(line)
        host, port = re.fullmatch(r"CONNECT ([^ ]+):([0-9]+) HTTP/1.1", line).groups()  # type: ignore[union-attr]
        assert headers["host"] == f"{host}:{port}"
        assert "authorization" not in headers
        with socket.create_connection((host, int(port))) as there:
            talk.raw(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
            thread = threading.Thread(target=_hand_on, args=(there, talk.sock), daemon=True)
            thread.start()
            _hand_on(talk.sock, there)
            thread.join(5)


def _hand_on(of: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := of.recv(1 << 16):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def secure(folder: Path) -> tuple[ssl.SSLContext, ClientTls]:
    subject, key = certificate(folder, 10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(subject, key)
    return context, ClientTls(ca=subject, verify_host=False)


def test_tls_goes_through_the_proxy_to_the_server_itself(tmp_path: Path) -> None:
    context, tls = secure(tmp_path)
    with WebPeer(tls=context) as peer, Proxy() as proxy:
        sender = StowSender(peer.destination(tls=tls, proxy=proxy.there))
        for _ in range(2):
            assert sender.store(instance(tmp_path, bytes(300_000))).fate is Fate.DONE
        sender.release()
        assert proxy.asked == [f"CONNECT 127.0.0.1:{peer.port} HTTP/1.1"]
        assert [one.target for one in peer.posted] == ["/dicom-web/studies"] * 2
        assert echo(settings(), peer.destination(tls=tls, proxy=proxy.there)) == ""


def test_without_tls_the_proxy_gets_the_whole_address(tmp_path: Path) -> None:
    with WebPeer() as proxy:
        to = proxy.destination(
            stow="http://pacs.example.org:8080/studies", host="pacs.example.org", port=8080,
            proxy=HttpProxy("127.0.0.1", proxy.port),
        )  # fmt: skip
        sender = StowSender(to)
        assert sender.store(instance(tmp_path)).fate is Fate.DONE
        sender.release()
    (request,) = proxy.posted
    assert (request.target, request.headers["host"]) == (
        "http://pacs.example.org:8080/studies",
        "pacs.example.org:8080",
    )


def test_the_token_server_is_asked_through_the_proxy_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    context, tls = secure(tmp_path)

    def gives(talk: Talk) -> None:
        while True:
            talk.request()
            talk.answer(200, {"access_token": "t0ken", "expires_in": 3600})

    with WebPeer(tls=context) as peer, WebPeer(gives, tls=context) as tokens, Proxy() as proxy:
        auth = HttpAuth(token_url=tokens.url, client_id="us", client_secret=Secret(file=tmp_path / "secret"))
        sender = StowSender(peer.destination(tls=tls, proxy=proxy.there, auth=auth))
        assert sender.store(instance(tmp_path)).fate is Fate.DONE
        sender.release()
    assert peer.posted[0].headers["authorization"] == "Bearer t0ken"
    assert proxy.asked == [f"CONNECT 127.0.0.1:{port} HTTP/1.1" for port in (tokens.port, peer.port)]


def says(data: bytes) -> Any:
    def script(talk: Talk) -> None:
        talk.head()
        talk.raw(data)

    return script


def silent(talk: Talk) -> None:
    talk.head()
    talk.until_closed()


def drips(talk: Talk) -> None:
    talk.head()
    talk.raw(b"HTTP/1.1 200 OK\r\nX: ")
    stop = threading.Event()
    while not stop.wait(0.02):
        talk.raw(b"x")


def never_ends(talk: Talk) -> None:
    talk.head()
    talk.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (says(b"HTTP/1.1 407 DOE^JOHN\r\n\r\n"), "the proxy answered 407 (it wants credentials"),
        (says(b"HTTP/1.1 403 no\r\n\r\n"), "the proxy answered 403 (it does not let this node go there)"),
        (says(b"HTTP/1.0 502 no\r\n\r\n"), "the proxy answered 502 (it does not reach the server)"),
        (says(b"HTTP/1.1 418 DOE^JOHN\r\n\r\n"), "the proxy answered 418 (no way there)"),
        (says(b"SSH-2.0-DOE^JOHN\r\n\r\n"), "the proxy answers, but not in HTTP: check proxy"),
        (says(b""), "the proxy answers, but not in HTTP: check proxy"),
        (never_ends, "the proxy answers, but not in HTTP: check proxy"),
        (silent, "the proxy: no answer in time"),
        (drips, "the proxy: no answer in time"),
    ],
)
def test_a_proxy_that_does_not_do_what_it_should(script: Any, words: str, tmp_path: Path) -> None:
    context, tls = secure(tmp_path)
    with WebPeer(tls=context) as peer, WebPeer(script) as proxy:
        there = HttpProxy("127.0.0.1", proxy.port)
        found = echo(settings(), peer.destination(tls=tls, proxy=there, connect_timeout=0.5))
        assert peer.connections == 0
    assert found.startswith(words)
    assert "DOE" not in found


def test_no_proxy_is_there(tmp_path: Path) -> None:
    context, tls = secure(tmp_path)
    with WebPeer() as gone:
        there = HttpProxy("127.0.0.1", gone.port)
    with WebPeer(tls=context) as peer:
        for over in (tls, None):
            assert echo(settings(), peer.destination(tls=over, proxy=there)).startswith("the proxy: cannot connect")


def test_how_it_is_written(tmp_path: Path) -> None:
    to = loaded(tmp_path, f"stow: {URL}, proxy: 'http://proxy.example.org:3128'").destinations["cloud"]
    assert to.proxy == HttpProxy("proxy.example.org", 3128)
