"""The requestor against a peer that does as it is told: good answers, odd ones, and none."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.association import pdu
from router.association.negotiation import FIXED, items
from router.association.pdu import Kind
from router.association.proposing import associate_rq
from router.association.requestor import AssociationLostError, connect, proposals
from tests.unit.peer import (
    CT,
    DX,
    EXPLICIT,
    IMPLICIT,
    J2K,
    JPEG,
    UID,
    VERIFICATION,
    Peer,
    Stored,
    Talk,
    wait_for,
)
from tests.unit.requesting import WANTED, associated, blob, refused, store

# -- what leaves is what lies on disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 7, 4095, 16371, 16372, 16373, 16378, 16379, 131066, 131067, 1_000_001])
def test_a_data_set_of_any_size_arrives_whole_and_even(tmp_path: Path, size: int) -> None:
    path, data = blob(tmp_path, size)
    with Peer(max_pdu=0) as peer, associated(peer) as association:
        assert store(association, path) == 0
        assert peer.stored == [Stored(DX, UID, data + bytes(size % 2), 1, 1)]


@pytest.mark.parametrize("max_pdu", [0, 7, 8, 9, 127, 128, 16382, 131072, 131073, 1 << 30, 0xFFFFFFFF, None])
def test_no_fragment_is_longer_than_the_peer_can_take(tmp_path: Path, max_pdu: int | None) -> None:
    size = 300 if max_pdu in (7, 8, 9) else 300_001
    path, data = blob(tmp_path, size)
    bodies: list[int] = []

    def look(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        assert got.data == data + bytes(size % 2 if max_pdu != 7 else 0)
        bodies.extend(talk.bodies)
        talk.answer(got, 0)
        talk.until_closed()

    with Peer(look, max_pdu=max_pdu) as peer, associated(peer) as association:
        assert store(association, path) == 0
    most = {None: 16384, 0: 131072}.get(max_pdu, min(max_pdu or 0, 131072))
    assert max(bodies) <= most
    assert max(bodies) > most - 2 or most > size  # and none is needlessly short
    assert all(body % 2 == 0 for body in bodies) or most == 7  # PS3.8 annex E, the last one as well


@pytest.mark.parametrize("max_pdu", [1, 6])
def test_a_maximum_in_which_nothing_fits_is_refused(max_pdu: int) -> None:
    with Peer(max_pdu=max_pdu) as peer:
        assert refused(peer).kind == "protocol"


def test_several_instances_on_one_association(tmp_path: Path) -> None:
    path, data = blob(tmp_path, 50_000)
    with Peer() as peer, associated(peer) as association:
        assert [store(association, path) for _ in range(3)] == [0, 0, 0]
        assert association.echo() == 0 if association.accepts(VERIFICATION, EXPLICIT) else True
        assert [one.message_id for one in peer.stored] == [1, 2, 3]
        assert peer.stored[2].data == data
        assert peer.connections == 1
        assert not association.lost()
    assert peer.ends == ["released"]


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0xB000, 0xA700, 0xC123, 0xFFFF])
def test_the_status_is_the_peers(tmp_path: Path, status: int) -> None:
    path, _ = blob(tmp_path, 10)
    with Peer(status=lambda _: status) as peer, associated(peer) as association:
        assert store(association, path) == status


def test_the_request_names_what_is_needed_and_nothing_else() -> None:
    with Peer() as peer:
        connect(peer.destination(calling_ae_title="IGNORED"), "US", [(DX, J2K), (CT, EXPLICIT), (DX, J2K)]).release()
    (proposal,) = peer.proposals
    assert (proposal.calling_ae, proposal.called_ae, proposal.max_pdu) == ("US", "DEST", pdu.MAX_PDU)
    user = list(items(memoryview(associate_rq("US", "DEST", proposal.contexts))[6 + FIXED :]))[-1][1]
    assert [kind for kind, _ in items(user)] == [0x51, 0x52, 0x55]  # no asynchronous window, no roles
    assert [(c.id, c.abstract_syntax, c.transfer_syntaxes) for c in proposal.contexts] == [
        (1, DX, (J2K,)), (3, CT, (EXPLICIT,)), (5, DX, (EXPLICIT, IMPLICIT)), (7, CT, (EXPLICIT, IMPLICIT)),
    ]  # fmt: skip


# -- contexts --------------------------------------------------------------------------------------------------------


def test_contexts_are_accepted_one_by_one(tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 100)

    def choose(sop_class: str, syntaxes: object) -> str | None:
        return IMPLICIT if sop_class == DX and IMPLICIT in str(syntaxes) and J2K not in str(syntaxes) else None

    with Peer(choose=choose) as peer:
        association = connect(peer.destination(), "US", [(DX, J2K), (CT, EXPLICIT)])
        assert not association.accepts(DX, J2K)
        assert association.accepts(DX, IMPLICIT)
        assert not association.accepts(CT, EXPLICIT)
        assert (association.fallback(DX), association.fallback(CT)) == (IMPLICIT, None)
        assert store(association, path, syntax=IMPLICIT) == 0
        assert peer.stored[0].context_id == 5
        association.release()


def test_every_context_refused_is_an_association_without_use() -> None:
    with Peer(choose=lambda *_: None) as peer, associated(peer) as association:
        assert not association.accepts(DX, EXPLICIT)
        assert association.fallback(DX) is None


def test_a_syntax_that_was_not_proposed_is_not_accepted() -> None:
    with Peer(choose=lambda *_: JPEG) as peer, associated(peer) as association:
        assert not association.accepts(DX, JPEG)
        assert association.fallback(DX) is None


def test_more_pairs_than_an_association_holds() -> None:
    wanted = [(f"1.2.840.{n}", f"1.2.3.{m}") for n in range(20) for m in range(10)]
    with Peer() as peer:
        association = connect(peer.destination(), "US", wanted)
        assert len(peer.proposals[0].contexts) == 128
        assert [c.id for c in peer.proposals[0].contexts] == list(range(1, 257, 2))
        assert association.accepts(*wanted[0])
        assert association.accepts(*wanted[127])
        assert not association.accepts(*wanted[128])
        assert not association.proposed.issuperset(wanted[128:])
        association.release()


def test_syntaxes_narrow_what_is_proposed() -> None:
    assert [c.transfer_syntaxes for c in proposals([(DX, J2K), (DX, EXPLICIT)], (EXPLICIT,), echo=False)] == [
        (EXPLICIT,), (EXPLICIT,),
    ]  # fmt: skip
    narrow = proposals([(DX, J2K)], (JPEG,), echo=False)
    assert [c.abstract_syntax for c in narrow] == [VERIFICATION]  # a request without any context is an error


def test_a_fallback_that_was_not_chosen_was_not_proposed() -> None:
    """An instance of that syntax has a right to a context in which the peer cannot choose another."""
    with Peer() as peer, associated(peer) as association:
        assert association.fallback(DX) == EXPLICIT
        assert (DX, IMPLICIT) not in association.proposed


@pytest.mark.parametrize("syntaxes", [None, (EXPLICIT,), (JPEG,)])
def test_what_the_settings_exclude_needs_no_new_association(syntaxes: tuple[str, ...] | None) -> None:
    with Peer() as peer:
        association = connect(peer.destination(syntaxes=syntaxes), "US", [(DX, J2K), (CT, EXPLICIT)])
        assert association.proposed >= {(DX, J2K), (CT, EXPLICIT)}
        association.release()


# -- C-ECHO ----------------------------------------------------------------------------------------------------------


def test_echo() -> None:
    with Peer() as peer:
        association = connect(peer.destination(), "US", (), echo=True)
        assert association.echo() == 0
        association.release()
    assert peer.echoes == 1


def test_echo_where_its_context_is_refused() -> None:
    with Peer(choose=lambda *_: None) as peer:
        association = connect(peer.destination(), "US", (), echo=True)
        assert not association.accepts_echo
        with pytest.raises(AssociationLostError, match="C-ECHO"):
            association.echo()
        association.release()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_release_collision() -> None:
    """PS3.8 §7.2.2.7: both ask at once; the requestor answers first and still gets its answer."""
    ends: list[Kind] = []

    def collide(talk: Talk) -> None:
        talk.accept()
        talk.send(pdu.release_rq())
        ends.append(talk.read()[0])
        ends.append(talk.read()[0])
        talk.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it still waits for its own answer
            talk.sock.recv(1)
        talk.send(pdu.release_rp())
        talk.peer.ends.append(f"then {len(talk.until_closed())}")

    with Peer(collide) as peer:
        association = connect(peer.destination(), "US", WANTED)
        wait_for(association.lost)
        association.release()
        wait_for(lambda: peer.ends)
    assert ends == [Kind.RELEASE_RQ, Kind.RELEASE_RP]
    assert peer.ends == ["then 0"]


def ignores_release(talk: Talk) -> None:
    talk.accept()
    talk.until_closed(release=False)


def test_a_release_without_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.association.exchange.RELEASE", 0.2)
    with Peer(ignores_release) as peer:
        association = connect(peer.destination(), "US", WANTED)
        association.release()
        assert association.closed


@pytest.mark.parametrize("what", [pdu.abort(None), pdu.release_rq(), b""])
def test_lost_when_the_peer_speaks_or_goes(what: bytes) -> None:
    told: list[bool] = []

    def then(talk: Talk) -> None:
        talk.accept()
        wait_for(lambda: told)
        talk.send(what)

    with Peer(then) as peer:
        association = connect(peer.destination(), "US", WANTED)
        assert not association.lost()
        told.append(True)
        wait_for(association.lost)
        association.abort()
        assert association.closed


def test_lost_with_more_descriptors_than_select_knows(tmp_path: Path) -> None:
    import os
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("too few descriptors allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        with Peer() as peer, associated(peer) as association:
            assert not association.lost()
            path, _ = blob(tmp_path, 100_000)
            assert store(association, path) == 0
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
