"""The requestor against a peer that refuses, stays silent, goes in the middle, or answers what no sane peer would."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.association import pdu
from router.association.pdu import Kind
from router.association.requestor import AssociationLostError, ConnectError, connect
from router.config.settings import DestinationSettings
from tests.unit.peer import (
    DX,
    UID,
    VERIFICATION,
    Peer,
    Script,
    Stored,
    Talk,
    answer,
    rejecting,
    wait_for,
)
from tests.unit.requesting import WANTED, associated, blob, refused, store

# -- no association --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ((1, 1, 1), "rejected for good", "no reason given"),
        ((1, 1, 2), "rejected for good", "application context"),
        ((1, 1, 3), "rejected for good", "calling AE title not recognised"),
        ((1, 1, 7), "rejected for good", "called AE title not recognised"),
        ((1, 2, 2), "rejected for good", "protocol version"),
        ((2, 3, 1), "rejected", "temporary congestion"),
        ((2, 3, 2), "rejected", "local limit exceeded"),
        ((2, 9, 9), "rejected", "source 9, reason 9"),
    ],
)
def test_rejections(how: tuple[int, int, int], kind: str, words: str) -> None:
    with Peer(rejecting(*how)) as peer:
        error = refused(peer)
    assert error.kind == kind
    assert words in error.reason


def silent(talk: Talk) -> None:
    talk.until_closed()


def closing(talk: Talk) -> None:
    talk.request()


def aborting(talk: Talk) -> None:
    talk.request()
    talk.send(pdu.abort(None))
    talk.until_closed()


def resetting(talk: Talk) -> None:
    talk.request()
    talk.reset()


def babbling(data: bytes) -> Script:
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(data)
        talk.until_closed()

    return script


def trickling(data: bytes) -> Script:
    """A byte at a time, each within any time limit, until the other side has had enough."""

    def script(talk: Talk) -> None:
        talk.request()
        trickle(talk, data)

    return script


def trickle(talk: Talk, data: bytes) -> None:
    for byte in data:
        talk.sock.sendall(bytes((byte,)))
        talk.sock.settimeout(0.05)
        try:
            if not talk.sock.recv(1 << 16):
                return
        except TimeoutError:
            continue
    raise AssertionError("read to the end")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (silent, "silent"),
        (closing, "aborted"),
        (resetting, "aborted"),
        (aborting, "aborted"),
        (babbling(pdu.release_rp()), "protocol"),
        (babbling(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "protocol"),
        (babbling(pdu.HEADER.pack(Kind.ASSOCIATE_AC, 1 << 21)), "protocol"),
        (babbling(pdu.HEADER.pack(Kind.ASSOCIATE_AC, 4) + bytes(4)), "protocol"),
        (babbling(pdu.HEADER.pack(Kind.ASSOCIATE_AC, 72) + bytes(68) + b"\x21\0\0\x09"), "protocol"),
        (babbling(pdu.HEADER.pack(Kind.ASSOCIATE_AC, 100) + bytes(50)), "silent"),
        (trickling(pdu.HEADER.pack(Kind.ASSOCIATE_AC, 200) + bytes(200)), "silent"),
    ],
)
def test_no_association(script: Script, kind: str) -> None:
    with Peer(script) as peer:
        assert refused(peer, connect_timeout=0.3).kind == kind


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x15\3\1\0\2\2\x46"])
def test_another_protocol_is_named_as_what_it_is(words: bytes) -> None:
    """A web server, SSH, and an alert of TLS."""
    with Peer(babbling(words)) as peer:
        assert "answers, but not in DICOM: check host and port" in str(refused(peer))


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    destination = DestinationSettings("dest", "DEST", "127.0.0.1", port, connect_timeout=2)
    with pytest.raises(ConnectError, match="refused") as caught:
        connect(destination, "US", WANTED)
    assert caught.value.kind == "connect"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid", "a..b"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(ConnectError) as caught:
        connect(DestinationSettings("dest", "DEST", host, 104, connect_timeout=2), "US", WANTED)
    assert caught.value.kind == "connect"


# -- no answer -------------------------------------------------------------------------------------------------------


def answering(how: Callable[[Talk, Stored], object]) -> Script:
    def script(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        how(talk, got)
        talk.until_closed()

    return script


def of_echo(got: Stored) -> bytes:
    return answer(replace(got, sop_class=VERIFICATION), 0)


def with_data_set(got: Stored, *, after: bool) -> bytes:
    data = pdu.p_data_header(got.context_id, 4, command=False, last=True) + b"data"
    return answer(got, 0) + data if after else data + answer(got, 0)


def endless_command(got: Stored) -> bytes:
    return (pdu.p_data_header(got.context_id, 65536, command=True, last=False) + bytes(65536)) * 2


@pytest.mark.parametrize(
    ("how", "words", "kind"),
    [
        (lambda talk, got: None, "in time", "silent"),
        (lambda talk, got: talk.sock.close(), "closed|broke", "ended"),
        (lambda talk, got: talk.reset(), "closed|broke", "ended"),
        (lambda talk, got: talk.send(pdu.abort(None)), "aborted", "ended"),
        (lambda talk, got: talk.send(pdu.release_rq()), "RELEASE_RQ", "ended"),
        (lambda talk, got: talk.send(pdu.associate_rj(1, 1, 1)), "ASSOCIATE_RJ", "ended"),
        (lambda talk, got: talk.send(b"\x99\0\0\0\0\4abcd"), "protocol", "ended"),
        (lambda talk, got: talk.answer(got, 0, message_id=got.message_id + 1), "another message", "ended"),
        (lambda talk, got: talk.send(answer(got, 0, context_id=77)), "context", "ended"),
        (lambda talk, got: talk.send(of_echo(got)), "not asked", "ended"),
        (lambda talk, got: talk.send(with_data_set(got, after=False)), "data set", "ended"),
        (lambda talk, got: talk.send(endless_command(got)), "too long", "ended"),
        (lambda talk, got: talk.send(pdu.p_data_header(1, 9, command=True, last=True) + bytes(9)), "protocol", "ended"),
        (lambda talk, got: talk.send(pdu.HEADER.pack(Kind.P_DATA, 0)), "protocol", "ended"),
        (lambda talk, got: trickle(talk, answer(got, 0xC000)), "in time", "silent"),
    ],
)
def test_no_answer(tmp_path: Path, how: Callable[[Talk, Stored], object], words: str, kind: str) -> None:
    path, _ = blob(tmp_path, 1000)
    with Peer(answering(how)) as peer:
        association = connect(peer.destination(response_timeout=0.4), "US", WANTED)
        with pytest.raises(AssociationLostError, match=words) as caught:
            store(association, path)
        assert caught.value.kind == kind
        association.abort()


def test_an_answer_in_many_fragments(tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 1000)

    def piecemeal(talk: Talk, got: Stored) -> None:
        whole = answer(got, 0xB007)[12:]
        for at in range(0, len(whole), 5):
            piece = whole[at : at + 5]
            last = at + 5 >= len(whole)
            talk.send(pdu.p_data_header(got.context_id, len(piece), command=True, last=last) + piece)

    with Peer(answering(piecemeal)) as peer, associated(peer) as association:
        assert store(association, path) == 0xB007


# -- in the middle of a data set -------------------------------------------------------------------------------------

BIG = 24 * 1024 * 1024
"""More than the buffers of both ends hold, so that sending must wait for the peer."""


def in_the_middle(how: Callable[[Talk], object]) -> Script:
    def script(talk: Talk) -> None:
        talk.accept()
        for _ in range(3):
            talk.read()
        how(talk)

    return script


@pytest.mark.parametrize(
    "how",
    [
        lambda talk: (talk.send(pdu.abort(None)), talk.sock.shutdown(socket.SHUT_WR), talk.until_closed()),
        lambda talk: (talk.send(pdu.abort(None)), talk.reset()),
        lambda talk: talk.sock.close(),
        lambda talk: talk.reset(),
        lambda talk: (talk.sock.shutdown(socket.SHUT_WR), talk.until_closed()),
    ],
)
def test_the_peer_goes_in_the_middle(tmp_path: Path, how: Callable[[Talk], object]) -> None:
    path, _ = blob(tmp_path, BIG)
    with Peer(in_the_middle(how)) as peer:
        association = connect(peer.destination(response_timeout=5.0), "US", WANTED)
        with pytest.raises(AssociationLostError) as caught:
            store(association, path)
        assert caught.value.kind == "ended"
        association.abort()
        wait_for(lambda: association.closed)


@pytest.mark.parametrize("least_rate", [1, 1 << 40])
def test_a_peer_that_stops_reading_is_silent(tmp_path: Path, least_rate: int) -> None:
    """Whatever time the whole size would allow: nobody waits longer for one sign of life than for an answer."""
    path, _ = blob(tmp_path, BIG)
    done: list[bool] = []
    with Peer(in_the_middle(lambda talk: wait_for(lambda: done))) as peer:
        association = connect(peer.destination(response_timeout=0.3, least_rate=least_rate), "US", WANTED)
        with pytest.raises(AssociationLostError, match="in time") as caught:
            store(association, path)
        assert caught.value.kind == "silent"
        association.abort()
        done.append(True)


def sipping(talk: Talk) -> None:
    """Reads steadily, about ten megabytes a second, and so that no single wait is long."""
    pause = threading.Event()
    talk.accept()
    talk.read()
    last = False
    while not last:
        _, body = talk.read()
        last = next(pdu.pdvs(body)).is_last
        pause.wait(0.01)
    talk.answer(Stored(DX, UID, b"", 1, 1), 0)
    talk.until_closed()


@pytest.mark.slow
@pytest.mark.parametrize(("least_rate", "enough"), [(1 << 40, False), (500_000, True)])
def test_the_least_rate_decides_how_long_it_may_take(tmp_path: Path, least_rate: int, enough: bool) -> None:
    """Longer than any one limit, or not: the size at the least rate is what a transfer may take."""
    path, _ = blob(tmp_path, BIG)
    with Peer(sipping, max_pdu=0) as peer:
        association = connect(peer.destination(response_timeout=0.9, least_rate=least_rate), "US", WANTED)
        if enough:
            assert store(association, path) == 0
            association.release()
            return
        with pytest.raises(AssociationLostError, match="in time"):
            store(association, path)
        association.abort()


def early(status: int) -> Script:
    """Answers after the first fragments, and reads the rest all the same."""

    def script(talk: Talk) -> None:
        talk.accept()
        for _ in range(3):
            talk.read()
        talk.answer(Stored(DX, UID, b"", 1, 1), status)
        talk.until_closed()

    return script


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0xB000, 0x0107, 0x0116])
def test_who_claims_to_have_it_before_it_was_sent_is_not_believed(tmp_path: Path, status: int) -> None:
    path, _ = blob(tmp_path, BIG)
    with Peer(early(status)) as peer:
        association = connect(peer.destination(), "US", WANTED)
        with pytest.raises(AssociationLostError, match="before") as caught:
            store(association, path)
        assert caught.value.kind == "ended"
        association.abort()


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0111, 0x0122])
def test_an_early_refusal_is_an_answer(tmp_path: Path, status: int) -> None:
    path, _ = blob(tmp_path, BIG)
    with Peer(early(status)) as peer, associated(peer) as association:
        assert store(association, path) == status


@pytest.mark.parametrize("missing", [1, 4, 10, 5000, 200_000])
def test_a_blob_that_is_shorter_than_its_row_never_ends_as_a_data_set(tmp_path: Path, missing: int) -> None:
    """The peer must not take what follows (an A-ABORT) for the end of the fragment that was begun."""
    path, data = blob(tmp_path, 300_000)
    with Peer(max_pdu=131072) as peer:
        association = connect(peer.destination(), "US", WANTED)
        with pytest.raises(OSError, match="shorter"):
            store(association, path, len(data) + missing)
        association.abort()
        wait_for(lambda: peer.ends)
        assert not peer.stored
        assert peer.ends[0] in ("closed", "ABORT")


def test_a_blob_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with Peer() as peer, associated(peer) as association:
        with pytest.raises(FileNotFoundError):
            store(association, tmp_path / "none", 10)
        assert not association.lost()


def test_no_reason_names_the_instance(tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 1000)
    with Peer(answering(lambda talk, got: talk.send(pdu.abort(None)))) as peer:
        association = connect(peer.destination(), "US", WANTED)
        with pytest.raises(AssociationLostError) as caught:
            store(association, path)
        assert UID not in str(caught.value)
        association.abort()
