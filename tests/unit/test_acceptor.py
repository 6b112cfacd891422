"""The acceptor against PS3.8's state table and PS3.7's messages, spoken to byte by byte."""

from __future__ import annotations

import struct
import time

import pytest

from router.association.messages import StoreRequest
from router.flow import Caller
from tests.unit.receiving import (
    ABORT,
    CONTEXTS,
    CT,
    DATA_SET,
    DX,
    ECHO,
    IMPLICIT,
    INSTANCE,
    RELEASE_RP,
    RELEASE_RQ,
    STORE,
    STORE_COMMAND,
    VERIFICATION,
    MemoryHandler,
    MemorySink,
    RawPeer,
    command,
    context,
    data_set,
    echoes,
    element,
    item,
    node,
    p_data,
    pdu,
    pdv,
    request,
    served,
)

UNEXPECTED, UNRECOGNIZED, INVALID, BY_USER = "ABORT 2/2", "ABORT 2/1", "ABORT 2/6", "ABORT 0/0"

BEFORE = {  # Sta2
    "Evt6 request": (request(), ["AC"]),
    "Evt3 A-ASSOCIATE-AC": (pdu(2, request()[6:]), [UNEXPECTED, "CLOSED"]),
    "Evt4 A-ASSOCIATE-RJ": (pdu(3, bytes(4)), [UNEXPECTED, "CLOSED"]),
    "Evt10 P-DATA-TF": (ECHO, [UNEXPECTED, "CLOSED"]),
    "Evt12 A-RELEASE-RQ": (RELEASE_RQ, [UNEXPECTED, "CLOSED"]),
    "Evt13 A-RELEASE-RP": (RELEASE_RP, [UNEXPECTED, "CLOSED"]),
    "Evt16 A-ABORT": (ABORT, ["CLOSED"]),
    "Evt18 ARTIM, nothing sent": (b"", ["CLOSED"]),
    "Evt18 ARTIM, half a header": (b"\x01\0\0", ["CLOSED"]),
    "Evt18 ARTIM, half a request": (request()[:60], ["CLOSED"]),
    "Evt19 unknown type 0": (pdu(0, b"x"), [UNRECOGNIZED, "CLOSED"]),
    "Evt19 HTTP": (b"GET / HTTP/1.1\r\n\r\n", [UNRECOGNIZED, "CLOSED"]),
    "Evt19 TLS on the plain port": (bytes.fromhex("16030100a5010000a10303") + bytes(160), [UNRECOGNIZED, "CLOSED"]),
    "request of 4 GB": (pdu(1, request()[6:], 0xFFFFFFFF), [INVALID, "CLOSED"]),
    "request beyond 1 MiB": (pdu(1, b"", 1024 * 1024 + 1), [INVALID, "CLOSED"]),
    "countless transfer syntaxes": (
        request(b"".join(context(2 * i + 1, VERIFICATION, *["1"] * 900) for i in range(32))),
        [INVALID, "CLOSED"],
    ),
    "countless items": (request(context(1) + item(0x99, b"") * 2000), [INVALID, "CLOSED"]),
    "countless sub-items": (request(user=item(0x50, item(0x99, b"") * 2000)), [INVALID, "CLOSED"]),
    "request without its fixed part": (pdu(1, bytes(67)), [INVALID, "CLOSED"]),
    "release of 400 bytes": (pdu(5, bytes(400)), [INVALID, "CLOSED"]),
}

STORE_OF_ANOTHER_CLASS = command(1, data=True, sop_class=CT, instance=INSTANCE)

ESTABLISHED = {  # Sta6
    "Evt6 request again": (request(), [UNEXPECTED, "CLOSED"]),
    "Evt3 A-ASSOCIATE-AC": (pdu(2, request()[6:]), [UNEXPECTED, "CLOSED"]),
    "Evt4 A-ASSOCIATE-RJ": (pdu(3, bytes(4)), [UNEXPECTED, "CLOSED"]),
    "Evt10 P-DATA-TF": (ECHO, ["STATUS 0000", "ABORT 2/0", "CLOSED"]),
    "Evt12 A-RELEASE-RQ": (RELEASE_RQ, ["RP", "CLOSED"]),
    "Evt12 twice": (RELEASE_RQ + RELEASE_RQ, ["RP", "CLOSED"]),
    "Evt12, then data": (RELEASE_RQ + ECHO, ["RP", "CLOSED"]),
    "Evt12 with a data set under way": (STORE + data_set(last=False) + RELEASE_RQ, ["RP", "CLOSED"]),
    "Evt13 A-RELEASE-RP": (RELEASE_RP, [UNEXPECTED, "CLOSED"]),
    "Evt16 A-ABORT": (ABORT, ["CLOSED"]),
    "Evt16 with undefined source": (pdu(7, b"\0\0\xff\xff"), ["CLOSED"]),
    "Evt19 unknown type": (pdu(0x99, b"abcd"), [UNRECOGNIZED, "CLOSED"]),
    "idle": (b"", ["ABORT 2/0", "CLOSED"]),
    "header, then silence": (pdu(4, b"", 1000), ["ABORT 2/0", "CLOSED"]),
    "P-DATA-TF beyond the announced": (pdu(4, b"", 131073), [INVALID, "CLOSED"]),
    "P-DATA-TF of 4 GB": (pdu(4, b"", 0xFFFFFFFF), [INVALID, "CLOSED"]),
    "P-DATA-TF without a PDV": (pdu(4, b""), [INVALID, "CLOSED"]),
    "PDV header cut": (pdu(4, pdv(1, 3, command(0x30)) + bytes(3)), ["STATUS 0000", INVALID, "CLOSED"]),
    "PDV of length 0": (pdu(4, struct.pack(">IBB", 0, 1, 3)), [INVALID, "CLOSED"]),
    "PDV of length 1": (pdu(4, struct.pack(">IBB", 1, 1, 3)), [INVALID, "CLOSED"]),
    "PDV beyond its PDU": (pdu(4, pdv(1, 3, b"abc", 1000)), [INVALID, "CLOSED"]),
    "PDV of 4 GB": (pdu(4, pdv(1, 3, b"abc", 0xFFFFFFFF)), [INVALID, "CLOSED"]),
    "context never proposed": (p_data(pdv(99, 3, command(0x30))), [INVALID, "CLOSED"]),
    "data set before a command": (data_set(), [BY_USER, "CLOSED"]),
    "second command before the data set": (STORE + STORE, [BY_USER, "CLOSED"]),
    "data set in another context": (STORE + p_data(pdv(1, 2, DATA_SET)), [BY_USER, "CLOSED"]),
    "command changes context": (p_data(pdv(3, 1, b""), pdv(1, 3, command(0x30))), [BY_USER, "CLOSED"]),
    "data inside a command": (p_data(pdv(3, 1, STORE_COMMAND[:40]), pdv(3, 0, DATA_SET)), [BY_USER, "CLOSED"]),
    "command beyond 64 KiB": (p_data(pdv(1, 1, bytes(60000))) * 2, [BY_USER, "CLOSED"]),
    "empty command": (p_data(pdv(1, 3, b"")), [BY_USER, "CLOSED"]),
    "command of another group": (p_data(pdv(1, 3, element(8, 0x16, DX))), [BY_USER, "CLOSED"]),
    "command element of 4 GB": (p_data(pdv(1, 3, struct.pack("<HHI", 0, 2, 0xFFFFFFFE) + b"1.2")), [BY_USER, "CLOSED"]),
    "command without message ID": (p_data(pdv(1, 3, command(0x30, message_id=0))), [BY_USER, "CLOSED"]),
    "countless empty PDVs": (STORE + p_data(pdv(3, 0, b"") * 4000), [BY_USER, "CLOSED"]),
    "countless PDVs of one byte": (STORE + p_data(pdv(3, 0, b"x") * 4000), [BY_USER, "CLOSED"]),
    "countless PDUs of one byte": (STORE + p_data(pdv(3, 0, b"x")) * 4000, [BY_USER, "CLOSED"]),
    "countless empty PDVs in several messages": (
        (p_data(pdv(3, 3, STORE_OF_ANOTHER_CLASS)) + p_data(pdv(3, 0, b"") * 2000, pdv(3, 2, DATA_SET))) * 2,
        ["STATUS 0122", BY_USER, "CLOSED"],
    ),
    "a command in countless empty PDVs": (p_data(pdv(1, 1, b"") * 4000), [BY_USER, "CLOSED"]),
    "a command of countless elements": (p_data(pdv(1, 3, element(0, 2, b"") * 300)), [BY_USER, "CLOSED"]),
    "C-CANCEL for ever": (p_data(pdv(1, 3, command(0x0FFF))) * 100, [BY_USER, "CLOSED"]),
    "response unasked": (p_data(pdv(1, 3, command(0x8030))), [BY_USER, "CLOSED"]),
}

MESSAGES = {
    "C-ECHO": (ECHO, ["STATUS 0000"]),
    "C-ECHO with reserved bits": (p_data(pdv(1, 0xFF, command(0x30))), ["STATUS 0000"]),
    "C-ECHO in pieces": (
        b"".join(p_data(pdv(1, 1, bytes((b,)))) for b in command(0x30)) + p_data(pdv(1, 3, b"")),
        ["STATUS 0000"],
    ),
    "five hundred C-ECHO in a few pieces each": (
        p_data(*(pdv(1, 1, b"") for _ in range(6)), pdv(1, 1, command(0x30)), pdv(1, 3, b"")) * 500,
        ["STATUS 0000"] * 500,
    ),
    "two C-ECHO in one PDU": (p_data(pdv(1, 3, command(0x30)), pdv(1, 3, command(0x30))), ["STATUS 0000"] * 2),
    "C-ECHO in a storage context": (p_data(pdv(3, 3, command(0x30, sop_class=DX))), ["STATUS 0122"]),
    "C-FIND": (p_data(pdv(1, 3, command(0x20))), ["STATUS 0211"]),
    "C-FIND with a data set": (p_data(pdv(3, 3, command(0x20, data=True))) + data_set(), ["STATUS 0211"]),
    "unknown command": (p_data(pdv(1, 3, command(0x7777))), ["STATUS 0211"]),
    "C-CANCEL, then C-ECHO": (p_data(pdv(1, 3, command(0x0FFF))) + ECHO, ["STATUS 0000"]),
    "C-STORE": (STORE + data_set(), ["STATUS 0000"]),
    "C-STORE in one PDU": (p_data(pdv(3, 3, STORE_COMMAND), pdv(3, 0, DATA_SET), pdv(3, 2, b"")), ["STATUS 0000"]),
    "C-STORE in PDVs of one byte": (STORE + data_set(step=1), ["STATUS 0000"]),
    "C-STORE of another class": (
        p_data(pdv(3, 3, STORE_OF_ANOTHER_CLASS)) + data_set(),
        ["STATUS 0122"],
    ),
    "C-STORE in the verification context": (
        p_data(pdv(1, 3, command(1, data=True, instance=INSTANCE)), pdv(1, 2, DATA_SET)),
        ["STATUS 0122"],
    ),
    "C-STORE without a data set": (p_data(pdv(3, 3, command(1, sop_class=DX, instance=INSTANCE))), ["STATUS c000"]),
    "two C-STORE ahead of the answer": (STORE + data_set() + STORE + data_set(), ["STATUS 0000"] * 2),
}


@pytest.mark.parametrize("name", BEFORE)
def test_before_the_association_each_event_has_the_answer_of_sta2(name: str) -> None:
    sent, expected = BEFORE[name]
    with served() as (port, _), RawPeer(port) as peer:
        assert peer.send(sent).answers(len(expected)) == expected
        assert echoes(port)


@pytest.mark.parametrize("name", ESTABLISHED)
def test_in_the_association_each_event_has_the_answer_of_sta6(name: str) -> None:
    sent, expected = ESTABLISHED[name]
    with served() as (port, handler), RawPeer(port) as peer:
        assert peer.associate().send(sent).answers() == expected
        assert handler.stored == []
        assert echoes(port)


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_is_answered_and_the_association_goes_on(name: str) -> None:
    sent, expected = MESSAGES[name]
    with served() as (port, _), RawPeer(port) as peer:
        assert peer.associate().send(sent, ECHO, RELEASE_RQ).answers() == [*expected, "STATUS 0000", "RP", "CLOSED"]


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_the_sink_gets_the_bytes_that_were_sent(step: int) -> None:
    with served() as (port, handler), RawPeer(port) as peer:
        assert peer.associate().send(STORE, data_set(step=step)).answer() == "STATUS 0000"
        assert handler.stored == [DATA_SET]
        (sink,) = handler.sinks
        assert isinstance(sink, MemorySink)
        assert sink.request == StoreRequest(Caller("RAW", "ROUTER", "127.0.0.1"), DX, INSTANCE, IMPLICIT, 7)


@pytest.mark.parametrize("end", [ABORT, RELEASE_RQ, b"", pdu(9, b"")])
def test_a_data_set_that_is_not_completed_is_abandoned(end: bytes) -> None:
    with served() as (port, handler):
        with RawPeer(port) as peer:
            peer.associate().send(STORE, data_set(last=False), end)
            if not end:
                peer.sock.shutdown(1)
            peer.answers()
        (sink,) = handler.sinks
        assert isinstance(sink, MemorySink)
        assert sink.ended == "abandoned"


@pytest.mark.parametrize("error", [OSError(28, "full"), MemoryError(), ValueError("x")])
@pytest.mark.parametrize("failing", ["begin", "write", "finish"])
def test_a_failing_sink_becomes_a_status_and_the_next_instance_is_stored(failing: str, error: Exception) -> None:
    handler = MemoryHandler()

    def broken(store: StoreRequest) -> MemorySink:
        handler.make = MemorySink
        if failing == "begin":
            raise error
        return MemorySink(store, failing=failing, error=error)

    handler.make = broken
    with served(handler=handler) as (port, _), RawPeer(port) as peer:
        peer.associate()
        assert peer.send(STORE, data_set(step=100)).answer() == "STATUS a700"
        assert peer.send(STORE, data_set(step=100)).answer() == "STATUS 0000"
    assert handler.stored == ([DATA_SET] if failing != "finish" else [DATA_SET, DATA_SET])


def test_a_status_instead_of_a_sink_is_answered_after_the_data_set() -> None:
    with served(handler=MemoryHandler(make=lambda _: 0xA900)) as (port, _), RawPeer(port) as peer:
        assert peer.associate().send(STORE, data_set(), ECHO).answer() == "STATUS a900"
        assert peer.answer() == "STATUS 0000"


def test_an_instance_beyond_the_ceiling_is_swallowed_and_refused() -> None:
    with served(node(instance_limit=3000)) as (port, handler), RawPeer(port) as peer:
        peer.associate()
        assert peer.send(STORE, data_set(bytes(4000), step=500)).answer() == "STATUS a700"
        assert peer.send(STORE, data_set(bytes(3000))).answer() == "STATUS 0000"
        assert peer.send(STORE, data_set(bytes(6001), step=500)).answer() == BY_USER
        assert [sink.ended for sink in handler.sinks if isinstance(sink, MemorySink)] == [
            "abandoned",
            "finished",
            "abandoned",
        ]


@pytest.mark.parametrize("max_pdu", [0, 7, 12, 0xFFFFFFFF])
def test_answers_respect_what_the_peer_can_take(max_pdu: int) -> None:
    with served() as (port, _), RawPeer(port) as peer:
        peer.associate(max_pdu=max_pdu).send(ECHO)
        got, last = b"", False
        while not last:
            answer = peer.read()
            assert answer[0] == 4
            assert len(answer) - 6 <= (max_pdu or len(answer))
            got, last = got + answer[12:], bool(answer[11] & 2)
        assert element(0, 0x900, b"\0\0") in got


REFUSED = {
    "version bit 0 clear": (request(version=2), "RJ 1/2/2"),
    "application context": (request(application="1.2.3"), "RJ 1/1/2"),
    "called title blank": (request(called=b" " * 16), "RJ 1/1/7"),
    "no presentation context": (request(b""), "RJ 1/1/1"),
    "maximum PDU that holds nothing": (request(max_pdu=6), "RJ 1/1/1"),
    "even context ID": (request(context(2)), INVALID),
    "context ID 0": (request(context(0)), INVALID),
    "context ID twice": (request(context(1) + context(1, DX)), INVALID),
    "129 contexts": (request(b"".join(context(2 * i + 1 & 255) for i in range(129))), INVALID),
    "no transfer syntax": (request(item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2"))), INVALID),
    "two abstract syntaxes": (
        request(item(0x20, bytes((1, 0, 0, 0)) + item(0x30, b"1.2") * 2 + item(0x40, b"1.2"))),
        INVALID,
    ),
    "context cut": (request(item(0x20, b"\1\0\0")), INVALID),
    "item longer than the PDU": (request(item(0x20, b"\1\0\0\0", 0xFFFF)), INVALID),
    "sub-item longer than its item": (request(item(0x20, b"\1\0\0\0" + item(0x30, b"1.2", 0xFFF0))), INVALID),
    "item header cut": (request(b"\x20\0"), INVALID),
    "maximum length of two bytes": (request(user=item(0x50, item(0x51, b"\0\1"))), INVALID),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_is_rejected_or_aborted(name: str) -> None:
    sent, expected = REFUSED[name]
    with served() as (port, _), RawPeer(port) as peer:
        assert peer.send(sent).answers() == [expected, "CLOSED"]


TOLERATED = {
    "version ffff": request(version=0xFFFF),
    "reserved bytes set": request(reserved=b"\xff" * 32),
    "titles of control characters": request(called=b"\x1b[2J\r\nX".ljust(16), calling=b"A\nB\x07".ljust(16)),
    "a title with what a buffer held": request(called=b"ROUTER\0rubbish".ljust(16), calling=b"A\0B".ljust(16)),
    "titles beyond ASCII": request(called=b"\xff" * 16, calling=b"\xd0\x9f" * 8),
    "no user information": request(user=b""),
    "unknown item": request(CONTEXTS + item(0x99, b"abc")),
    "unknown sub-items": request(user=item(0x50, item(0x51, b"\0\0\x40\0") + item(0x77, b"Z" * 60000))),
    "user identity that is cut": request(user=item(0x50, item(0x58, b"\2\1\xff\xffuser"))),
    "1000 transfer syntaxes": request(context(1, VERIFICATION, *(f"1.2.{i}" for i in range(1000)), IMPLICIT)),
    "128 contexts": request(b"".join(context(2 * i + 1) for i in range(128))),
    "a UID of 1000 characters": request(context(1) + context(3, "1." + "2" * 998)),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_what_the_standard_says_to_ignore_is_ignored(name: str) -> None:
    sent = TOLERATED[name]
    with served() as (port, _), RawPeer(port) as peer:
        peer.send(sent)
        answer = peer.read()
        assert answer[0] == 2
        assert answer[10:74] == sent[10:74]  # called, calling and reserved come back as they came
        assert peer.send(ECHO).answer() == "STATUS 0000"


def test_artim_runs_from_connect_and_not_from_the_last_byte() -> None:
    with served(node(artim=0.3)) as (port, _), RawPeer(port) as peer:
        peer.sock.settimeout(0.02)
        for byte in request():
            peer.send(bytes((byte,)))
            try:
                assert peer.sock.recv(100) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("a request of one byte each 20 ms was waited for to its end")


def test_a_transfer_below_the_least_rate_is_aborted_though_it_never_rests() -> None:
    with served(node(artim=0.3, least_rate=1000)) as (port, handler), RawPeer(port) as peer:
        peer.associate().send(STORE)
        peer.sock.settimeout(0.02)
        for _ in range(200):
            peer.send(p_data(pdv(3, 0, b"x")))
            try:
                answer = peer.sock.recv(100)
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("never aborted")
        assert answer == pdu(7, b"\0\0\2\0")
        assert [sink.ended for sink in handler.sinks if isinstance(sink, MemorySink)] in (["abandoned"], [""])


def test_a_transfer_at_the_least_rate_may_last_longer_than_the_grace() -> None:
    with served(node(artim=0.3, least_rate=1000)) as (port, _), RawPeer(port) as peer:
        peer.associate().send(STORE)
        peer.sock.settimeout(0.05)
        begin = time.monotonic()
        while time.monotonic() - begin < 0.7:
            peer.send(p_data(pdv(3, 0, bytes(500))))
            with pytest.raises(TimeoutError):
                peer.sock.recv(100)
        peer.sock.settimeout(5)
        assert peer.send(p_data(pdv(3, 2, b""))).answer() == "STATUS 0000"
