"""What a peer may do otherwise than others, and the standard does not forbid, is taken by the requestor."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from router.association import dimse, pdu
from router.association.negotiation import item
from router.association.pdu import Kind
from router.association.requestor import AssociationLostError, connect
from tests.unit.peer import DX, EXPLICIT, IMPLICIT, VERIFICATION, Peer, Script, Stored, Talk, answer
from tests.unit.requesting import WANTED, associated, blob, store

WARNING = 0xB007
"""A status that no default would give."""


def stored_in(**elements: int | str) -> bytes:
    """A C-STORE-RSP of the fewest elements, and what a test adds."""
    names = {
        "data_set_type": dimse.DATA_SET_TYPE,
        "priority": dimse.PRIORITY,
        "responded": dimse.MESSAGE_ID_RESPONDED_TO,
    }
    command: dict[int, int | str] = {dimse.COMMAND_FIELD: dimse.C_STORE_RSP, dimse.STATUS: WARNING}
    return dimse.encode_command(command | {names[name]: value for name, value in elements.items()})


def in_pdus(got: Stored, command: bytes, *, context_id: int | None = None) -> bytes:
    return pdu.command_pdus(context_id or got.context_id, command, 16384)


def without_group_length(got: Stored) -> bytes:
    return stored_in(responded=got.message_id, data_set_type=dimse.NO_DATA_SET)[12:]


def with_wrong_group_length(got: Stored) -> bytes:
    return struct.pack("<HHII", 0, 0, 4, 7) + without_group_length(got)


def in_two_pdvs(got: Stored) -> bytes:
    whole = stored_in(responded=got.message_id)
    parts = ((1, whole[:20]), (1, b""), (3, whole[20:]))
    body = b"".join(struct.pack(">IBB", len(part) + 2, got.context_id, control) + part for control, part in parts)
    return pdu.HEADER.pack(Kind.P_DATA, len(body)) + body


def request_of(got: Stored, command_field: int, *, data: bytes = b"") -> bytes:
    command = dimse.encode_command({
        dimse.AFFECTED_SOP_CLASS: VERIFICATION, dimse.COMMAND_FIELD: command_field, dimse.MESSAGE_ID: 9,
        dimse.DATA_SET_TYPE: dimse.A_DATA_SET if data else dimse.NO_DATA_SET,
    })  # fmt: skip
    return in_pdus(got, command) + (pdu.data_set_pdus(got.context_id, data, 16384) if data else b"")


@pytest.mark.parametrize(
    "made",
    [
        lambda got: answer(got, WARNING, context_id=got.context_id + 2),  # go-netdicom, odil, old fo-dicom
        lambda got: in_pdus(got, stored_in()),
        lambda got: in_pdus(got, stored_in(responded=got.message_id)),
        lambda got: in_pdus(got, stored_in(responded=got.message_id, priority=2)),
        lambda got: in_pdus(got, stored_in(responded=got.message_id, data_set_type=0)),
        lambda got: in_pdus(got, stored_in(responded=got.message_id, data_set_type=0xFFFF)),
        lambda got: in_pdus(got, without_group_length(got)),
        lambda got: in_pdus(got, with_wrong_group_length(got)),
        in_two_pdvs,
    ],
)
def test_an_answer_counts_whatever_its_clothes(tmp_path: Path, made: Callable[[Stored], bytes]) -> None:
    path, _ = blob(tmp_path, 1000)

    def script(talk: Talk) -> None:
        talk.accept()
        for _ in range(2):
            got = talk.message()
            assert isinstance(got, Stored)
            talk.send(made(got))
        talk.until_closed()

    with Peer(script) as peer, associated(peer) as association:
        assert [store(association, path), store(association, path)] == [WARNING] * 2


@pytest.mark.parametrize(
    ("command_field", "data", "status"),
    [
        (dimse.C_ECHO_RQ, b"", 0x0000),
        (dimse.N_EVENT_REPORT_RQ, b"a data set", 0x0211),
        (dimse.C_STORE_RQ, b"a data set", 0x0211),
        (dimse.C_CANCEL_RQ, b"", None),
    ],
)
def test_a_request_of_the_peer_is_answered_and_ours_goes_on(
    tmp_path: Path, command_field: int, data: bytes, status: int | None
) -> None:
    path, _ = blob(tmp_path, 1000)
    heard: list[int | None] = []

    def script(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        talk.send(request_of(got, command_field, data=data))
        if status is not None:
            _, body = talk.read()
            response = dimse.decode_command(next(pdu.pdvs(body)).fragment)
            heard.append(response.number(dimse.STATUS))
            assert response.number(dimse.MESSAGE_ID_RESPONDED_TO) == 9
        talk.answer(got, WARNING)
        talk.until_closed()

    with Peer(script) as peer, associated(peer) as association:
        assert store(association, path) == WARNING
    assert heard == ([] if status is None else [status])


def test_request_after_request_instead_of_an_answer_ends(tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 1000)

    def script(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        talk.send(request_of(got, dimse.C_ECHO_RQ) * 100)
        talk.until_closed()

    with Peer(script) as peer:
        association = connect(peer.destination(), "US", WANTED)
        with pytest.raises(AssociationLostError, match="request after request"):
            store(association, path)
        association.abort()


def test_an_answer_in_countless_empty_fragments_ends(tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 1000)

    def script(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        talk.send(pdu.HEADER.pack(Kind.P_DATA, 60000) + struct.pack(">IBB", 2, got.context_id, 1) * 10000)
        talk.until_closed()

    with Peer(script) as peer:
        association = connect(peer.destination(), "US", WANTED)
        with pytest.raises(AssociationLostError, match="tiny fragments"):
            store(association, path)
        association.abort()


def test_what_crosses_a_release_does_not_hide_its_answer() -> None:
    ends: list[bytes] = []

    def script(talk: Talk) -> None:
        talk.accept()
        assert talk.read()[0] is Kind.RELEASE_RQ
        talk.send(request_of(Stored(DX, "1.2", b"", 1, 1), dimse.C_ECHO_RQ) + pdu.release_rp())
        ends.append(talk.until_closed())

    with Peer(script) as peer:
        connect(peer.destination(), "US", WANTED).release()
    assert ends == [b""]


def accepting(*contexts: bytes, user: bytes = b"") -> Script:
    """Answers the proposal with these presentation contexts, and is then a good peer."""

    def script(talk: Talk) -> None:
        proposal = talk.request()
        body = b"\0\1\0\0" + proposal.titles + item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts)
        body += item(0x50, user)
        talk.send(pdu.HEADER.pack(Kind.ASSOCIATE_AC, len(body)) + body)
        talk.serve_on()

    return script


GOOD = item(0x21, b"\1\0\0\0" + item(0x40, EXPLICIT.encode()))


@pytest.mark.parametrize(
    "script",
    [
        accepting(GOOD, item(0x21, b"\3\0\0\0")),
        accepting(GOOD, item(0x21, b"\3\0\0\0" + item(0x40, EXPLICIT.encode()) + item(0x40, IMPLICIT.encode()))),
        accepting(GOOD, item(0x21, b"\3\0\4\0")),
        accepting(GOOD, item(0x21, b"\x63\0\0\0" + item(0x40, EXPLICIT.encode()))),
        accepting(item(0x21, b"\1\0\0\0" + item(0x40, EXPLICIT.encode() + b"\0 "))),
        accepting(GOOD, user=item(0x51, b"\0\0\x40\0") + item(0x77, b"new") + item(0x53, b"\0\1\0\1")),
        accepting(GOOD, user=item(0x59, b"\0\0") + item(0x51, b"\0\0\x40\0")),
        accepting(item(0x99, b"unknown"), GOOD, user=item(0x51, b"\0\0\x40\0")),
    ],
)
def test_an_acceptance_counts_where_it_says_what_was_accepted(tmp_path: Path, script: Script) -> None:
    path, _ = blob(tmp_path, 1000)
    with Peer(script) as peer, associated(peer) as association:
        assert store(association, path) == 0
