"""Forwarding with a real spool and peers that do as they are told: every end of a delivery."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from router.association import pdu
from router.association.pdu import Kind
from router.flow import Caller, Instance, StoredFile
from tests.unit.forwarding import HEAD, copied, forwarding, quick, slow
from tests.unit.peer import CT, DX, EXPLICIT, IMPLICIT, J2K, Peer, Stored, Talk, aborting_on, wait_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


# -- done ------------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_one_association_and_is_then_released(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        instances = stage.owe("dest", data=b"x" * 40_002, count=20)
        stage.start()
        stage.until("done", 20)
        wait_for(lambda: peer.ends)
        assert peer.ends == ["released"]
        assert peer.connections == 1
        assert [one.sop_instance for one in peer.stored] == [one.sop_instance for one in instances]
        assert {one.data for one in peer.stored} == {b"x" * 40_002}
        assert all(row.tries == 1 and row.status == 0 for row in stage.rows())
        assert stage.spool.views.instance(instances[0].id).state == "finished"  # type: ignore[union-attr]


def test_the_next_is_not_begun_before_what_came_of_the_last_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a crash makes one duplicate here, and not as many as were claimed: on a disk that takes its time, too."""
    seen: list[list[str]] = []

    def status(_: Stored) -> int:
        seen.append(stage.states())
        return 0

    with Peer(status=status) as peer, forwarding(tmp_path, peer, start=False) as stage:
        close = stage.spool.deliveries.close

        def late(*about: Any, **more: Any) -> Future[bool]:
            future: Future[bool] = Future()
            threading.Timer(0.1, lambda: future.set_result(close(*about, **more).result(10))).start()
            return future

        monkeypatch.setattr(stage.spool.deliveries, "close", late)
        stage.owe("dest", count=3)
        stage.start()
        stage.until("done", 3)
    assert seen == [["open", "open", "open"], ["done", "open", "open"], ["done", "done", "open"]]


def test_the_association_is_kept_while_work_comes_and_released_when_idle(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, idle=30.0) as stage:
        for count in (1, 2, 3):
            stage.owe("dest")
            stage.until("done", count)
        assert (peer.connections, peer.ends) == (1, [])
        stage.change("dest", idle=0.01)
        wait_for(lambda: peer.ends)
        stage.owe("dest")
        stage.until("done", 4)
        assert peer.connections == 2
        assert peer.ends[0] == "released"


def test_a_sop_class_that_was_not_proposed_opens_a_new_association(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, idle=30.0) as stage:
        stage.owe("dest")
        stage.until("done", 1)
        stage.owe("dest", sop_class=CT)
        stage.until("done", 2)
        assert peer.connections == 2
        assert peer.ends == ["released"]
        stage.owe("dest", sop_class=CT, transfer_syntax=IMPLICIT)
        stage.until("done", 3)  # and never in Explicit VR, though that was accepted
        assert peer.connections == 3


def test_each_batch_proposes_what_it_needs(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        for number in range(40):
            stage.owe("dest", sop_class=f"1.2.840.{number}")
        stage.start()
        stage.until("done", 40)
        assert {len(proposal.contexts) for proposal in peer.proposals} == {16}  # each in its own syntax, and natively
        assert peer.connections <= 40 / 8


def test_an_association_that_the_peer_has_ended_is_not_used(tmp_path: Path) -> None:
    def once(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        talk.answer(got, 0)
        talk.send(pdu.release_rq())
        assert [talk.read()[0], talk.read()[0]] == [Kind.RELEASE_RQ, Kind.RELEASE_RP]
        talk.send(pdu.release_rp())

    with Peer(scripts=[once]) as peer, forwarding(tmp_path, peer, idle=30.0) as stage:
        stage.owe("dest")
        stage.until("done", 1)
        stage.owe("dest")
        stage.until("done", 2)
        assert peer.connections == 2
        assert [row.tries for row in stage.rows()] == [1, 1]


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0x0111])
def test_a_warning_or_a_duplicate_is_done_with_a_flag(tmp_path: Path, status: int) -> None:
    with Peer(status=lambda _: status) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest")
        (row,) = stage.until("done")
        assert row.status == status
        assert row.reason
        assert not stage.is_open()


def test_several_associations_share_the_queue(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        together.wait()
        talk.answer(got, 0)
        Talk.serve_on(talk)

    with Peer(scripts=[meet] * 3) as peer, forwarding(tmp_path, peer, associations=3, start=False) as stage:
        stage.owe("dest", count=24)
        stage.start()
        stage.until("done", 24)
        assert peer.connections == 3


# -- later and few ---------------------------------------------------------------------------------------------------


def statuses(*values: int) -> Any:
    """The next of these, then the last of them for ever."""
    left = list(values)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_out_of_resources_is_tried_again(tmp_path: Path) -> None:
    answers = statuses(0xA700, 0x0110, 0x0213, 0xA7FF, 0xA701, 0xA702, 0)
    with Peer(status=answers) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest")
        (row,) = stage.until("done")
    assert (row.tries, row.buriable_tries) == (7, 0)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xCFFF, 0x0122, 0x0124, 0x0211, 0xFE00, 0xFFFF, 0x0001])
def test_a_refusal_is_tried_a_few_times_and_buried(tmp_path: Path, status: int) -> None:
    with Peer(status=lambda _: status) as peer, forwarding(tmp_path, peer) as stage:
        (instance,) = stage.owe("dest")
        (row,) = stage.until("buried")
        assert (row.tries, row.buriable_tries, row.status) == (5, 4, status)
        assert f"0x{status:04X}" in str(row.reason)
        assert len(stage.events("buried")) == 1
        assert len(peer.stored) == 5
        assert not stage.is_open()  # one instance is no destination
        assert stage.spool.views.instance(instance.id).state == "decided"  # type: ignore[union-attr]
        peer.status = lambda _: 0
        assert stage.spool.orders.retry_now([row.id], "a person") == 1
        stage.until("done")


def test_give_up_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(status=lambda _: 0xA700) as peer, forwarding(tmp_path, peer, give_up_after=0.3) as stage:
        stage.owe("dest")
        (row,) = stage.until("buried")
        assert row.tries > 1
        assert "0xA700" in str(row.reason)


def test_an_abort_by_one_instance_counts_against_that_instance(tmp_path: Path) -> None:
    """The others go on; and what was half sent is never done."""
    poison: list[str] = []

    picky = aborting_on(lambda got: got.sop_instance in poison)
    with Peer(picky) as peer, forwarding(tmp_path, peer, start=False) as stage:
        poison.append(stage.owe("dest")[0].sop_instance)
        stage.owe("dest", count=10)
        stage.start()
        stage.until("done", 10)
        wait_for(lambda: stage.rows()[0].tries > 3)
        row = stage.rows()[0]
        assert (row.state, row.buriable_tries) == ("open", 0)
        assert "abort" in str(row.reason)
        assert not stage.events("circuit opened")
        poison.clear()
        stage.until("done", 11)


@pytest.mark.parametrize("how", ["abort", "close", "reset", "early success"])
def test_half_sent_is_never_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    slow(monkeypatch)

    def midway(talk: Talk) -> None:
        talk.accept()
        for _ in range(3):
            talk.read()
        if how == "abort":
            talk.send(pdu.abort(None))
        elif how == "early success":
            talk.answer(Stored(DX, "", b"", 1, 1), 0)
            talk.until_closed()
        elif how == "reset":
            talk.reset()

    with Peer(midway) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest", data=bytes(24_000_000))
        wait_for(lambda: stage.rows()[0].tries == 1)
        (row,) = stage.rows()
        assert (row.state, row.status, row.token) == ("open", None, 0)


# -- buried at once, and skipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [b"dAta set", b"data se", b"data set "])
def test_a_blob_that_has_changed_is_buried_and_never_sent(tmp_path: Path, change: bytes) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        changed = stage.owe("dest", count=4)
        for instance in changed:
            stage.spool.blob(instance.id).write_bytes(HEAD + change)
        stage.owe("dest")
        stage.start()
        stage.until("done")
        rows = stage.until("buried", 4)
        assert all("digest" in str(row.reason) and row.tries == 1 for row in rows)
        assert len(peer.stored) == 1
        assert not stage.events("circuit opened")  # it is our disk and not the destination


def test_a_blob_that_is_gone_is_buried_and_no_failure_of_the_destination(tmp_path: Path) -> None:
    """As after an older database was put back: a person must know of it, and trying again brings nothing back."""
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        lost = stage.owe("dest", count=4)
        for instance in lost:
            stage.spool.blob(instance.id).unlink()
        stage.start()
        rows = stage.until("buried", 4)
        assert all("the blob is gone" in str(row.reason) for row in rows)
        assert not stage.events("circuit opened")
        assert not peer.stored


def test_a_pipe_in_the_place_of_a_blob_keeps_nobody_waiting(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        (replaced,) = stage.owe("dest")
        stage.spool.blob(replaced.id).unlink()
        os.mkfifo(stage.spool.blob(replaced.id))
        stage.start()
        stage.until("buried", 1)
        assert not peer.stored


def test_blobs_whose_folder_cannot_be_reached_are_waited_for(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        lost = stage.owe("dest", count=4)
        for instance in lost:
            shutil.rmtree(stage.spool.blob(instance.id).parent, ignore_errors=True)
        stage.start()
        wait_for(lambda: all(row.tries > 2 for row in stage.rows()))
        assert set(stage.states()) == {"open"}
        assert not stage.events("circuit opened")
        assert not peer.stored


def test_a_duplicate_of_another_version_is_buried(tmp_path: Path) -> None:
    with Peer(status=statuses(0, 0x0111)) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest", data=b"once", sop_instance="1.2.3")
        stage.until("done")
        stage.owe("dest", data=b"once", sop_instance="1.2.3")
        stage.until("done", 2)  # equal bytes are there
        stage.owe("dest", data=b"else", sop_instance="1.2.3")
        (row,) = stage.until("buried")
        assert row.status == 0x0111
        assert row.tries == 1
        assert "another version" in str(row.reason)


def test_what_came_from_there_is_skipped(tmp_path: Path) -> None:
    back, other_ae = Caller("DEST", "ROUTER", "127.0.0.1"), Caller("OTHER", "ROUTER", "127.0.0.1")
    other_peer = Caller("DEST", "ROUTER", "10.0.0.1")
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", caller=back)
        stage.owe("dest", caller=other_ae)
        stage.owe("dest", caller=other_peer)
        stage.start()
        stage.until("done", 2)
        assert stage.states() == ["skipped", "done", "done"]
        assert stage.rows()[0].reason == "came from there"
        assert len(peer.stored) == 2


def test_a_name_that_could_not_be_looked_up_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from router.config.settings import DestinationSettings
    from router.flow import Delivery
    from router.forward.delivery import came_from

    answers: list[Any] = [OSError("no name server"), [(2, 1, 6, "", ("10.1.1.1", 0))]]

    def lookup(*_: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("router.forward.delivery.socket.getaddrinfo", lookup)
    instance = Instance("0", 0, Caller("DEST", "R", "10.1.1.1"), DX, "1", EXPLICIT, 0, 1, "")
    delivery = Delivery(1, instance, "dest", Path("x"), 1, 0, 0, 0.0)
    destination = DestinationSettings("dest", "DEST", "a-name-of-this-test", 104)
    assert not came_from(delivery, destination)
    assert came_from(delivery, destination)


# -- transcoding -----------------------------------------------------------------------------------------------------


class Copier:
    def __init__(self, folder: Path, error: str = "") -> None:
        self.path, self.error, self.calls = folder / "copy.native", error, 0
        self.path.write_bytes(b"--native")

    def __call__(self, instance: Instance, blob: Path, syntax: str) -> StoredFile:
        self.calls += 1
        assert (instance.transfer_syntax, syntax) == (J2K, EXPLICIT)
        assert blob.exists()
        if self.error:
            raise ValueError(self.error)
        return copied(instance, self.path, 2, 6, syntax)


def native_only(_: str, syntaxes: object) -> str | None:
    return EXPLICIT if EXPLICIT in str(syntaxes).split("'") else None


def test_a_refused_syntax_is_sent_as_a_copy(tmp_path: Path) -> None:
    copier = Copier(tmp_path)
    with Peer(choose=native_only) as peer, forwarding(tmp_path, peer, transcode=copier) as stage:
        stage.owe("dest", transfer_syntax=J2K)
        stage.owe("dest")
        first, second = stage.until("done", 2)
        assert [one.data for one in peer.stored] == [b"native", b"data set"]
        assert "transcoded" in str(first.reason)
        assert EXPLICIT in str(first.reason)
        assert not second.reason
        assert copier.calls == 1


def test_a_copy_that_ends_too_soon_ends_the_association(tmp_path: Path) -> None:
    """What the next delivery sends must not become the rest of this one."""

    def short(instance: Instance, blob: Path, syntax: str) -> StoredFile:
        path = tmp_path / "short.native"
        path.write_bytes(b"--native")
        return copied(instance, path, 2, 500, syntax)

    peer = Peer(choose=native_only)
    with peer, forwarding(tmp_path, peer, start=False, transcode=short) as stage:
        stage.owe("dest", transfer_syntax=J2K)
        stage.owe("dest", count=2, data=bytes(600))
        stage.start()
        stage.until("done", 2)
        wait_for(lambda: stage.rows()[0].tries)
        row = stage.rows()[0]
        assert (row.state, row.status, "shorter" in str(row.reason)) == ("open", None, True)
        assert [one.data for one in peer.stored] == [bytes(600)] * 2
        assert not stage.events("circuit opened")


def test_a_copy_that_cannot_be_made_is_buried_after_few_tries(tmp_path: Path) -> None:
    copier = Copier(tmp_path, "the pixels differ")
    with Peer(choose=native_only) as peer, forwarding(tmp_path, peer, transcode=copier) as stage:
        stage.owe("dest", transfer_syntax=J2K, count=4)
        rows = stage.until("buried", 4)
        assert all(row.tries == 5 and "the pixels differ" in str(row.reason) for row in rows)
        assert not peer.stored
        assert not stage.events("circuit opened")


def test_without_room_for_a_copy_the_delivery_waits(tmp_path: Path) -> None:
    """And is no sign of anything wrong with the destination, nor on the way to being buried."""
    copier, full = Copier(tmp_path), [True]

    def copy(*asked: Any) -> StoredFile:
        if full[0]:
            raise OSError(errno.ENOSPC, "no room for a native copy")
        return copier(*asked)

    with Peer(choose=native_only) as peer, forwarding(tmp_path, peer, transcode=copy) as stage:
        stage.owe("dest", transfer_syntax=J2K, count=4)
        wait_for(lambda: all(row.tries > 5 for row in stage.rows()))
        assert {(row.state, row.reason) for row in stage.rows()} == {("open", "no room for a native copy")}
        assert not stage.events("circuit opened")
        full[0] = False
        stage.until("done", 4)


def test_no_context_names_class_and_syntax(tmp_path: Path) -> None:
    with Peer(choose=lambda *_: None) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest", transfer_syntax=J2K)
        (row,) = stage.until("buried")
        assert row.tries == 5
        assert DX in str(row.reason)
        assert J2K in str(row.reason)
        assert not peer.stored


def test_syntaxes_that_exclude_everything(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, syntaxes=("1.2.3",)) as stage:
        stage.owe("dest", count=2)
        stage.until("buried", 2)
        assert not peer.stored
        assert not stage.events("circuit opened")


# -- what nobody foresaw ---------------------------------------------------------------------------------------------


def test_an_unforeseen_failure_is_counted_and_gives_back_the_rest(tmp_path: Path) -> None:
    def broken(*_: object) -> StoredFile:
        raise RuntimeError("unforeseen")

    with Peer(choose=native_only) as peer, forwarding(tmp_path, peer, transcode=broken, start=False) as stage:
        stage.owe("dest", transfer_syntax=J2K)
        stage.owe("dest", count=5)
        stage.start()
        stage.until("done", 5)
        (row,) = stage.until("buried")
        assert "RuntimeError" in str(row.reason)
        assert "unforeseen" not in str(row.reason)
