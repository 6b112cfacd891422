"""What people do while deliveries are under way: pause, change settings, stop; and no destination waits for another."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from router.spool import SpoolError
from tests.unit.forwarding import Stage, forwarding, quick, slow
from tests.unit.peer import Peer, Stored, Talk, silent_until_closed, wait_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


class Gate:
    """A peer's script that lets nothing be answered until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, talk: Talk) -> None:
        talk.accept()
        while isinstance(got := talk.message(), Stored):
            self.reached.set()
            assert self.opened.wait(10)
            talk.peer.stored.append(got)
            talk.answer(got, 0)
        talk.peer.ends.append("released")
        talk.send(b"\6\0\0\0\0\4\0\0\0\0")


def is_idle(stage: Stage) -> bool:
    """Whether nobody holds anything."""
    return all(row.token == 0 for row in stage.rows())


# -- nobody waits for another ----------------------------------------------------------------------------------------


def test_a_dead_and_a_silent_destination_do_not_delay_a_third(tmp_path: Path) -> None:
    """PEERS 1, 3: the third has everything while the second has not yet been given up waiting for."""
    with Peer() as dead:
        pass
    silent, good = Peer(silent_until_closed), Peer()
    with silent, good, forwarding(tmp_path, dead, silent, good, start=False) as stage:
        stage.destinations["dest2"] = silent.destination(name="dest2", connect_timeout=60.0)
        stage.owe("dest", "dest2", "dest3", count=30)
        stage.start()
        stage.until("done", 30, to="dest3")
        assert set(stage.states("dest")) == set(stage.states("dest2")) == {"open"}
        assert silent.connections == 1
        wait_for(lambda: stage.is_open("dest"))
        assert not stage.is_open("dest2")  # it is still waiting for its first answer
        silent.__exit__()


# -- pause, disable, remove ------------------------------------------------------------------------------------------


def test_pause_and_resume(tmp_path: Path) -> None:
    gate = Gate()
    with Peer(gate) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=6)
        stage.start()
        assert gate.reached.wait(10)
        stage.spool.orders.pause("dest", "a person")
        gate.opened.set()
        wait_for(lambda: peer.ends)  # the delivery in hand was finished, and the association released
        wait_for(lambda: is_idle(stage))
        assert stage.states() == ["done"] + ["open"] * 5
        assert [row.tries for row in stage.rows()] == [1, 0, 0, 0, 0, 0]
        stage.spool.orders.resume("dest", "a person")
        stage.until("done", 6)
        assert len(peer.stored) == 6


def test_a_disabled_destination_is_owed_and_not_tried(tmp_path: Path) -> None:
    with Peer() as peer, Peer() as other, forwarding(tmp_path, peer, other, start=False) as stage:
        stage.destinations["dest"] = peer.destination(enabled=False)
        stage.owe("dest", "dest2", count=2)
        stage.start()
        stage.until("done", 2, to="dest2")
        assert (peer.connections, stage.states("dest")) == (0, ["open", "open"])
        stage.change("dest", enabled=True)
        stage.until("done", 2, to="dest")
        stage.change("dest", enabled=False)
        wait_for(lambda: peer.ends)
        stage.owe("dest")
        assert peer.connections == 1


def test_a_destination_that_is_removed_and_comes_back(tmp_path: Path) -> None:
    gate = Gate()
    with Peer(gate) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=4)
        stage.start()
        assert gate.reached.wait(10)
        before = stage.destinations
        stage.destinations = {}
        stage.forwarder.apply_settings()
        gate.opened.set()
        wait_for(lambda: peer.ends)
        wait_for(lambda: is_idle(stage))
        assert stage.states() == ["done", "open", "open", "open"]
        stage.destinations = before
        stage.forwarder.apply_settings()
        stage.until("done", 4)


def test_another_address_counts_from_the_next_delivery(tmp_path: Path) -> None:
    with Peer() as old, Peer() as new, forwarding(tmp_path, old, idle=60.0) as stage:
        stage.owe("dest")
        stage.until("done")
        stage.change("dest", port=new.port)
        stage.owe("dest")
        stage.until("done", 2)
        assert (len(old.stored), len(new.stored)) == (1, 1)
        assert old.ends == ["released"]


def test_a_corrected_address_is_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    with Peer() as dead:
        pass
    with Peer() as new, forwarding(tmp_path, dead) as stage:
        stage.owe("dest")
        wait_for(lambda: stage.is_open("dest"))
        stage.change("dest", port=new.port)
        stage.until("done")


def test_another_title_of_ours_counts_from_the_next_delivery(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, idle=60.0) as stage:
        for title in (None, "OTHER"):
            stage.change("dest", calling_ae_title=title)
            stage.owe("dest")
            stage.until("done", 1 if title is None else 2)
    assert [proposal.calling_ae for proposal in peer.proposals] == ["ROUTER", "OTHER"]


def test_more_and_fewer_associations(tmp_path: Path) -> None:
    gate = Gate()
    with Peer(gate) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=24)
        stage.start()
        wait_for(lambda: peer.connections == 1)
        stage.change("dest", associations=3)
        wait_for(lambda: peer.connections == 3)
        stage.change("dest", associations=1)
        gate.opened.set()
        stage.until("done", 24)
        assert peer.ends.count("released") >= 2
        assert is_idle(stage)


def test_what_a_leaving_worker_gives_back_wakes_the_one_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, resting = Gate(), threading.Event()
    with Peer(Talk.serve, scripts=[gate]) as peer, forwarding(tmp_path, peer, start=False) as stage:
        signal = stage.spool.signals.of("dest")
        wait = signal.wait

        def rest(version: int, seconds: float | None) -> None:
            if signal.version == version:
                resting.set()
            wait(version, seconds)

        monkeypatch.setattr(signal, "wait", rest)
        stage.owe("dest", count=8)
        stage.start()
        assert gate.reached.wait(10)  # one worker holds all eight
        stage.change("dest", associations=2)
        first, second = stage.forwarder._workers["dest"]
        assert resting.wait(10)
        stage.forwarder._workers["dest"] = [second, first]
        resting.clear()
        stage.change("dest", associations=1)  # the first leaves; the second finds nothing due, and rests for an hour
        assert resting.wait(10)
        gate.opened.set()
        stage.until("done", 8)
        first.join(10)
        assert not first.is_alive()
        assert second.is_alive()
        assert len(peer.stored) == 8


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", [False, True])
def test_stop_finishes_the_delivery_in_hand_and_gives_back_the_rest(tmp_path: Path, leaving: bool) -> None:
    gate = Gate()
    with Peer(gate) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=5)
        stage.start()
        assert gate.reached.wait(10)
        if leaving:
            stage.change("dest", associations=0)
        stopping = threading.Thread(target=stage.stop)
        stopping.start()
        gate.opened.set()
        stopping.join(10)
        assert not stopping.is_alive()
        assert stage.states() == ["done", "open", "open", "open", "open"]
        assert is_idle(stage)
        assert [row.tries for row in stage.rows()] == [1, 0, 0, 0, 0]
        assert (len(peer.stored), peer.ends) == (1, ["released"])
        assert not stage.events("circuit opened")


def test_stop_does_not_wait_beyond_its_deadline(tmp_path: Path) -> None:
    gate = Gate()
    with Peer(gate) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest")
        assert gate.reached.wait(10)
        stage.forwarder.stop(time.monotonic() + 0.05)
        assert stage.states() == ["open"]
        gate.opened.set()


def test_what_a_killed_node_held_is_sent_after_its_next_start(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=3)
        assert len(stage.spool.deliveries.claim("dest", 8)) == 3
        stage.spool.close()
        stage.open()
        stage.start()
        stage.until("done", 3)


# -- a spool that fails ----------------------------------------------------------------------------------------------


def test_a_spool_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delivered is written down as such, and what was not tried is given back."""
    slow(monkeypatch)
    failing = threading.Event()
    with Peer(status=lambda _: 0x0111) as peer, forwarding(tmp_path, peer, start=False) as stage:
        known = stage.spool.deliveries.known_digests

        def fail_once(*arguments: str) -> frozenset[str]:
            if not failing.is_set():
                failing.set()
                raise SpoolError("the disk is full")
            return known(*arguments)

        monkeypatch.setattr(stage.spool.deliveries, "known_digests", fail_once)
        stage.owe("dest", count=4)
        stage.start()
        stage.until("done", 4)
        assert failing.is_set()
        assert len(peer.stored) == 5  # the first one's answer was lost on us: at least once
