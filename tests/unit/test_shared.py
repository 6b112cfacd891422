"""What all nodes on one PostgreSQL database share: circuits, pauses, silences, users, wipes, and the key to find by."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.flow import Role
from router.forward.circuit import Circuit
from router.spool import CommitmentState, Spool, SpoolError, open_spool, read_spool
from router.spool.engine import MIGRATIONS
from router.spool.keyed import KEY_BYTES, KEY_FILE, key_of, make_key
from router.spool.schema import destination
from tests.unit.spooling import CALLERS, accept, decide, settings_of

pytestmark = pytest.mark.postgresql


@pytest.fixture
def database(postgresql: Callable[[], str]) -> str:
    return postgresql()


@pytest.fixture
def nodes(tmp_path: Path, database: str) -> Iterator[tuple[Spool, Spool]]:
    settings = settings_of(tmp_path / "spool", database)
    both = open_spool(settings), open_spool(settings)
    yield both
    for one in both:
        one.close()


# -- circuits, pauses, silences, users and the key belong to all nodes


def test_a_circuit_is_open_at_all_nodes_and_one_at_a_time_probes(nodes: tuple[Spool, Spool]) -> None:
    one, other = (Circuit("ai", spool, lambda: 0.5) for spool in nodes)
    one.failed("connection refused")
    assert is_open(one, other) == (True, False)
    assert other.look().circuit_reason == "connection refused"
    assert is_open(one, other) == (True, True)
    assert other.wait() > 0
    make_due(nodes[0])
    for circuit in (one, other):
        circuit.look()
    assert (one.wait(), other.wait()) == (0.0, 1.0), "one probes, and the other waits"
    one.end_probe()
    assert other.wait() == 0.0
    other.failed("connection refused")
    other.end_probe()
    make_due(nodes[0])
    one.look()
    assert one.wait() == 0.0, "a probe that has failed is over"
    one.succeeded()
    other.look()
    assert is_open(one, other) == (False, False)


def is_open(*circuits: Circuit) -> tuple[bool, ...]:
    return tuple(one.is_open for one in circuits)


def test_a_probe_of_a_killed_node_does_not_last(nodes: tuple[Spool, Spool], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (Circuit("ai", spool, lambda: 0.5) for spool in nodes)
    one.failed("connection refused")
    make_due(nodes[0])
    for circuit in (one, other):
        circuit.look()
    monkeypatch.setattr("router.forward.circuit.PROBE_SECONDS", 0.0)
    assert one.wait() == 0.0
    assert other.wait() == 0.0


def make_due(spool: Spool) -> None:
    due = destination.update().values(circuit_until=1.0)
    spool.database.run(lambda c: c.execute(due) and None)


def test_what_a_person_orders_at_one_node_counts_at_the_other(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    accept(one)
    decide(one, "ai")
    one.orders.pause("ai", "ann", 0.0)
    assert other.destinations.state("ai").paused
    other.orders.resume("ai", "bob")
    assert not one.destinations.state("ai").paused
    one.notices.silence("disk", 60.0, "ann")
    assert [each.condition for each in other.notices.silences()] == ["disk"]
    one.users.add("ann", None, frozenset({Role.VIEW}), "root")
    assert [each.name for each in other.users.all()] == ["ann"]
    (delivery_row,) = other.views.deliveries()
    assert one.orders.discard([delivery_row.id], "ann") == 1
    assert other.orders.wipe("bob") == 1
    assert one.views.finished().n == 0


def test_nodes_with_folders_of_their_own_find_by_one_key(tmp_path: Path, database: str) -> None:
    one = open_spool(settings_of(tmp_path / "one", database))
    shutil.copy(tmp_path / "one" / "spool-id", made(tmp_path / "two"))
    other = open_spool(settings_of(tmp_path / "two", database))
    assert one.decisions.key == other.decisions.key
    assert one.decisions.key is not None
    assert key_of(tmp_path / "two") == one.decisions.key, "an earlier version knows only the file"
    for spool in (one, other):
        spool.close()
    (tmp_path / "two" / KEY_FILE).write_bytes(bytes(KEY_BYTES))
    with pytest.raises(SpoolError, match=r"find\.key is not the key of spool\.database"):
        open_spool(settings_of(tmp_path / "two", database))


def test_a_disk_without_room_for_the_key_does_not_keep_it_from_a_node(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without the key would keep no study together, while the others do."""
    open_spool(settings_of(tmp_path / "one", database)).close()
    shutil.copy(tmp_path / "one" / "spool-id", made(tmp_path / "two"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("router.spool.shared_key.make_key", full)
    other = open_spool(settings_of(tmp_path / "two", database))
    assert other.decisions.key == key_of(tmp_path / "one")
    other.close()


def test_the_key_of_a_folder_becomes_that_of_the_database(tmp_path: Path, database: str) -> None:
    """A node of an earlier version has made it."""
    known = make_key(made(tmp_path / "spool"))
    spool = open_spool(settings_of(tmp_path / "spool", database))
    assert spool.decisions.key == known
    (tmp_path / "spool" / KEY_FILE).unlink()
    looking = read_spool(spool.settings)
    assert looking._keys.key() == known
    looking.close()
    spool.close()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- two versions on one database


ADDED_SINCE = "0013"


def test_migrations_since_then_take_nothing_away() -> None:
    """A node of the version before goes on while a newer one starts. What it cannot live with must say so."""
    versions = sorted((MIGRATIONS / "versions").glob("v*.py"))
    since = [path for path in versions if path.name[1:5] >= ADDED_SINCE]
    assert since
    for path in since:
        source = path.read_text()
        if "compatibility" not in source:
            assert not re.findall(r"op\.((?:drop_(?!index)|alter_|rename_)\w+)", source), path.name
        for column in re.findall(r"add_column\(.*", source):
            assert "nullable=False" not in column or "server_default" in column, path.name


# -- storage commitment


def test_a_report_on_its_own_association_waits_for_the_node_that_holds_it(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    one.nodes.begin("one", "host", ["receive"], "1", "one")
    one.commitments.add(CALLERS[0], "1.2", [("1.2.840", "1.1")], 60.0, reported_here=True)
    assert one.commitments.claim((), asks=False) is None, "a node that only receives asks no archive"
    answered(other)
    assert other.commitments.claim(()) is None
    assert other.commitments.next_due(()) is None, "else it would look again and again"
    report = one.commitments.claim((), asks=False)
    assert report is not None
    one.commitments.release(report, 0.0, state=CommitmentState.ANSWERED, tries=1)
    one.nodes.end().result()
    assert other.commitments.claim(()) is not None, "the association has ended with its node"


def test_any_node_that_asks_sends_a_report_to_an_address(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    one.nodes.begin("one", "host", ["receive"], "1", "one")
    one.commitments.add(CALLERS[0], "1.2", [("1.2.840", "1.1")], 60.0)
    answered(other)
    assert one.commitments.claim((), asks=False) is None
    assert other.commitments.claim(()) is not None


def answered(spool: Spool) -> None:
    """The archive was asked by this node, and has answered."""
    due = spool.commitments.claim(())
    assert due is not None
    spool.commitments.release(due, 0.0, state=CommitmentState.ANSWERED, tries=0)
