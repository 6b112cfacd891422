"""A whole node whose images lie in an object store: killed between store and row, and a store that stalls."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from router.association.dimse import Status
from router.commands.orphans import look
from router.commands.send_files import read_meta
from router.config import load
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import node_as_destination, quick_node, store
from tests.chaos.kills import quiet
from tests.chaos.traffic import Sinks
from tests.object_stores import Line, Server, silent, url
from tests.peers import NodeUnderTest, http, wait_for

pytestmark = [pytest.mark.postgresql, pytest.mark.objects]


@dataclass
class Site:
    node: NodeUnderTest
    sinks: Sinks
    line: Line
    process: subprocess.Popen[bytes] | None = None
    acknowledged: set[str] = field(default_factory=set)
    made: int = 0

    def make(self, count: int) -> list[Path]:
        first, self.made = self.made, self.made + count
        grey = np.random.default_rng(first).integers(0, 4096, (300, 250), np.uint16)
        return [wrap_image(grey, self.node.folder / f"{number}.dcm") for number in range(first, self.made)]

    def send(self, *paths: Path) -> list[int | str]:
        metas = [read_meta(path) for path in paths]
        answers = store(metas, node_as_destination(self.node), "MODALITY")
        self.acknowledged |= {meta.sop_instance for meta in metas if answers[meta.path] == Status.SUCCESS}
        return [answers[path] for path in paths]

    @property
    def arrived(self) -> Counter[str]:
        return Counter(one.uid for one in self.sinks.arrivals)

    def settle(self) -> None:
        wait_for(lambda: self.acknowledged <= set(self.arrived), 60, "every delivery to be done")


@pytest.fixture
def site(tmp_path: Path, rclone: Server, postgresql: Callable[[], str]) -> Iterator[Site]:
    quiet()
    with Sinks() as sinks, Line(rclone.port) as line:
        node = quick_node(tmp_path, sinks.ports, rules="rules: []\notherwise: {send: one}\n")
        written = f"spool: {{path: {tmp_path / 'spool'}}}"
        blobs = url(line.through(rclone.bucket()))
        whole = f"{written[:-1]}, database: '{postgresql()}', blobs: '{blobs}'}}"
        assert written in node.config.read_text()
        node.config.write_text(node.config.read_text().replace(written, whole))
        yield Site(node, sinks, line)


@contextmanager
def running(site: Site) -> Iterator[Site]:
    with site.node.running() as site.process:
        yield site


def killing(site: Site, moment: str) -> Callable[[bool, bytes], None]:
    """Kills the node when the first object is about to reach the store, or its answer the node."""

    def tap(is_answer: bool, data: bytes) -> None:
        seen.append(data[:300])
        is_put = any(re.match(rb"PUT [^ ]*\.dcm", one) for one in seen)
        if is_put and is_answer == (moment == "stored") and (not is_answer or data.startswith(b"HTTP/1.1 200")):
            assert site.process is not None
            os.kill(site.process.pid, signal.SIGKILL)
            site.process.wait()
            site.line.tap = lambda _is_answer, _data: None
            raise OSError("it gets no further")

    seen: list[bytes] = []
    return tap


@pytest.mark.parametrize(("moment", "orphans"), [("sending", 0), ("stored", 1)])
def test_killed_between_store_and_row_nothing_acknowledged_is_lost(site: Site, moment: str, orphans: int) -> None:
    paths = site.make(4)
    with running(site):
        assert site.send(*paths[:2]) == [Status.SUCCESS] * 2
        site.line.tap = killing(site, moment)
        assert Status.SUCCESS not in site.send(paths[2])
        wait_for(lambda: site.process is not None and site.process.poll() is not None, 20, "the node to be killed")
    with running(site):
        assert site.send(*paths[2:]) == [Status.SUCCESS] * 2
        site.settle()
        found = look(load(site.node.config).spool, young=0.0)
        assert (found.count, found.missing) == (orphans, ())


def test_a_store_that_stalls_is_answered_in_time_and_afterwards_all_goes_on(site: Site) -> None:
    paths = site.make(12)
    with running(site):
        assert site.send(paths[0]) == [Status.SUCCESS]
        site.settle()
        site.line.become(silent)
        begin = time.monotonic()
        assert site.send(paths[1]) == [Status.OUT_OF_RESOURCES]
        assert time.monotonic() - begin < 10.0
        begin = time.monotonic()
        assert site.send(*paths[2:]) == [Status.OUT_OF_RESOURCES] * 10
        assert time.monotonic() - begin < 10.0
        ready = f"http://127.0.0.1:{site.node.web_port}/readyz"
        wait_for(lambda: _status(ready) == 503, 10, "readiness to be withdrawn")
        site.line.become(None)
        wait_for(lambda: _status(ready) == 200, 30, "readiness to come back")
        assert site.send(*paths[1:]) == [Status.SUCCESS] * 11
        site.settle()
        assert set(site.arrived.values()) == {1}


def _status(address: str) -> int:
    import urllib.error

    try:
        http(address)
    except urllib.error.HTTPError as error:
        return error.code
    return 200
