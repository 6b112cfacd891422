"""A disk that is full or fails, under the running node: 0xA700 and nothing worse, and it goes on once the disk does."""

from __future__ import annotations

import errno
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from router.association.dimse import Status
from router.commands.send_files import read_meta
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import database, node_as_destination, quick_node, settled, store
from tests.chaos.kills import quiet
from tests.chaos.traffic import Sinks
from tests.faults import FAULTS, LOG, Fault, FaultyDisk
from tests.peers import NodeUnderTest, wait_for

pytestmark = pytest.mark.compiler


@dataclass
class Site:
    """A node on a disk that fails when told to, with its senders and its destinations."""

    node: NodeUnderTest
    sinks: Sinks
    disk: FaultyDisk
    process: subprocess.Popen[bytes] | None = None
    acknowledged: set[str] = field(default_factory=set)
    made: int = 0

    def make(self, count: int) -> list[Path]:
        first, self.made = self.made, self.made + count
        grey = np.random.default_rng(first).integers(0, 4096, (200, 150), np.uint16)
        return [wrap_image(grey, self.node.folder / f"{number}.dcm") for number in range(first, self.made)]

    def send(self, *paths: Path) -> list[int | str]:
        metas = [read_meta(path) for path in paths]
        answers = store(metas, node_as_destination(self.node), "MODALITY")
        self.acknowledged |= {meta.sop_instance for meta in metas if answers[meta.path] == Status.SUCCESS}
        return [answers[path] for path in paths]

    def settle(self) -> None:
        wait_for(lambda: settled(self.node, len(self.acknowledged)), 30, "every delivery to be done")

    @property
    def arrived(self) -> Counter[str]:
        return Counter(f"{one.uid} at {one.place}" for one in self.sinks.arrivals)

    @property
    def owed(self) -> set[str]:
        return {f"{uid} at {place}" for uid in self.acknowledged for place in ("one", "two")}

    def rows_and_blobs(self) -> tuple[set[str], set[str]]:
        """The ids of instances whose blob must be there, and the names of files that are there."""
        with database(self.node) as connection:
            rows = {f"{name}.dcm" for (name,) in connection.execute("SELECT id FROM instance WHERE state != 'gone'")}
        return rows, {path.name for path in (self.node.folder / "spool" / "blobs").glob("*/*")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    disk = FaultyDisk(folder)
    quiet()
    with Sinks() as sinks, pytest.MonkeyPatch.context() as environment:
        node = quick_node(folder, sinks.ports, rules="rules: []\notherwise: {send: [one, two]}\n")
        for name, value in disk.environment.items():
            environment.setenv(name, value)
        yield Site(node, sinks, disk)


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Site]:
    with site.node.running() as site.process:
        yield site


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]} {fault[1]} {errno.errorcode[fault[2]]}")
def test_refused_while_the_disk_fails_and_taken_right_after(running: Site, fault: Fault) -> None:
    site = running
    assert site.send(*site.make(3)) == [Status.SUCCESS] * 3  # still on their way when the disk begins to fail
    refused = site.make(3)
    site.disk.fail(fault)
    assert site.send(*refused) == [Status.OUT_OF_RESOURCES] * 3
    site.disk.fail()
    assert site.send(*refused) == [Status.SUCCESS] * 3
    site.settle()
    assert site.arrived == Counter(site.owed)
    rows, blobs = site.rows_and_blobs()
    assert rows == blobs
    assert site.process
    assert site.process.poll() is None


def test_what_was_refused_leaves_no_row_without_a_blob_behind_a_crash(running: Site) -> None:
    """SQLite's log holds the whole transaction when its sync fails; whoever reads the log after a crash believes it."""
    site = running
    assert site.send(*site.make(1)) == [Status.SUCCESS]
    site.settle()
    site.disk.fail(("sync", LOG, errno.EIO))
    assert site.send(*site.make(2)) == [Status.OUT_OF_RESOURCES] * 2
    assert site.process
    site.node.kill(site.process)
    site.disk.fail()
    with site.node.running():
        site.settle()
        rows, blobs = site.rows_and_blobs()
        assert rows == blobs
        assert not site.owed - set(site.arrived)
