"""Destinations that are down, refuse, or only seem well: what the workers do while and after."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from router.association import pdu
from router.flow import Caller
from router.forward.backoff import FEW_WHILE_OPEN
from router.forward.circuit import BY_INSTANCES
from router.forward.outcomes import outcome_of
from router.spool import DestinationState, Spool, schema
from tests.unit.forwarding import Stage, forwarding, quick, slow
from tests.unit.peer import Peer, Stored, Talk, aborting_on, rejecting, wait_for


def test_a_dead_destination_costs_and_buries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEERS 1, 2: before and after a restart; a reload that names the right port is tried at once."""
    quick(monkeypatch)
    with Peer() as peer:
        port = peer.port
    with Peer() as good, forwarding(tmp_path, good, start=False) as stage:
        stage.destinations = {"dest": good.destination(port=port)}
        stage.start()
        stage.owe("dest", count=10)
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures >= 4)
        assert all(row.tries == 0 and row.state == "open" for row in stage.rows())
        assert len(stage.events("circuit opened")) == 1
        stage.stop()
        stage.spool.close()
        stage.open()
        stage.start()
        assert stage.is_open()
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures > 6)
        assert set(stage.states()) == {"open"}
        stage.change("dest", port=good.port)
        stage.until("done", 10)
        assert not stage.is_open()
        assert good.echoes == 1


def age(stage: Stage, seconds: float, *, still: bool) -> None:
    """As if everything had been owed for longer, and the circuit had been open all that time."""
    owed, since = schema.delivery.c.owed_since, schema.destination.c.still_since

    def change(connection: sa.Connection) -> None:
        connection.execute(schema.delivery.update().values(owed_since=owed - seconds))
        connection.execute(schema.destination.update().where(since > 0).values(still_since=since - seconds * still))

    stage.spool.database.run(change)


@pytest.mark.parametrize("still", [True, False])
def test_only_time_in_which_something_was_tried_counts_towards_giving_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    quick(monkeypatch)
    full = Peer(status=lambda _: 0xA700)
    with full, forwarding(tmp_path, full, start=False, give_up_after=500) as stage:
        stage.owe("dest")
        stage.spool.destinations.set_circuit("dest", 0.05, 3, "cannot connect")
        age(stage, 1000, still=still)
        stage.start()
        if still:
            wait_for(lambda: stage.rows()[0].tries > 3)
            assert stage.states() == ["open"]
        else:
            assert stage.until("buried")[0].tries == 1


@pytest.mark.parametrize("how", [(1, 1, 7), (2, 3, 2), (2, 3, 1)])
def test_rejections_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[int, int, int]) -> None:
    slow(monkeypatch)
    with Peer(rejecting(*how)) as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest", count=3)
        wait_for(lambda: "reject" in stage.spool.destinations.state("dest").circuit_reason)
        assert stage.is_open()
        assert [row.tries for row in stage.rows()] == [0, 0, 0]
        assert peer.connections == 1


def test_more_workers_than_a_peer_takes_associations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it has taken go on; the others rest without opening the circuit."""
    quick(monkeypatch)
    taken = threading.Event()

    def hold(talk: Talk) -> None:
        talk.accept()
        first = talk.message()
        assert isinstance(first, Stored)
        taken.set()
        wait_for(lambda: talk.peer.connections >= 3)
        talk.answer(first, 0)
        talk.serve_on()

    def refuse(talk: Talk) -> None:
        assert taken.wait(10)
        rejecting(2, 3, 2)(talk)

    peer = Peer(refuse, scripts=[hold])
    with peer, forwarding(tmp_path, peer, associations=3, start=False) as stage:
        stage.owe("dest", count=40)
        stage.start()
        stage.until("done", 40)
        assert not stage.events("circuit opened")
        assert peer.connections == 3


def silent_store(talk: Talk) -> None:
    """Answers C-ECHO and never C-STORE (PEERS 3)."""
    talk.accept()
    got = talk.message()
    if isinstance(got, Stored) and not got.data:
        talk.answer(got, 0)
        talk.peer.echoes += 1
    talk.until_closed()


def test_a_peer_that_answers_echo_but_not_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with Peer(silent_store) as peer, forwarding(tmp_path, peer, response_timeout=0.1) as stage:
        stage.owe("dest", count=9)
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures >= 5)
        assert stage.spool.destinations.state("dest").circuit_reason.startswith(BY_INSTANCES)
        assert set(stage.states()) == {"open"}
        assert peer.echoes == 0  # an echo would close it each time, and the time would never grow
        peer.script = Talk.serve
        stage.until("done", 9)


def test_a_queue_that_is_refused_is_not_buried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with Peer(status=lambda _: 0xC000) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=12)
        stage.start()
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures >= 12)
        assert set(stage.states()) == {"open"}
        assert sum(row.buriable_tries for row in stage.rows()) <= 2
        peer.status = lambda _: 0
        stage.until("done", 12)
        assert not stage.is_open()


def test_what_is_refused_for_ever_is_buried_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three instances and no other to show that the destination is well: every retry has a last one."""
    quick(monkeypatch)
    monkeypatch.setattr("router.forward.worker.FEW_WHILE_OPEN", 6)
    assert FEW_WHILE_OPEN < 100
    with Peer(status=lambda _: 0xC000) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", count=3)
        stage.start()
        rows = stage.until("buried", 3)
        assert max(row.tries for row in rows) == 7


def no_echo(sop_class: str, syntaxes: object) -> str | None:
    return None if sop_class == "1.2.840.10008.1.1" else str(syntaxes).split("'")[1]


@pytest.mark.parametrize("how", ["context refused", "status", "echo: false"])
def test_a_destination_without_c_echo_is_probed_by_a_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    quick(monkeypatch)

    def bad_echo(talk: Talk) -> None:
        talk.accept()
        got = talk.message()
        assert isinstance(got, Stored)
        if got.data:
            talk.peer.stored.append(got)
            talk.answer(got, 0)
            return talk.serve_on()
        talk.answer(got, 0x0211)
        talk.until_closed()
        return None

    with Peer(scripts=[rejecting(2, 3, 1)]) as peer, forwarding(tmp_path, peer, echo=how != "echo: false") as stage:
        if how == "context refused":
            peer.choose = no_echo
        elif how == "status":
            peer.script = bad_echo
        stage.owe("dest", count=5)
        stage.until("done", 5)
        assert len(stage.events("circuit closed")) == 1
        assert peer.echoes == 0


def test_an_association_without_c_echo_closes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the delivery shows whether the destination is back; until then its time keeps growing."""
    slow(monkeypatch)

    def aborting(talk: Talk) -> None:
        talk.accept()
        talk.read()
        talk.send(pdu.abort(None))
        talk.until_closed()

    with Peer(aborting, scripts=[Talk.serve], choose=no_echo) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.spool.destinations.set_circuit("dest", 0.0, 3, "cannot connect")
        stage.owe("dest", count=3)
        stage.start()
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures == 4)
        assert not stage.events("circuit closed")
        assert not peer.stored


def test_a_probe_that_is_skipped_lets_the_next_one_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the destination then, and nobody may wait for it for ever."""
    quick(monkeypatch)
    peer = Peer(scripts=[rejecting(2, 3, 1)])
    with peer, forwarding(tmp_path, peer, echo=False, start=False, associations=2) as stage:
        stage.spool.destinations.set_circuit("dest", 0.05, 1, "cannot connect")
        stage.owe("dest", count=2, caller=Caller("DEST", "R", "127.0.0.1"))
        stage.owe("dest", count=2)
        stage.start()
        stage.until("done", 2)
        assert stage.states().count("skipped") == 2


def test_a_worker_that_stops_while_it_probes_lets_the_next_one_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    asked = threading.Event()

    def probe(talk: Talk) -> None:
        asked.set()
        talk.until_closed()

    with Peer(scripts=[probe]) as peer, forwarding(tmp_path, peer, start=False, connect_timeout=1.0) as stage:
        stage.spool.destinations.set_circuit("dest", 0.0, 1, "cannot connect")
        stage.owe("dest")
        stage.start()
        assert asked.wait(10)
        stage.change("dest", associations=0)
        stage.change("dest", associations=1)
        stage.until("done")


def test_an_open_circuit_lets_the_association_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    with Peer(status=lambda _: 0xC000) as peer, forwarding(tmp_path, peer, idle=30.0, start=False) as stage:
        stage.owe("dest", count=6)
        stage.start()
        wait_for(lambda: peer.ends)
        assert peer.ends == ["ABORT"]
        assert len(peer.stored) == 3
        rows = stage.rows()
        assert [row.tries for row in rows] == [1, 1, 1, 0, 0, 0]
        assert all(row.token == 0 for row in rows)


POISON = b"image and garbage!"
POISONED_PEER = aborting_on(lambda got: got.data == POISON)
POISONED = BY_INSTANCES + "the association ended"


@pytest.mark.parametrize("order", ["poison first", "poison last"])
def test_instances_that_a_destination_dies_of_hold_up_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Fourteen cost a few times the shortest time that a circuit is open, wherever they stand."""
    slow(monkeypatch)
    monkeypatch.setattr("router.forward.backoff.CIRCUIT_FIRST", 0.05)
    with Peer(POISONED_PEER) as peer, forwarding(tmp_path, peer, start=False) as stage:
        for data, count in sorted([(POISON, 14), (b"good", 30)], reverse=order == "poison first"):
            stage.owe("dest", data=data, count=count)
        opened: list[float | None] = []
        monkeypatch.setattr(stage.spool.destinations, "set_circuit", lambda *values: opened.append(values[1]))
        stage.start()
        stage.until("done", 30)
        assert sum(seconds is not None for seconds in opened) <= 5
        wait_for(lambda: [row.tries for row in stage.rows() if row.state == "open"] == [1] * 14)
        assert sum(seconds is not None for seconds in opened) <= 14


def test_what_comes_while_only_known_poison_waits_is_tried_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the time has grown for those that have failed before."""
    slow(monkeypatch)
    monkeypatch.setattr("router.forward.backoff.CIRCUIT_FIRST", 0.05)
    with Peer(POISONED_PEER) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", data=POISON, count=3)
        for delivery in stage.spool.deliveries.claim("dest", 3):
            stage.spool.deliveries.retry(delivery, 0.01, "the peer aborted").result(10)
        stage.spool.destinations.set_circuit("dest", 300, 8, POISONED)
        stage.start()
        time.sleep(0.3)
        assert not peer.connections
        stage.owe("dest", data=b"good", count=4)
        stage.until("done", 4)


def test_what_failed_before_stays_behind_what_was_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was claimed again and could not be tried, because others of its kind opened the circuit."""
    slow(monkeypatch)
    with Peer(POISONED_PEER) as peer, forwarding(tmp_path, peer, start=False) as stage:
        stage.owe("dest", data=POISON, count=5)
        for delivery in stage.spool.deliveries.claim("dest", 5):
            stage.spool.deliveries.retry(delivery, 0.001, "the peer aborted").result(10)
        stage.start()
        wait_for(lambda: stage.is_open())
        wait_for(lambda: all(row.token == 0 for row in stage.rows()))
        assert sorted(row.tries for row in stage.rows()) == [1, 1, 2, 2, 2]
        assert all(row.ready_at > 0 for row in stage.rows())


def test_one_delivery_is_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch)
    with Peer(status=lambda _: 0xC000) as peer, forwarding(tmp_path, peer, start=False, associations=3) as stage:
        stage.spool.destinations.set_circuit("dest", 0.0, 3, BY_INSTANCES + outcome_of(0xC000).reason)
        stage.owe("dest", count=9)
        stage.start()
        wait_for(lambda: stage.spool.destinations.state("dest").circuit_failures == 4)
        wait_for(lambda: [row.token for row in stage.rows()] == [0] * 9)
        assert len(peer.stored) == 1
        assert sorted(row.tries for row in stage.rows()) == [0] * 8 + [1]


# -- a person's word -------------------------------------------------------------------------------------------------


def order(spool: Spool, do: str) -> None:
    if do == "retry":
        assert spool.orders.retry_now([row.id for row in spool.views.deliveries()], "a person")
    else:
        spool.orders.pause("dest", "a person")
        spool.orders.resume("dest", "a person")


@pytest.mark.parametrize("do", ["retry", "resume"])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("echo", [True, False])
def test_a_person_has_what_is_back_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: str, running: bool, echo: bool
) -> None:
    slow(monkeypatch)
    with Peer() as peer, forwarding(tmp_path, peer, echo=echo, start=False) as stage:
        peer.scripts.append(rejecting(1, 1, 3))
        stage.start()
        stage.owe("dest")
        wait_for(lambda: stage.is_open() and not any(row.token for row in stage.rows()))
        if running:
            order(stage.spool, do)
        else:
            stage.stop()
            order(stage.spool, do)
            stage.start()
        stage.until("done")
        assert not stage.is_open()
        assert stage.spool.destinations.state("dest") == DestinationState()


def test_a_person_has_what_was_refused_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where instances opened the circuit; with two workers, of which one probes."""
    slow(monkeypatch)
    peer = Peer(status=lambda _: 0xA700)
    with peer, forwarding(tmp_path, peer, associations=2, start=False) as stage:
        stage.owe("dest", count=4)
        stage.start()
        wait_for(lambda: stage.is_open() and not any(row.token for row in stage.rows()))
        peer.status = lambda _: 0
        order(stage.spool, "retry")
        stage.until("done", 4)
