"""How the node identifies itself to a web server, and that no secret is shown anywhere."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.association.connecting import ConnectError, ConnectKind
from router.commands.echo import echo
from router.config.settings import DestinationSettings, HttpAuth, Secret
from router.forward import credentials
from router.forward.credentials import authorization
from router.forward.outcomes import Fate, Outcome, Sign
from router.forward.stow import StowSender
from tests.unit.forwarding import quick
from tests.unit.peer import wait_for
from tests.unit.receiving import settings
from tests.unit.test_stow import instance, stage
from tests.unit.webpeer import Talk, WebPeer, answering, stored

SECRET = "s3cret of ours"


@pytest.fixture(autouse=True)
def _no_tokens() -> Iterator[None]:
    credentials._TOKENS.clear()
    yield
    credentials._TOKENS.clear()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return Secret(file=path)


def store(to: DestinationSettings, folder: Path) -> Outcome:
    sender = StowSender(to)
    try:
        return sender.store(instance(folder))
    finally:
        sender.release()


def wanting(*good: str) -> Any:
    """The script of a server that takes these Authorization headers alone."""

    def script(talk: Talk) -> None:
        while True:
            got = talk.request()
            fine = got.headers.get("authorization") in good
            talk.answer(200 if fine else 401, stored(got.instance) if got.method == "POST" else b"")

    return script


def tokens(*texts: str, expires: Any = 3600) -> Any:
    """The script of a token server that gives one after the other."""
    left = list(texts)

    def script(talk: Talk) -> None:
        talk.request()
        body = {"access_token": left.pop(0) if len(left) > 1 else left[0], "expires_in": expires}
        talk.answer(200, body, "application/json")

    return script


def test_bearer_from_a_file_that_is_read_again(tmp_path: Path, secret: Secret) -> None:
    assert secret.file
    with WebPeer(wanting(f"Bearer {SECRET}", "Bearer new")) as peer:
        assert store(peer.destination(auth=HttpAuth(bearer=secret)), tmp_path).fate is Fate.DONE
        secret.file.write_text("old")
        sender = StowSender(peer.destination(auth=HttpAuth(bearer=secret)))
        secret.file.write_text("new")
        assert sender.store(instance(tmp_path)).fate is Fate.DONE
        sender.release()
        assert [one.headers["authorization"] for one in peer.posted] == [f"Bearer {SECRET}", "Bearer old", "Bearer new"]


def test_a_refused_secret_is_tried_once(tmp_path: Path, secret: Secret) -> None:
    with WebPeer(wanting("Bearer other")) as peer:
        outcome = store(peer.destination(auth=HttpAuth(bearer=secret)), tmp_path)
        assert (outcome.fate, outcome.sign, len(peer.posted)) == (Fate.LATER, Sign.REFUSED, 1)


def test_user_and_password_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEST_PASSWORD", SECRET)
    header = "Basic " + base64.b64encode(f"us:{SECRET}".encode()).decode()
    with WebPeer(wanting(header)) as peer:
        to = peer.destination(auth=HttpAuth(user="us", password=Secret(env="CHEST_PASSWORD")))
        assert store(to, tmp_path).fate is Fate.DONE
        assert echo(settings(), to) == ""


def oauth(token_server: WebPeer, secret: Secret, **changes: Any) -> HttpAuth:
    values: dict[str, Any] = {
        "token_url": token_server.url,
        "client_id": "us & co",
        "client_secret": secret,
        "scope": "store all",
    }
    return HttpAuth(**(values | changes))


def test_a_token_is_asked_for_once_and_kept(tmp_path: Path, secret: Secret) -> None:
    with WebPeer(tokens("T1")) as server, WebPeer(wanting("Bearer T1")) as peer:
        to = peer.destination(auth=oauth(server, secret))
        for _ in range(3):
            assert store(to, tmp_path).fate is Fate.DONE
        (request,) = server.requests
        assert request.body == b"grant_type=client_credentials&scope=store+all"
        pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic "))
        assert pair == b"us+%26+co:s3cret+of+ours"  # RFC 6749 §2.3.1


def test_a_refused_token_is_renewed_once(tmp_path: Path, secret: Secret) -> None:
    with WebPeer(tokens("T1", "T2", "T3")) as server, WebPeer(wanting("Bearer T2")) as peer:
        assert store(peer.destination(auth=oauth(server, secret)), tmp_path).fate is Fate.DONE
        assert len(server.requests) == 2
    with WebPeer(tokens("T1", "T2", "T3")) as server, WebPeer(wanting("Bearer T3")) as peer:
        assert store(peer.destination(auth=oauth(server, secret)), tmp_path).sign is Sign.REFUSED
        assert len(server.requests) == 2


def test_a_token_is_renewed_before_its_end(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("router.forward.credentials.time.monotonic", lambda: now)
    with WebPeer(tokens("T1", "T2", expires=100)) as server, WebPeer() as peer:
        to = peer.destination(auth=oauth(server, secret))
        assert authorization(to) == "Bearer T1"
        now += 69
        assert authorization(to) == "Bearer T1"
        now += 2
        assert authorization(to) == "Bearer T2"


def test_a_token_that_never_ends_is_renewed_all_the_same(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("router.forward.credentials.time.monotonic", lambda: now)
    with WebPeer(tokens("T1", "T2", expires=10**300)) as server, WebPeer() as peer:
        to = peer.destination(auth=oauth(server, secret))
        assert authorization(to) == "Bearer T1"
        now += credentials.LONGEST
        assert authorization(to) == "Bearer T2"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"5", b'{"access_token": 5}', b'{"access_token": ""}', b'{"access_token": "a\\nb"}',
        b'{"access_token": "a", "expires_in": "soon"}', b'{"access_token": "a", "expires_in": -1}',
        b'{"access_token": "a", "expires_in": NaN}', b"[" * 100_000,
        json.dumps({"access_token": "a" * 20_000}).encode(),
    ],
)  # fmt: skip
def test_a_strange_token_server(body: bytes, secret: Secret) -> None:
    with WebPeer(answering(200, body, "application/json")) as server, WebPeer() as peer:
        with pytest.raises(ConnectError) as caught:
            authorization(peer.destination(auth=oauth(server, secret)))
        assert caught.value.kind is ConnectKind.CREDENTIALS
        assert caught.value.reason == "the token server's answer has no token"


def test_a_token_server_that_refuses_opens_the_circuit_and_nothing_is_sent(
    tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    body = {"error_description": SECRET}
    with (
        WebPeer(answering(400, body)) as server,
        WebPeer() as peer,
        stage(tmp_path, peer, auth=oauth(server, secret)) as made,
    ):
        made.owe("dest", count=3)
        wait_for(lambda: made.events("circuit opened"))
        (opened, *_) = made.events("circuit opened")
        assert opened.detail["reason"] == "the token server answered 400: check auth"
        assert made.states() == ["open"] * 3
        server.script = tokens("T1")
        made.until("done", 3)
        assert {one.headers["authorization"] for one in peer.requests} == {"Bearer T1"}


def test_a_secret_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "lines").write_text("one\ntwo\n")
    with WebPeer() as peer:
        for secret, words in (
            (Secret(env="NOT_SET"), "auth.bearer: the environment variable NOT_SET is not set, or is empty"),
            (Secret(file=tmp_path / "none"), "auth.bearer: the file none cannot be read (No such file or directory)"),
            (Secret(file=tmp_path / "empty"), "auth.bearer: the file empty is not set, or is empty"),
            (Secret(file=tmp_path / "lines"), "auth.bearer: the file lines is longer than one line of printable ASCII"),
        ):
            assert echo(settings(), peer.destination(auth=HttpAuth(bearer=secret))) == words
        assert peer.connections == 0


def test_no_secret_is_in_a_log_an_event_or_a_repr(
    tmp_path: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    hidden = (SECRET, base64.b64encode(SECRET.encode()).decode()[:16], "T0KEN", "DOE^JOHN")
    with (
        WebPeer(tokens("T0KEN")) as server,
        WebPeer(answering(400, b"DOE^JOHN T0KEN", "text/DOE^JOHN")) as peer,
        stage(tmp_path, peer, auth=oauth(server, secret)) as made,
    ):
        made.owe("dest", count=3)
        wait_for(lambda: made.events("circuit opened"))
        shown = repr(made.destinations) + repr(made.rows()) + repr(made.events("circuit opened"))
    captured = capfd.readouterr()
    shown += captured.out + captured.err
    assert "answered 400" in shown
    assert [word for word in hidden if word in shown] == []
