"""A disk that is full or fails, under the running node: 0xA700 and nothing worse, and it goes on once the disk does."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from router.association.messages import OUT_OF_RESOURCES, SUCCESS
from router.pixels.wrap import wrap_image
from router.sending import read_meta
from tests.acceptance.corpus import database, node_as_destination, quick_node, settled, store
from tests.acceptance.peers import NodeUnderTest, wait_for
from tests.chaos.kills import quiet
from tests.chaos.traffic import Sinks

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (apt-get install gcc)")
BLOB, FOLDER, LOG, ALL = "*/blobs/??/*", "*/blobs/??", "*/node.db-wal", "*/spool/*"
FAULTS = [
    ("write", BLOB, errno.ENOSPC), ("write", BLOB, errno.EDQUOT), ("write", BLOB, errno.EIO),
    ("sync", BLOB, errno.EIO), ("sync", BLOB, errno.ENOSPC), ("sync", FOLDER, errno.EIO),
    ("write", LOG, errno.ENOSPC), ("write", LOG, errno.EIO), ("sync", LOG, errno.EIO), ("sync", LOG, errno.ENOSPC),
    ("write", ALL, errno.ENOSPC), ("write", ALL, errno.EIO), ("sync", ALL, errno.EIO),
]  # fmt: skip


@dataclass
class Site:
    """A node on a disk that fails when told to, with its senders and its destinations."""

    node: NodeUnderTest
    sinks: Sinks
    control: Path
    environment: pytest.MonkeyPatch
    process: subprocess.Popen[bytes] | None = None
    acknowledged: set[str] = field(default_factory=set)
    made: int = 0

    def fail(self, *faults: tuple[str, str, int]) -> None:
        """From now on; none: the disk is in good health again."""
        new = self.control.with_suffix(".new")
        new.write_text("".join(f"{call} {pattern} {number}\n" for call, pattern, number in faults))
        os.replace(new, self.control)

    def make(self, count: int) -> list[Path]:
        first, self.made = self.made, self.made + count
        grey = np.random.default_rng(first).integers(0, 4096, (200, 150), np.uint16)
        return [wrap_image(grey, self.node.folder / f"{number}.dcm") for number in range(first, self.made)]

    def send(self, *paths: Path) -> list[int | str]:
        metas = [read_meta(path) for path in paths]
        answers = store(metas, node_as_destination(self.node), "MODALITY")
        self.acknowledged |= {meta.sop_instance for meta in metas if answers[meta.path] == SUCCESS}
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
    source, built, control = Path(__file__).with_name("faults.c"), folder / "faults.so", folder / "faults"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    quiet()
    with Sinks() as sinks, pytest.MonkeyPatch.context() as environment:
        node = quick_node(folder, sinks.ports, rules="rules: []\notherwise: {send: [one, two]}\n")
        environment.setenv("LD_PRELOAD", str(built))
        environment.setenv("FAULTS", str(control))
        yield Site(node, sinks, control, environment)


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Site]:
    with site.node.running() as site.process:
        yield site


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]} {fault[1]} {errno.errorcode[fault[2]]}")
def test_refused_while_the_disk_fails_and_taken_right_after(running: Site, fault: tuple[str, str, int]) -> None:
    site = running
    assert site.send(*site.make(3)) == [SUCCESS] * 3  # still on their way when the disk begins to fail
    refused = site.make(3)
    site.fail(fault)
    assert site.send(*refused) == [OUT_OF_RESOURCES] * 3
    site.fail()
    assert site.send(*refused) == [SUCCESS] * 3
    site.settle()
    assert site.arrived == Counter(site.owed)
    rows, blobs = site.rows_and_blobs()
    assert rows == blobs
    assert site.process
    assert site.process.poll() is None


def test_what_was_refused_leaves_no_row_without_a_blob_behind_a_crash(running: Site) -> None:
    """SQLite's log holds the whole transaction when its sync fails; whoever reads the log after a crash believes it."""
    site = running
    assert site.send(*site.make(1)) == [SUCCESS]
    site.settle()
    site.fail(("sync", LOG, errno.EIO))
    assert site.send(*site.make(2)) == [OUT_OF_RESOURCES] * 2
    assert site.process
    site.node.kill(site.process)
    site.fail()
    with site.node.running():
        site.settle()
        rows, blobs = site.rows_and_blobs()
        assert rows == blobs
        assert not site.owed - set(site.arrived)
