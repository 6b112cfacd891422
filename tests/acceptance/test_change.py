"""What may change under a node: its program, rules and destinations, the folder for temporary files, its neighbour.

One node serves all of these, in order: it starts on the full spool of an older program.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from router.spool import engine
from router.spool.blobs import BlobStore
from router.spool.engine import MIGRATIONS
from tests.acceptance.corpus import database, node_as_destination, quick_node
from tests.acceptance.small import instance_file, instance_files, store_all
from tests.chaos.traffic import SOP_CLASS, SYNTAX, Sender, Sinks
from tests.peers import NodeUnderTest, free_port, wait_for

OLD, STUCK, LIMIT = 200, 20_000, 5
RULES = """
rules:
  - {name: narrow, when: {calling_ae: WIDE}, send: [one, narrow]}
  - {name: old, when: {Modality: DX}, send: one}
otherwise: {send: down}
"""


@dataclass(frozen=True)
class Changing:
    """The node, what it forwards to, and its folder for temporary files with the time of its last change."""

    node: NodeUnderTest
    process: subprocess.Popen[bytes]
    sinks: Sinks
    waited: frozenset[str]
    temporary: Path
    untouched: int

    def arrived(self, place: str) -> set[str]:
        return {arrival.uid for arrival in self.sinks.arrivals if arrival.place == place}

    def reload(self, text: str, event: str) -> None:
        seen = self.node.log.read_text().count(event)
        self.node.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.node.log.read_text().count(event) > seen, 20, event)


def old_spool(folder: Path) -> frozenset[str]:
    """The spool that the first release left: some deliveries with blobs, many to a destination that is down."""
    blobs = BlobStore(folder / "blobs")
    folder.mkdir(mode=0o700, parents=True)
    blobs.prepare()
    (folder / engine.DATABASE).touch(mode=0o600)
    write = engine.writing(folder, "sqlite")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    instances, deliveries, uids = [], [], []
    for n in range(OLD + STUCK):
        row: dict[str, object] = {
            "received_at": time.time(), "calling_ae": "OLD", "called_ae": "ROUTER", "peer": "10.0.0.1",
            "sop_class": SOP_CLASS, "transfer_syntax": SYNTAX, "state": "decided",
        }  # fmt: skip
        if n < OLD:
            meta, blob = instance_file(folder / "made"), blobs.begin(b"")
            blob.write(memoryview(meta.path.read_bytes()))
            blob.seal()
            row |= {"id": blob.id, "digest": blob.digest(), "offset": 0, "size": blob.size, "uid": meta.sop_instance}
            uids.append(meta.sop_instance)
        else:
            row |= {"id": f"{n:032x}", "digest": "0" * 32, "offset": 0, "size": 0, "uid": f"1.2.{n}"}
        instances.append(row)
        to = "one" if n < OLD else "down"
        deliveries.append({"instance_id": row["id"], "destination": to, "state": "open", "owed_since": time.time()})
    with write.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for table, rows in (("instance", instances), ("delivery", deliveries)):
            names = {"uid": "sop_instance"}
            columns = ", ".join(f'"{names.get(name, name)}"' for name in rows[0])
            values = ", ".join(f":{name}" for name in rows[0])
            connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), rows)
    write.dispose()
    (folder / "made").unlink()
    return frozenset(uids)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    folder = tmp_path_factory.mktemp("change")
    temporary = folder / "temporary"
    temporary.mkdir()
    waited = old_spool(folder / "spool")
    with Sinks() as sinks, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        ports = {"one": sinks.ports["one"], "two": sinks.ports["two"], "narrow": free_port(), "down": free_port()}
        node = quick_node(folder, ports, rules=RULES)
        narrow = f"port: {ports['narrow']}"
        node.config.write_text(node.config.read_text().replace(narrow, f"{narrow}, limit: {LIMIT}"))
        untouched = temporary.stat().st_mtime_ns
        with node.running() as child:
            yield Changing(node, child, sinks, waited, temporary, untouched)


def test_a_newer_program_goes_on_with_all_that_an_older_one_left(changing: Changing) -> None:
    wait_for(lambda: changing.arrived("one") >= changing.waited, 60, "what the older program owed to arrive")
    assert len(changing.waited) == OLD
    with database(changing.node) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        waits = connection.execute("SELECT state, count(*) FROM delivery WHERE destination = 'down'").fetchall()
    assert version > "0001"
    assert waits == [("open", STUCK)]


def test_a_second_node_on_the_same_spool_is_refused_and_the_first_goes_on(changing: Changing, tmp_path: Path) -> None:
    other = changing.node.config.read_text()
    for port in (changing.node.port, changing.node.web_port):
        other = other.replace(f"port: {port}}}", f"port: {free_port()}}}", 1)
    (changing.node.folder / "other.yaml").write_text(other)
    serve = [sys.executable, "-m", "router", "serve", "--config", str(changing.node.folder / "other.yaml")]
    second = subprocess.run(serve, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode != 0
    assert str(changing.process.pid) in second.stderr  # who has it
    assert "Traceback" not in second.stderr
    metas = instance_files(tmp_path / "first", 3)
    assert store_all(metas, node_as_destination(changing.node)) == [0] * 3
    wait_for(lambda: {meta.sop_instance for meta in metas} <= changing.arrived("one"), 30, "the first to go on")


def test_a_destination_with_a_limit_buries_what_is_beyond_it(changing: Changing, tmp_path: Path) -> None:
    """So that one that is down for long cannot fill the spool for all."""
    metas = instance_files(tmp_path / "narrow", LIMIT + 7)
    assert store_all(metas, node_as_destination(changing.node), "WIDE") == [0] * len(metas)
    wait_for(lambda: {meta.sop_instance for meta in metas} <= changing.arrived("one"), 30, "the other to get all")
    with database(changing.node) as connection:
        found = connection.execute("SELECT state, reason FROM delivery WHERE destination = 'narrow'").fetchall()
    assert Counter(state for state, _ in found) == {"open": LIMIT, "buried": 7}
    assert all("limit" in reason for state, reason in found if state == "buried")
    assert 'dicom_router_buried_total{destination="narrow"} 7.0' in changing.node.metrics()
    assert changing.node.log.read_text().count("buried") >= 7


def test_rules_and_destinations_change_while_traffic_flows(changing: Changing, tmp_path: Path) -> None:
    """What was decided stays, what comes after goes by the new ones, and a file with a mistake changes nothing."""
    good = changing.node.config.read_text()
    new = good.replace("{name: old, when: {Modality: DX}, send: one}", "{name: new, when: {Modality: DX}, send: two}")
    senders = [Sender(changing.node.port, tmp_path, "change", number) for number in range(3)]
    begin = {arrival.uid for arrival in changing.sinks.arrivals}
    for sender in senders:
        sender.start()
    wait_for(lambda: len(changing.sinks.arrivals) > len(begin) + 20, 30, "traffic")
    changing.reload(new.replace("send: two", "send: twp"), "not reloaded")
    before = len(changing.arrived("one"))
    wait_for(lambda: len(changing.arrived("one")) > before + 20, 30, "traffic by the old rules")
    assert changing.arrived("two") == set()
    changing.reload(new, " reloaded ")
    reloaded = time.time()
    wait_for(lambda: len(changing.arrived("two")) > 20, 30, "traffic by the new rules")
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join(30)
    sent = {one.uid for sender in senders for one in sender.sent}
    wait_for(lambda: sent <= changing.arrived("one") | changing.arrived("two"), 60, "everything to arrive")

    query = "SELECT sop_instance, rule, destinations, received_at FROM instance WHERE calling_ae NOT IN ('OLD', 'WIDE')"
    with database(changing.node) as connection:
        decided = [row for row in connection.execute(query) if row[0] in sent]
    assert {(rule, *json.loads(to)) for _, rule, to, _ in decided} == {("old", "one"), ("new", "two")}
    assert {uid for uid, rule, _, _ in decided if rule == "old"} == changing.arrived("one") & sent
    assert {uid for uid, rule, _, _ in decided if rule == "new"} == changing.arrived("two") & sent
    assert {rule for _, rule, _, at in decided if at > reloaded} == {"new"}


def test_nothing_of_a_node_lies_in_the_folder_for_temporary_files(changing: Changing) -> None:
    """So that it may be full. A file that came and went would have changed the folder's time."""
    assert changing.temporary.stat().st_mtime_ns == changing.untouched
    assert list(changing.temporary.iterdir()) == []


def test_no_temporary_file_of_the_database_either(tmp_path: Path) -> None:
    """SQLite would put what is large to sort, or to undo, beside everybody else's."""
    (tmp_path / engine.DATABASE).touch()
    for made in (engine.writing(tmp_path, "sqlite"), engine.reading(tmp_path, "sqlite")):
        with made.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA temp_store").scalar_one() == 2  # memory
        made.dispose()
