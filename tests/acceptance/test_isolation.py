"""A destination that fails, whatever the way, delays its own deliveries; so does inference that is stopped or gone."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.spool import fill
from router.association import pdu
from router.association.pdu import Kind
from router.config.settings import SpoolSettings
from router.spool import open_spool
from tests.acceptance.corpus import Row, database, node_as_destination, quick_node, rows
from tests.acceptance.small import instance_files, store_all
from tests.acceptance.test_signals import family, ready
from tests.chaos.traffic import Sinks
from tests.peers import NodeUnderTest, free_port, wait_for
from tests.unit.peer import Peer, Script, Stored, Talk, rejecting

COUNT = 24
DONE = {0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0x0111}
TRIED_AGAIN = {
    0xA700, 0xA701, 0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0105, 0x0106, 0x0110, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117,
    0x0118, 0x0119, 0x0120, 0x0121, 0x0122, 0x0123, 0x0124, 0x0210, 0x0211, 0x0212, 0x0213, 0xFE00, 0xFF00, 0x1234,
}  # fmt: skip
"""PS3.4 table B.2-1 and PS3.7 annex C, and what nobody defined: none of it says that the instance has arrived."""


def never_answers(talk: Talk) -> None:
    talk.accept()
    talk.until_closed(release=False)


def says_nothing(talk: Talk) -> None:
    talk.until_closed(release=False)


def aborts_in_the_middle(talk: Talk) -> None:
    talk.accept()
    talk.read()
    talk.send(pdu.abort(None))
    talk.until_closed()


def resets_in_the_middle(talk: Talk) -> None:
    talk.accept()
    talk.read()
    talk.reset()


def trickles(talk: Talk) -> None:
    """Answers one byte at a time, and never a whole answer."""
    talk.accept()
    got = talk.message()
    if not isinstance(got, Kind):
        for byte in b"\x04\0\0\0\1\0":
            talk.send(bytes((byte,)))
            time.sleep(0.3)
    talk.until_closed()


WAYS: dict[str, Script] = {
    "silent": says_nothing, "deaf": never_answers, "aborts": aborts_in_the_middle, "resets": resets_in_the_middle,
    "trickles": trickles, "rejects": rejecting(1, 1, 3), "busy": rejecting(2, 3, 2),
}  # fmt: skip
"""Destinations by how they fail; besides, `down` has nobody listening and `picky` refuses every context."""


@dataclass(frozen=True)
class Ward:
    """A node that owes each instance to one good destination and to each of the bad ones."""

    node: NodeUnderTest
    sinks: Sinks
    peers: dict[str, Peer]

    def deliveries(self) -> dict[str, list[tuple[str, int | None, str, int]]]:
        """State, last status, reason and tries of each delivery, by destination."""
        found = defaultdict(list)
        with database(self.node) as connection:
            for name, *rest in connection.execute("SELECT destination, state, status, reason, tries FROM delivery"):
                found[name].append(tuple(rest))
        return found


def answering(status: int) -> Callable[[Stored], int]:
    return lambda _: status


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("isolation")
    peers = {name: Peer(script=script) for name, script in WAYS.items()}
    peers["picky"] = Peer(choose=lambda *_: None)
    peers |= {f"s{status:04x}": Peer(status=answering(status)) for status in sorted(DONE | TRIED_AGAIN)}
    with Sinks() as sinks, ExitStack() as running:
        ports = {name: running.enter_context(peer).port for name, peer in peers.items()}
        ports |= {"good": sinks.ports["one"], "down": free_port()}
        everybody = ", ".join(sorted(ports))
        node = quick_node(folder, ports, rules=f"rules: []\notherwise: {{send: [{everybody}]}}\n")
        settings, limits = node.config.read_text(), "response_timeout: 3s, echo: false,"
        node.config.write_text(settings.replace("host: 127.0.0.1,", f"host: 127.0.0.1, {limits}"))
        with node.running():
            metas = instance_files(folder / "instances", COUNT)
            assert store_all(metas, node_as_destination(node)) == [0] * COUNT
            yield Ward(node, sinks, peers)


def test_the_good_one_gets_everything_whatever_the_others_do(ward: Ward) -> None:
    wait_for(lambda: len(ward.sinks.arrivals) == COUNT, 60, "everything to arrive at the good destination")
    wait_for(lambda: ward.deliveries()["good"].count(("done", 0, "", 1)) == COUNT, 20, "and to be noted")


@pytest.mark.parametrize("status", sorted(DONE))
def test_a_status_that_says_stored_is_done(ward: Ward, status: int) -> None:
    name = f"s{status:04x}"
    wait_for(lambda: len(ward.peers[name].stored) == COUNT, 60, "every instance to be tried")
    wait_for(lambda: {(one[0], one[1]) for one in ward.deliveries()[name]} == {("done", status)}, 20, "all to be done")
    assert all(bool(reason) == (status != 0) for _, _, reason, _ in ward.deliveries()[name])


@pytest.mark.parametrize("status", sorted(TRIED_AGAIN))
def test_a_status_that_does_not_is_never_done(ward: Ward, status: int) -> None:
    """Each waits, with the reason in sight; a row of equal answers opens the circuit instead of burying a queue."""
    name = f"s{status:04x}"

    def tried() -> list[tuple[str, int | None, str, int]]:
        return [one for one in ward.deliveries()[name] if one[3]]

    wait_for(lambda: bool(tried()), 60, "some to be tried")
    wait_for(lambda: len(ward.deliveries()[name]) == COUNT, 60, "all to be decided")
    found = ward.deliveries()[name]
    assert {state for state, *_ in found} == {"open"}
    assert {(answer, f"0x{status:04X}" in reason) for _, answer, reason, _ in tried()} == {(status, True)}


@pytest.mark.parametrize("name", [*WAYS, "picky", "down"])
def test_whoever_fails_is_owed_everything(ward: Ward, name: str) -> None:
    def opened() -> bool:
        return f'dicom_router_circuit_open{{destination="{name}"}} 1.0' in ward.node.metrics()

    wait_for(opened, 90, "the circuit to open")
    found = ward.deliveries()[name]
    assert Counter(state for state, *_ in found) == {"open": COUNT}
    peer = ward.peers.get(name)
    if peer is not None:
        assert peer.connections < COUNT  # no hot loop
        assert name == "trickles" or not peer.stored


# -- a long queue, and inference that fails ---------------------------------------------------------------------------

WAITING = 100_000


@dataclass(frozen=True)
class Burdened:
    """A node with a long queue for a destination that is down, and another destination."""

    node: NodeUnderTest
    pid: int
    sinks: Sinks

    @property
    def inference(self) -> int:
        return family(self.pid)[1]

    def route(self, folder: Path, count: int) -> list[Row]:
        """So many new instances are acknowledged, decided and delivered; their rows."""
        metas = instance_files(folder, count)
        assert store_all(metas, node_as_destination(self.node)) == [0] * count
        wanted = {meta.sop_instance for meta in metas}
        wait_for(lambda: wanted <= {one.uid for one in self.sinks.arrivals}, 75, "all to be delivered")
        return [row for row in rows(self.node)[-2 * count :] if row.sop_instance in wanted]


@pytest.fixture(scope="module")
def burdened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Burdened]:
    folder = tmp_path_factory.mktemp("burdened")
    with Sinks() as sinks:
        node = quick_node(
            folder, {"one": sinks.ports["one"], "down": free_port()}, rules="rules: []\notherwise: {send: one}\n"
        )
        spool = open_spool(SpoolSettings(path=folder / "spool", reserve=0))
        fill(spool, WAITING, 0)
        spool.close()
        with node.running() as child:
            yield Burdened(node, child.pid, sinks)


def test_a_hundred_thousand_that_wait_for_one_destination_slow_nobody(burdened: Burdened, tmp_path: Path) -> None:
    assert len(burdened.route(tmp_path / "instances", 50)) == 50
    assert f'dicom_router_queue{{destination="down"}} {float(WAITING)}' in burdened.node.metrics()


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def without_memory(pid: int) -> None:
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))


@pytest.mark.parametrize("harm", [stopped, killed, without_memory])
def test_inference_fails_while_instances_come(burdened: Burdened, tmp_path: Path, harm: Callable[[int], None]) -> None:
    """Each is acknowledged, and decided by its pixels, or with the fact that there was no prediction on record."""
    wait_for(lambda: ready(burdened.node), 60, "inference")
    harm(burdened.inference)
    for row in burdened.route(tmp_path / "during", 40):
        assert row.pixels == "decoded" or (row.pixels == "failed" and row.why)
    wait_for(lambda: ready(burdened.node), 60, "inference to come back")
    after = burdened.route(tmp_path / "after", 5)
    assert [row.pixels for row in after] == ["decoded"] * 5
