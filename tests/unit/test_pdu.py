"""PDUs, command sets and negotiation by themselves; pynetdicom's codecs are the second opinion."""

from __future__ import annotations

import socket
import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_RELEASE_RP, A_RELEASE_RQ, P_DATA_TF

from router.association import dimse, pdu
from router.association.dimse import CommandError, decode_command, encode_command
from router.association.negotiation import (
    AgreedContext,
    ProposedContext,
    Result,
    accepted,
    answer,
    associate_ac,
    choose_syntax,
    is_storage,
    parse_request,
    title,
)
from router.association.pdu import AbortReason, Kind, Pace, PeerClosedError, ProtocolError, Stream, pdvs
from router.dicom.uids import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION, is_uid
from tests.unit.receiving import (
    CT,
    DEFLATED,
    DX,
    EXPLICIT,
    IMPLICIT,
    J2K,
    J2K_LOSSLESS,
    JPEG,
    JPIP,
    VERIFICATION,
    context,
    item,
    p_data,
    pdv,
    request,
)
from tests.unit.receiving import pdu as raw

PRIVATE = "1.2.826.0.1.3680043.8.498.1"
FIND = "1.2.840.10008.5.1.4.1.2.1.1"
RETIRED_OVERLAY = "1.2.840.10008.5.1.4.1.1.8"


def test_what_we_build_is_what_pynetdicom_reads() -> None:
    for ours, codec in (
        (pdu.abort(AbortReason.UNEXPECTED_PDU), A_ABORT_RQ),
        (pdu.associate_rj(2, 3, 2), A_ASSOCIATE_RJ),
        (pdu.release_rq(), A_RELEASE_RQ),
        (pdu.release_rp(), A_RELEASE_RP),
        (pdu.p_data_header(5, 4, command=False, last=True) + b"abcd", P_DATA_TF),
    ):
        decoded = codec()
        decoded.decode(ours)
        assert decoded.encode() == ours
    assert pdu.abort(None) == bytes.fromhex("070000000004 00000000")


@pytest.mark.parametrize("max_pdu", [7, 12, 100, 16384])
def test_a_command_is_cut_to_what_the_peer_can_take(max_pdu: int) -> None:
    command = bytes(range(150))
    sent, got, at = pdu.command_pdus(3, command, max_pdu), b"", 0
    while at < len(sent):
        length = struct.unpack_from(">I", sent, at + 2)[0]
        assert length <= max_pdu
        (one,) = pdvs(memoryview(sent)[at + 6 : at + 6 + length])
        got, at = got + bytes(one.fragment), at + 6 + length
        assert (one.context_id, one.is_command, one.is_last) == (3, True, at == len(sent))
    assert got == command


def test_pdvs_are_views_and_not_copies() -> None:
    body = bytearray(p_data(pdv(1, 3, b"ab"), pdv(3, 0, b"cde"))[6:])
    one, two = pdvs(memoryview(body))
    body[6] = 0x78
    assert (bytes(one.fragment), bytes(two.fragment)) == (b"xb", b"cde")
    assert ((one.is_command, one.is_last), (two.is_command, two.is_last)) == ((True, True), (False, False))


@given(st.binary(max_size=200))
def test_pdvs_of_anything_end_or_are_a_protocol_error(body: bytes) -> None:
    try:
        assert sum(len(one.fragment) + 6 for one in pdvs(memoryview(body))) == len(body)
    except ProtocolError:
        pass


@pytest.fixture
def pair():  # type: ignore[no-untyped-def]
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    yield Stream(ours), peer
    for one in (listener, peer, ours):
        one.close()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", TimeoutError),
        (b"\4\0\0", TimeoutError),
        (raw(4, b"abc", 10), TimeoutError),
        (raw(0x47, b""), ProtocolError),
        (raw(4, b"", 131073), ProtocolError),
        (raw(2, b"", 1 << 21), ProtocolError),
        (raw(6, b"", 5), ProtocolError),
    ],
)
def test_reading_is_bounded_in_time_and_length(pair, sent: bytes, error: type[Exception]) -> None:  # type: ignore[no-untyped-def]
    stream, peer = pair
    peer.sendall(sent)
    with pytest.raises(error):
        stream.read_body(stream.read_header(0.05)[1], 0.05)
    peer.close()


def test_a_stream_reads_pdu_after_pdu_and_sees_the_end(pair) -> None:  # type: ignore[no-untyped-def]
    stream, peer = pair
    assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    peer.sendall(p_data(pdv(1, 3, b"a")) + pdu.release_rq())
    kind, length = stream.read_header(1)
    assert (kind, bytes(stream.read_body(length, 1))) == (Kind.P_DATA, pdv(1, 3, b"a"))
    assert stream.read_header(1) == (Kind.RELEASE_RQ, 4)
    stream.read_body(4, 1)
    peer.close()
    with pytest.raises(PeerClosedError):
        stream.read_header(1)


@pytest.mark.parametrize("early", range(7))
def test_a_header_may_come_in_part_with_the_long_body_before_it(pair, early: int) -> None:  # type: ignore[no-untyped-def]
    stream, peer = pair
    long, short = bytes(range(256)) * 100, b"what follows"
    following = raw(4, short) + pdu.release_rq()
    peer.sendall(raw(4, long) + following[:early])
    kind, length = stream.read_header(1)
    assert (kind, bytes(stream.read_body(length, 1))) == (Kind.P_DATA, long)
    peer.sendall(following[early:])
    kind, length = stream.read_header(1)
    assert (kind, bytes(stream.read_body(length, 1))) == (Kind.P_DATA, short)
    assert stream.read_header(1) == (Kind.RELEASE_RQ, 4)


def test_draining_ends_by_its_bound_while_the_peer_goes_on(pair) -> None:  # type: ignore[no-untyped-def]
    stream, peer = pair
    peer.setblocking(False)
    while True:
        try:
            peer.send(bytes(65536))
        except BlockingIOError:
            break
    stream.drain(60, most=100_000)


def test_pace_gives_grace_then_the_least_rate() -> None:
    pace = Pace(grace=30, least_rate=1000)
    assert pace.left() == 30
    pace.received, pace.waited = 50_000, 70.0
    assert pace.left() == 10


def test_command_sets_agree_with_pynetdicom() -> None:
    ours = encode_command(
        {
            dimse.AFFECTED_SOP_CLASS: DX,
            dimse.COMMAND_FIELD: dimse.C_STORE_RQ,
            dimse.MESSAGE_ID: 7,
            dimse.PRIORITY: 0,
            dimse.DATA_SET_TYPE: dimse.A_DATA_SET,
            dimse.AFFECTED_SOP_INSTANCE: "1.2.3",
        }
    )
    theirs = decode(BytesIO(ours), True, True)
    assert (theirs.AffectedSOPClassUID, theirs.AffectedSOPInstanceUID, theirs.MessageID) == (DX, "1.2.3", 7)
    assert theirs.CommandGroupLength == len(ours) - 12
    dataset = Dataset()
    dataset.AffectedSOPClassUID, dataset.CommandField, dataset.MessageID = DX, 1, 9
    dataset.CommandDataSetType, dataset.AffectedSOPInstanceUID = 0x0102, "1.2.3.4"
    encoded = encode(dataset, True, True)
    assert encoded is not None
    command = decode_command(encoded)
    assert (command.field, command.message_id, command.has_data_set) == (1, 9, True)
    assert command.text(dimse.AFFECTED_SOP_INSTANCE) == "1.2.3.4"


@pytest.mark.parametrize(
    "broken", [b"\0\0\2\0\xff\xff\xff\xff1.2", b"\x08\0\x16\0\2\0\0\0ab", b"abc", bytes(dimse.MAX_COMMAND + 1)]
)
def test_broken_command_sets_are_errors(broken: bytes) -> None:
    with pytest.raises(CommandError):
        decode_command(broken)


def test_a_command_may_be_padded_and_lacks_what_it_lacks() -> None:
    command = decode_command(encode_command({dimse.MESSAGE_ID: 3}) + bytes(5))
    assert (command.message_id, command.number(dimse.STATUS), command.text(dimse.AFFECTED_SOP_CLASS)) == (3, None, "")
    with pytest.raises(CommandError):
        _ = command.field


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_an_error(noise: bytes) -> None:
    try:
        decode_command(noise)
    except CommandError:
        pass


def test_a_request_is_read_whole() -> None:
    user = item(0x50, item(0x51, b"\0\0\1\0") + item(0x52, b"1.2.3") + item(0x55, b"V1") + item(0x53, b"\0\2\0\3"))
    sent = request(context(1) + context(5, DX, J2K, EXPLICIT), user=user, called=b"CALLED\0".ljust(16))
    proposal = parse_request(memoryview(sent)[6:])
    assert proposal.contexts == (
        ProposedContext(1, VERIFICATION, (IMPLICIT,)),
        ProposedContext(5, DX, (J2K, EXPLICIT)),
    )
    assert (proposal.called_ae.rstrip("\0 "), proposal.calling_ae) == ("CALLED", "RAW")
    assert proposal.max_pdu == 256
    assert proposal.titles == sent[10:74]


@pytest.mark.parametrize("beyond", [item(0x99, b"abc", 4), item(0x50, item(0x77, b"abc", 4)), b"\x99\0\0"])
def test_an_item_may_not_leave_what_contains_it_even_if_it_is_skipped(beyond: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_request(memoryview(request(user=beyond))[6:])


def test_the_answer_is_what_pynetdicom_reads() -> None:
    proposal = parse_request(memoryview(request(context(1) + context(3, FIND) + context(5, DX, JPIP, PRIVATE)))[6:])
    agreed = answer(proposal)
    decoded = A_ASSOCIATE_AC()
    ours = associate_ac(proposal, agreed)
    decoded.decode(ours)
    assert decoded.encode() == ours
    assert [(c.context_id, c.result) for c in decoded.presentation_context] == [(1, 0), (3, 3), (5, 4)]
    assert decoded.user_information is not None
    assert decoded.user_information.maximum_length == 131072
    assert decoded.user_information.implementation_class_uid == IMPLEMENTATION_UID
    assert decoded.user_information.implementation_version_name == IMPLEMENTATION_VERSION
    assert decoded.user_information.async_ops_window is None
    assert accepted(agreed) == {1: AgreedContext(1, VERIFICATION, Result.ACCEPTED, IMPLICIT)}


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((IMPLICIT, EXPLICIT), IMPLICIT),
        ((EXPLICIT, IMPLICIT), EXPLICIT),
        ((J2K_LOSSLESS, IMPLICIT), J2K_LOSSLESS),
        ((J2K, JPEG, IMPLICIT), IMPLICIT),
        ((JPEG, J2K_LOSSLESS), J2K_LOSSLESS),
        ((JPEG, J2K), JPEG),
        ((PRIVATE, JPIP, DEFLATED), DEFLATED),
        ((JPIP, PRIVATE), None),
        (("1.2.840.10008.1.2.4.102", EXPLICIT), EXPLICIT),
        (("1.2.840.10008.1.2.4.55", J2K), "1.2.840.10008.1.2.4.55"),
        (("1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.110"), "1.2.840.10008.1.2.4.110"),
        (("1.2.840.10008.1.2.6.2", "1.2.840.10008.1.2.8.1"), "1.2.840.10008.1.2.8.1"),
        ((), None),
    ],
)
def test_the_first_known_syntax_is_chosen_but_a_lossy_one_only_alone(proposed: tuple[str, ...], chosen: str) -> None:
    assert choose_syntax(proposed) == chosen


@pytest.mark.parametrize(
    ("sop_class", "known", "with_unknown"),
    [
        (DX, True, True),
        (CT, True, True),
        (RETIRED_OVERLAY, True, True),
        (PRIVATE, False, True),
        (FIND, False, False),
        ("1.2.840.10008.1.20.1", False, False),
        ("../x", False, False),
    ],
)
def test_which_sop_classes_are_stored(sop_class: str, known: bool, with_unknown: bool) -> None:
    assert (is_storage(sop_class), is_storage(sop_class, unknown_too=True)) == (known, with_unknown)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_a_protocol_error(noise: bytes) -> None:
    for body in (noise, request(noise)[6:], request(user=noise)[6:], request(item(0x20, noise))[6:]):
        try:
            proposal = parse_request(memoryview(body))
            assert len(associate_ac(proposal, answer(proposal, unknown_sop_classes=True))) > 74
        except ProtocolError:
            pass


@pytest.mark.parametrize("came", [b"ROUTER", b"  ROUTER ", b"ROUTER\0\0", b"\0ROUTER", b"ROUTER\0rubbish"])
def test_a_title_is_what_stands_before_its_padding(came: bytes) -> None:
    assert title(came.ljust(16)) == "ROUTER"


def test_uids() -> None:
    assert is_uid("1." + "2" * 62)
    assert is_uid("1.02")
    assert not any(is_uid(text) for text in ("", "1." + "2" * 63, "1.2 ", "../x", "1.2\n", "1.٢", ".", "1..2", "1.2."))
