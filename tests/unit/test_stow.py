"""A destination for STOW-RS: what is sent, and what becomes of it when a server behaves and when it does not."""

from __future__ import annotations

import contextlib
import io
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from router.commands.conformance import statement
from router.commands.echo import echo
from router.commands.send_files import send_files
from router.commands.walking import Found
from router.config import load, shipped
from router.config.settings import ClientTls, HttpAuth, HttpProxy, Secret
from router.dicom.part10 import file_meta
from router.flow import Caller, Instance, StoredFile
from router.forward.http import MOST_ANSWER, _Wire
from router.forward.outcomes import Fate, Sign
from router.forward.stow import PIECE, StowSender
from router.forward.together import MOST
from tests.unit.forwarding import SOMEBODY, Stage, copied, no_transcoder, quick, slow
from tests.unit.peer import DX, EXPLICIT, J2K, wait_for
from tests.unit.receiving import settings
from tests.unit.test_expiry import certificate
from tests.unit.webpeer import JSON, Request, Talk, WebPeer, about_ours, answering, failed, stored

DATA = b"\x08\0\x18\0UI\x06\x001.2.3\0"


@contextlib.contextmanager
def stage(folder: Path, peer: WebPeer, transcode: Any = no_transcoder, **changes: Any) -> Iterator[Stage]:
    found = Stage(folder / "spool", {"dest": peer.destination(**changes)}, transcode)
    found.open()
    found.start()
    try:
        yield found
    finally:
        found.stop()
        found.spool.close()


def instance(folder: Path, data: bytes = DATA, syntax: str = EXPLICIT, uid: str = "1.2.3") -> StoredFile:
    path = folder / "blob.dcm"
    path.write_bytes(b"head" + data)
    return StoredFile(path, 4, len(data), DX, uid, syntax)


def test_a_whole_part_10_file_arrives_that_says_nothing_of_the_sender(tmp_path: Path) -> None:
    with WebPeer() as peer, stage(tmp_path, peer) as made:
        (owed,) = made.owe("dest", data=DATA)
        made.until("done")
    (request,) = peer.posted
    assert (request.target, request.headers["accept"]) == ("/dicom-web/studies", JSON)
    assert request.file == file_meta(DX, owed.sop_instance, EXPLICIT, None) + DATA
    found = pydicom.dcmread(io.BytesIO(request.file))
    assert found.file_meta.MediaStorageSOPInstanceUID == owed.sop_instance
    assert {"SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "PrivateInformation"}.isdisjoint(
        element.keyword for element in found.file_meta
    )
    for secret in (SOMEBODY.calling_ae, SOMEBODY.peer, owed.id):
        assert secret.encode() not in request.file


def test_one_connection_serves_one_after_the_other(tmp_path: Path) -> None:
    with WebPeer() as peer, stage(tmp_path, peer, idle=20.0) as made:
        owed = made.owe("dest", count=5)
        made.until("done", 5)
        assert sorted(uid for one in peer.posted for uid in one.instances) == sorted(one.sop_instance for one in owed)
        assert peer.connections == 1


def test_an_odd_data_set_goes_as_it_is(tmp_path: Path) -> None:
    with WebPeer() as peer, stage(tmp_path, peer) as made:
        made.owe("dest", data=b"odd")
        (row,) = made.until("done")
    assert peer.posted[0].file.endswith(b"odd")
    assert row.reason == ""


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []

    def sent(self: _Wire, data: bytes) -> None:
        pieces.append(len(data))
        real(self, data)

    real = _Wire.sendall
    monkeypatch.setattr("router.forward.http._Wire.sendall", sent)
    data = bytes(range(256)) * (5 * PIECE // 256) + b"end."
    with WebPeer() as peer:
        sender = StowSender(peer.destination())
        assert sender.store(instance(tmp_path, data)).fate is Fate.DONE
        sender.release()
    assert peer.posted[0].file.endswith(data)
    assert max(pieces) == PIECE


def test_a_file_that_is_too_short_ends_the_request(tmp_path: Path) -> None:
    with WebPeer() as peer:
        sender = StowSender(peer.destination())
        with pytest.raises(OSError, match="shorter"):
            sender.store(replace(instance(tmp_path), size=len(DATA) + 1))
        assert sender.serves([]) is False
        sender.abort()
    assert peer.posted == []


def outcome(script: Any, tmp_path: Path, data: bytes = DATA, **changes: Any) -> tuple[Any, StowSender]:
    with WebPeer(script) as peer:
        sender = StowSender(peer.destination(**changes))
        found = sender.store(instance(tmp_path, data))
        sender.release()
        return found, sender


def silent(talk: Talk) -> None:
    talk.request()
    talk.until_closed()


def drips(talk: Talk) -> None:
    talk.request()
    talk.raw(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        talk.raw(b"x")
        time.sleep(0.05)


def drips_its_body(talk: Talk) -> None:
    talk.request()
    talk.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        talk.raw(b" ")
        time.sleep(0.05)


def continues(talk: Talk) -> None:
    talk.request()
    while True:
        talk.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("script", [silent, drips, drips_its_body, continues])
def test_a_server_that_takes_for_ever_is_silent(script: Any, tmp_path: Path) -> None:
    found, sender = outcome(script, tmp_path, response_timeout=0.3)
    assert (found.fate, found.sign, found.reason) == (Fate.LATER, Sign.SILENT, "no answer in time")
    assert sender.closed


def test_a_server_that_does_not_read_is_silent(tmp_path: Path) -> None:
    data = bytes(32 * 1024 * 1024)
    found, _ = outcome(lambda talk: time.sleep(1.5), tmp_path, data, response_timeout=0.3, least_rate=10**9)
    assert (found.sign, found.reason) == (Sign.SILENT, "it took the data too slowly")


def raw(data: bytes, *, whole: bool = True) -> Any:
    def script(talk: Talk) -> None:
        if whole:
            talk.request()
        else:
            talk.head()
        talk.raw(data)

    return script


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the connection ended without a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "the connection ended without a whole answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "the connection ended without a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "the connection ended without a whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the connection ended without a whole answer"),
        (b"\x01\0\0\0\0\x0a\r\n\r\n", "it answers, but not in HTTP: check the address"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "it answers, but not in HTTP: check the address"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "it answers, but not in HTTP: check the address"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "it answers, but not in HTTP: check the address"),
    ],
)
def test_an_answer_that_is_none(data: bytes, words: str, tmp_path: Path) -> None:
    found, _ = outcome(raw(data), tmp_path)
    assert (found.fate, found.sign, found.reason) == (Fate.LATER, Sign.ENDED, words)


def test_an_answer_without_an_end_is_read_up_to_a_bound(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        talk.request()
        talk.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n\r\n".encode())
        while True:
            talk.raw(b" " * 65536)

    found, sender = outcome(script, tmp_path)
    assert (found.fate, found.reason) == (Fate.FEW, "answered 200 with more than can be read")
    assert sender.serves([]) is False
    assert MOST_ANSWER == 1024**2


def test_a_cut_in_the_middle_is_tried_again(tmp_path: Path) -> None:
    found, _ = outcome(lambda talk: talk.head() and None, tmp_path, bytes(32 * 1024 * 1024))
    assert (found.fate, found.sign) == (Fate.LATER, Sign.ENDED)


def test_an_early_refusal_is_heard_and_an_early_success_does_not_count(tmp_path: Path) -> None:
    def early(status: int) -> Any:
        def script(talk: Talk) -> None:
            talk.head()
            talk.answer(status, stored("1.2.3"))
            talk.until_closed()

        return script

    data = bytes(32 * 1024 * 1024)
    found, _ = outcome(early(413), tmp_path, data)
    assert (found.fate, found.reason) == (Fate.FEW, "answered 413 (too large for it)")
    found, _ = outcome(early(200), tmp_path, data)
    assert (found.fate, found.sign) == (Fate.LATER, Sign.ENDED)


def test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next(tmp_path: Path) -> None:
    def twice(talk: Talk) -> None:
        uid = talk.request().instance
        talk.answer(200, stored(uid))
        talk.answer(200)
        talk.until_closed()

    with WebPeer(scripts=[twice]) as peer:
        sender = StowSender(peer.destination())
        assert sender.store(instance(tmp_path)).fate is Fate.DONE
        wait_for(lambda: not sender.serves([]))
        sender.release()

    def together(talk: Talk) -> None:
        talk.request()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        talk.raw(answer + answer)
        talk.until_closed()

    with WebPeer(together) as peer:
        sender = StowSender(peer.destination())
        assert sender.store(instance(tmp_path)).fate is Fate.DONE
        assert not sender.serves([])
        sender.release()


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with WebPeer() as other:
        found, _ = outcome(answering(307, Location=other.url), tmp_path)
        assert (found.sign, other.connections) == (Sign.REFUSED, 0)


def test_proxies_of_the_environment_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    found, _ = outcome(Talk.serve, tmp_path)
    assert found.fate is Fate.DONE


def test_success_of_other_instances_is_none_and_is_buried_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with WebPeer(answering(200, stored("9.9.9"))) as peer, stage(tmp_path, peer) as made:
        made.owe("dest")
        (row,) = made.until("buried")
    assert row.reason == "answered 200 without a success of this instance"
    assert len(peer.posted) == 5


def test_a_failure_reason_is_kept_with_the_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with WebPeer(about_ours(409, lambda uid: failed(uid, 0xA900))) as peer, stage(tmp_path, peer) as made:
        made.owe("dest")
        (row,) = made.until("buried")
    assert (row.status, row.reason) == (0xA900, "answered 0xA900 (the data set does not match its SOP class)")


def test_what_the_server_has_in_another_version_is_buried(tmp_path: Path) -> None:
    seen: list[str] = []

    def script(talk: Talk) -> None:
        while True:
            uid = talk.request().instance
            talk.answer(*((409, failed(uid, 0x0111)) if uid in seen else (200, stored(uid))))
            seen.append(uid)

    with WebPeer(script) as peer, stage(tmp_path, peer) as made:
        made.owe("dest", data=b"one.", sop_instance="1.2.3.4")
        made.until("done")
        made.owe("dest", data=b"one.", sop_instance="1.2.3.4")
        assert made.until("done", 2)
        made.owe("dest", data=b"two.", sop_instance="1.2.3.4")
        (row,) = made.until("buried")
    assert row.reason == "the destination holds another version under the same UID"


def test_a_server_that_refuses_the_node_opens_the_circuit_and_buries_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    with WebPeer(answering(403)) as peer, stage(tmp_path, peer) as made:
        made.owe("dest", count=6)
        wait_for(made.is_open)
        wait_for(lambda: made.events("circuit opened"))
        (opened,) = made.events("circuit opened")
        assert opened.detail["reason"] == "refuses this node: answered 403 (it forbids storing)"
        assert made.states() == ["open"] * 6
        assert len(peer.posted) <= 2  # with others, and alone
        assert len(peer.posted[-1].instances) == 1


def test_only_storing_closes_the_circuit_of_a_server_that_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    allowed: list[bool] = []

    def script(talk: Talk) -> None:
        while True:
            got = talk.request()
            if got.method == "OPTIONS":
                talk.answer(200)
            elif allowed:
                talk.answer(200, stored(*got.instances))
            else:
                talk.answer(401)

    with WebPeer(script) as peer, stage(tmp_path, peer) as made:
        made.owe("dest", count=2)
        wait_for(lambda: len(peer.posted) >= 3)
        assert len(made.events("circuit opened")) == 1
        allowed.append(True)
        made.until("done", 2)
        assert {request.method for request in peer.requests} == {"POST"}


def test_a_dead_server_is_asked_by_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with WebPeer() as peer:
        dest = peer.destination()
    made = Stage(tmp_path / "spool", {"dest": dest})
    made.open()
    made.start()
    try:
        made.owe("dest", count=2)
        wait_for(made.is_open)
        assert made.states() == ["open"] * 2
        with WebPeer() as peer:
            made.change("dest", port=peer.port, stow=peer.url)
            made.until("done", 2)
            assert [one.method for one in peer.requests][:2] == ["OPTIONS", "POST"]
    finally:
        made.stop()
        made.spool.close()


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with WebPeer(answering(503, Retry_After="999999")) as peer, stage(tmp_path, peer) as made:
        made.owe("dest", count=4)
        wait_for(lambda: any(row.reason for row in made.rows()))
        (row,) = [row for row in made.rows() if row.reason]
        assert row.reason == "answered 503 (the server failed)"
        assert 3000 < row.ready_at - time.time() <= 3600
        time.sleep(0.3)  # the waits of `quick` are hundredths of a second
        assert len(peer.posted) == 1
        assert made.states() == ["open"] * 4


def natively(made: list[Instance], path: Path) -> Any:
    def transcode(one: Instance, blob: Path, syntax: str) -> StoredFile:
        made.append(one)
        path.write_bytes(b"native")
        return copied(one, path, 0, 6, syntax)

    return transcode


@pytest.mark.parametrize("refusal", [(409, lambda uid: failed(uid, 0xC122)), (415, lambda uid: {})])
@pytest.mark.parametrize("closes", [False, True])
def test_a_refused_transfer_syntax_is_transcoded(refusal: Any, closes: bool, tmp_path: Path) -> None:
    status, say = refusal

    def script(talk: Talk) -> None:
        while True:
            got = talk.request()
            if J2K.encode() in got.file:
                headers = {"Connection": "close"} if closes else {}
                talk.answer(status, say(got.instance), **headers)
                if closes:
                    return
            else:
                talk.answer(200, stored(got.instance))

    transcoded: list[Instance] = []
    with WebPeer(script) as peer, stage(tmp_path, peer, natively(transcoded, tmp_path / "copy")) as made:
        made.owe("dest", transfer_syntax=J2K)
        (row,) = made.until("done")
    assert row.reason == f"transcoded without loss to {EXPLICIT}"
    assert [one.file.endswith(b"native") for one in peer.posted] == [False, True]
    assert EXPLICIT.encode() in peer.posted[1].file


def test_only_the_syntaxes_that_are_allowed_are_sent(tmp_path: Path) -> None:
    transcoded: list[Instance] = []
    made_by = natively(transcoded, tmp_path / "copy")
    with WebPeer() as peer, stage(tmp_path, peer, made_by, syntaxes=(EXPLICIT,)) as made:
        made.owe("dest", transfer_syntax=J2K)
        made.owe("dest")
        made.until("done", 2)
    assert len(transcoded) == 1
    assert all(EXPLICIT.encode() in one.file for one in peer.posted)


def test_nothing_goes_back_to_the_sender_where_its_ae_title_is_known(tmp_path: Path) -> None:
    back = Caller("PACS", "ROUTER", "127.0.0.1")
    with WebPeer() as peer, stage(tmp_path, peer, ae_title="PACS") as made:
        made.owe("dest", caller=back)
        made.until("skipped")
        made.change("dest", ae_title="")
        made.owe("dest", caller=back)
        made.until("done")
        made.owe("dest", caller=Caller("", "ROUTER", "127.0.0.1"))
        made.until("done", 2)


def test_tls_in_both_directions(tmp_path: Path) -> None:
    subject, key = certificate(tmp_path, 10)
    ours, our_key = certificate(tmp_path, 10, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(subject, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ours)
    tls = ClientTls(ca=subject, certificate=ours, key=our_key, verify_host=False)
    data = bytes(3 * PIECE)
    with WebPeer(tls=context) as peer:
        sender = StowSender(peer.destination(tls=tls))
        for _ in range(3):
            assert sender.store(instance(tmp_path, data)).fate is Fate.DONE
            assert sender.serves([])  # a ticket of TLS 1.3 is no answer
        sender.release()
        assert peer.connections == 1
        assert "not in ca" in echo(settings(), peer.destination(tls=ClientTls(ca=ours)))
        nobody = peer.destination(tls=replace(tls, certificate=None, key=None))
        assert echo(settings(), nobody)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Talk.serve, ""), (answering(405), ""), (answering(401), "answered 401 (it does not accept the credentials"),
        (answering(302), "answered 302 (a redirect"), (answering(500), "answered 500"), (silent, "no answer in time"),
    ],
)  # fmt: skip
def test_a_person_can_ask_whether_it_works(script: Any, words: str) -> None:
    with WebPeer(script) as peer:
        found = echo(settings(), peer.destination(response_timeout=0.3))
        assert found.startswith(words)
        assert bool(found) == bool(words)
        (request,) = peer.requests
        assert (request.method, request.body) == ("OPTIONS", b"")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, ""), (204, ""), (400, ""), (409, ""), (411, ""), (415, ""), (422, ""),
        (404, "answered 404 (no such address"), (401, "answered 401"),
        (405, "answered 405 (nothing can be stored"), (503, "answered 503"),
    ],
)  # fmt: skip
def test_a_server_without_options_is_asked_by_a_post_of_nothing(status: int, words: str) -> None:
    """As Orthanc, which answers 404 to OPTIONS at the right address too."""

    def script(talk: Talk) -> None:
        talk.answer(404 if talk.request().method == "OPTIONS" else status)

    with WebPeer(script) as peer:
        found = echo(settings(), peer.destination(response_timeout=5.0))
        assert found.startswith(words)
        assert bool(found) == bool(words)
        options, post = peer.requests
        assert (options.method, options.body, post.method) == ("OPTIONS", b"", "POST")
        assert re.fullmatch(rb"--[0-9a-f]+--\r\n", post.body)
        assert post.headers["content-type"].endswith(post.body[2:-4].decode())


def test_nobody_is_there(tmp_path: Path) -> None:
    with WebPeer() as peer:
        destination = peer.destination()
    assert echo(settings(), destination).startswith("cannot connect")


def test_files_on_disk_are_sent_too(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(file_meta(DX, f"1.2.{number}", EXPLICIT, None) + DATA)
        paths.append(path)
    (tmp_path / "none.dcm").write_bytes(b"none")

    def script(talk: Talk) -> None:
        while True:
            got = talk.request()
            talk.answer(200, stored(got.instance) if len(talk.peer.posted) != 2 else failed(got.instance, 0xA900))

    with WebPeer(script) as peer:
        found = [Found(path) for path in (*paths, tmp_path / "none.dcm")]
        sent = list(send_files(found, peer.destination(), "ROUTER"))
    assert [one.arrived for one in sent] == [True, False, True, False]
    assert sent[1].status == 0xA900


def test_request_is_strict() -> None:
    with pytest.raises(AssertionError):
        _ = Request("POST", "/", {"content-type": "multipart/related"}, b"").file


def test_a_node_without_such_a_destination_does_not_load_it() -> None:
    look = "import router.forward, sys; print([f'router.forward.{one}' in sys.modules for one in ('stow', 'http')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False]\n"


def test_the_conformance_statement_names_it() -> None:
    found = load(shipped(), {})
    auth, proxy = HttpAuth(bearer=Secret(env="TOKEN")), HttpProxy("proxy.example.org", 3128)
    with WebPeer() as peer:
        web = {"w": peer.destination(name="w", auth=auth), "x": peer.destination(name="x", proxy=proxy)}
        text = statement(replace(found, destinations=found.destinations | web))
    assert f"| w | {peer.url} | none | a bearer token | 1 | 2 s |" in text
    assert f"| x | {peer.url} | proxy.example.org:3128 | nothing | 1 | 2 s |" in text
    assert "| STOW-RS (PS3.18 §10.5), as user agent | yes | no |" in text
    assert f"up to {MOST} that wait together and have at most 8 MiB" in " ".join(text.split())
    assert "|  at " not in text


def test_the_conformance_statement_says_when_and_to_which_of_several(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(
        """
destinations:
  a: {ae_title: A, host: 127.0.0.1, port: 1, gather: 20s, gather_limit: 2min, limit_rate: 60/min}
  b: {ae_title: B, host: 127.0.0.1, port: 2, hours: "18:00-07:00 Mon-Fri"}
rules:
  - {name: night, when: {time: "18:00-07:00"}, send: a}
  - {name: chests, when: {class: adult_chest}, send: {one_of: [a, b]}, scope: study, priority: urgent}
otherwise: {send: {one_of: [b, a], by: instance}}
"""
    )
    text = " ".join(statement(load(tmp_path / "routing.yaml", {})).split())
    for said in (
        "| a | 20 s, at most 120 s | always | 60 in a minute |", "| b | – | 18:00-07:00 Mon-Fri | – |",
        "Rules with `scope: study` (the other instances of the study follow): chests.",
        "Rules with `priority: urgent`: chests.", "Rules that ask for the time of day: night.",
        "| chests | a, b | study |", "| otherwise | b, a | instance |",
    ):  # fmt: skip
        assert said in text, said
