"""The log says why: refusals, refused contexts and failures of TLS in words, and the record of events stays small."""

from __future__ import annotations

import ssl
import subprocess
import time
import warnings
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from router.association.connecting import ConnectKind
from router.association.negotiation import parse_request
from router.association.refusing import Refusal, refusal
from router.association.server import AssociationServer
from router.config.settings import Accept, ClientTls, ServerTls
from router.dicom.uids import IMPLICIT
from router.receive import seldom
from router.receive.seldom import Seldom
from tests.unit.peer import Peer, Talk
from tests.unit.receiving import (
    DX,
    RELEASE_RQ,
    MemoryHandler,
    RawPeer,
    context,
    node,
    request,
    served,
    settings,
)
from tests.unit.requesting import refused

# -- A-ASSOCIATE-RJ --------------------------------------------------------------------------------------------------

ELSEWHERE = Accept("RAW", ip_network("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("sent", "settings", "code", "words"),
    [
        (request(version=2), {}, (1, 2, 2), "protocol version"),
        (request(application="1.2.3"), {}, (1, 1, 2), "application context"),
        (request(), {"accept": (Accept("OTHER"),)}, (1, 1, 3), "calling AE title not recognised"),
        (request(), {"accept": ()}, (1, 1, 3), "calling AE title not recognised"),
        (request(), {"accept": (Accept("OTHER"), ELSEWHERE)}, (1, 1, 3), "address not recognised"),
        (request(), {"accept": (Accept(None, ip_network("10.0.0.0/8")),)}, (1, 1, 3), "address not recognised"),
        (request(called=b"OTHER".ljust(16)), {"require_called_ae": True}, (1, 1, 7), "require_called_ae"),
        (request(called=bytes(16)), {}, (1, 1, 7), "empty"),
        (request(b""), {}, (1, 1, 1), "no presentation context"),
        (request(max_pdu=6), {}, (1, 1, 1), "maximum PDU length"),
    ],
)
def test_a_refusal_has_its_code_and_says_why(
    sent: bytes, settings: dict[str, Any], code: tuple[int, int, int], words: str
) -> None:
    found = refusal(parse_request(memoryview(sent)[6:]), node(**settings), "127.0.0.1")
    assert isinstance(found, Refusal)
    assert found.code.value == code
    assert words in found.why


def test_a_refusal_is_logged_and_handed_on() -> None:
    with capture_logs() as logs, served(node(accept=())) as (port, handler), RawPeer(port) as peer:
        assert peer.send(request()).answers() == ["RJ 1/1/3", "CLOSED"]
    (line,) = [line for line in logs if line["event"] == "association refused"]
    assert (line["peer"], line["calling_ae"], line["called_ae"]) == ("127.0.0.1", "RAW", "ROUTER")
    assert "node.accept" in line["why"]
    assert handler.refusals == [line["why"]]


def test_refused_contexts_are_named() -> None:
    private = context(3, "1.3.12.2.1107.5.9.1") + context(5, DX, "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.94")
    query = context(7, "1.2.840.10008.5.1.4.1.2.1.1")
    with capture_logs() as logs, served() as (port, _):
        for contexts in (private + query, context(1) + query):
            with RawPeer(port) as peer:
                peer.associate(contexts).send(RELEASE_RQ).answers()
    worse, usual = [line for line in logs if line["event"] == "contexts refused"]
    assert (worse["log_level"], usual["log_level"]) == ("warning", "info")
    assert usual["contexts"] == [
        "Patient Root Query/Retrieve Information Model - FIND: SOP class not stored here",
    ]
    assert worse["contexts"] == [
        "1.3.12.2.1107.5.9.1: SOP class not stored here",
        "Digital X-Ray Image Storage - For Presentation: transfer syntax not supported: "
        "1.2.840.113619.5.2, JPIP Referenced",
        *usual["contexts"],
    ]


def test_countless_refused_contexts_are_counted() -> None:
    many = b"".join(context(2 * n + 1, f"1.2.3.{n}", *[IMPLICIT] * 20) for n in range(128))
    with capture_logs() as logs, served() as (port, _), RawPeer(port) as peer:
        peer.associate(many).send(RELEASE_RQ).answers()
    (line,) = [line for line in logs if line["event"] == "contexts refused"]
    assert len(line["contexts"]) == 9
    assert line["contexts"][-1] == "and 120 more"


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority `ca`, and what it signed: `good`, `elsewhere` (another name), `old` (expired); `alone` signed
    itself."""
    folder = tmp_path_factory.mktemp("tls")

    def run(line: str) -> None:
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("ca", "alone"):
        run(f"req -x509 {key} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt")
    for name, san, days in (("good", "IP:127.0.0.1", "2"), ("elsewhere", "DNS:elsewhere.test", "2"),
                            ("old", "IP:127.0.0.1", "-1")):  # fmt: skip
        (folder / "extension").write_text(f"subjectAltName={san}\n")
        run(f"req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr")
        run(f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile extension "
            f"-out {name}.crt")  # fmt: skip
    return folder


def server_side(files: Path, name: str = "good", ca: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / f"{name}.crt", files / f"{name}.key")
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files / f"{ca}.crt")
    return context


def older(context: ssl.SSLContext) -> ssl.SSLContext:
    with warnings.catch_warnings(action="ignore"):  # Python warns of old TLS, which is what is wanted here
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda files: server_side(files, "elsewhere"), "for another address"),
        (lambda files: server_side(files, "old"), "has expired"),
        (lambda files: server_side(files, "alone"), "self-signed"),
        (lambda files: server_side(files, ca="ca"), "demands a client certificate"),
        (lambda files: older(server_side(files)), "no common version"),
        (lambda files: None, "does not speak TLS"),
    ],
)
def test_why_tls_towards_a_destination_failed(
    files: Path, made: Callable[[Path], ssl.SSLContext | None], words: str
) -> None:
    def script(talk: Talk) -> None:
        if talk.peer.tls is None:
            talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.until_closed()

    with Peer(script, tls=made(files)) as peer:
        error = refused(peer, tls=ClientTls(ca=files / "ca.crt"))
        peer.errors.clear()
    assert error.kind is ConnectKind.TLS
    assert words in error.reason


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (None, "does not speak TLS"),
        ("nobody", "it showed no certificate"),
        ("alone", "self-signed"),
        ("old", "has expired"),
        ("older", "no common version"),
    ],
)
def test_why_tls_of_a_caller_failed(files: Path, client: str | None, words: str) -> None:
    tls = ServerTls(files / "good.crt", files / "good.key", port=0, ca=files / "ca.crt")
    handler = MemoryHandler()
    server = AssociationServer(lambda: settings(node(tls=tls, artim=2.0)), handler)
    server.start()
    assert server.tls_port
    with capture_logs() as logs:
        try:
            with RawPeer(server.tls_port) as peer:
                if client is None:
                    peer.send(request()).answers()
                else:
                    speak(peer, files, client)
        finally:
            server.stop(time.monotonic() + 5)
    (line,) = [line for line in logs if line["event"] == "connection failed"]
    assert words in line["why"]
    assert handler.refusals == [line["why"]]


def speak(peer: RawPeer, files: Path, client: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client == "older":
        older(context)
    elif client != "nobody":
        context.load_cert_chain(files / f"{client}.crt", files / f"{client}.key")
    try:
        with context.wrap_socket(peer.sock) as secure:
            secure.recv(1)
    except OSError:
        pass


def test_a_caller_that_speaks_tls_on_the_plain_port_is_told_apart() -> None:
    with capture_logs() as logs, served() as (port, _), RawPeer(port) as peer:
        peer.send(b"\x16\3\1\0\xa0\1\0\0\x9c").answers()
    (line,) = [line for line in logs if line["event"] == "protocol error"]
    assert "it speaks TLS on a port without TLS" in line["error"]


# -- the record ------------------------------------------------------------------------------------------------------


def test_the_same_is_recorded_seldom_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    record = Seldom()
    assert [record.may("10.0.0.1", "why") for _ in range(5)] == [0, None, None, None, None]
    assert (record.may("10.0.0.2", "why"), record.may("10.0.0.1", "other")) == (0, 0)
    now[0] = seldom.EVERY
    assert record.may("10.0.0.1", "why") == 4


def test_countless_callers_do_not_fill_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    record = Seldom()
    said = [record.may(f"10.0.{n >> 8}.{n & 255}", "why") for n in range(10_000)]
    assert said.count(0) == seldom.MOST_KINDS
    assert len(record._said) == seldom.MOST_KINDS
    now[0] = seldom.EVERY
    assert record.may("10.9.9.9", "why") == 0
