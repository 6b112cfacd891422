"""One process to signal: SIGHUP reloads, SIGTERM drains, SIGKILL leaves nothing, a killed inference comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from router.commands.send_files import read_meta
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import quick_node
from tests.peers import NodeUnderTest, dcmsend, free_port, http, storescp, wait_for

pytestmark = pytest.mark.dcmtk


@dataclass(frozen=True)
class Site:
    """A node, its process, and what has arrived at its destination."""

    node: NodeUnderTest
    child: subprocess.Popen[bytes]
    sink: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests that leave it running, in order, and for the last one, which ends it."""
    folder, port = tmp_path_factory.mktemp("signals"), free_port()
    with storescp(folder / "sink", port):
        rules = "rules: []\notherwise: {send: sink}\n"
        node = quick_node(folder / "node", {"sink": port, "dead": free_port()}, rules=rules)
        with node.running() as child:
            yield Site(node, child, folder / "sink")


@pytest.fixture
def dx(tmp_path: Path) -> Path:
    return wrap_image(np.random.default_rng(3).integers(0, 4096, (300, 200), np.uint16), tmp_path / "dx.dcm")


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
    return found


def gone(pids: list[int]) -> bool:
    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return not any(runs(pid) for pid in pids)


def ready(node: NodeUnderTest) -> bool:
    try:
        return b'"inference":true' in http(f"http://127.0.0.1:{node.web_port}/readyz")
    except OSError:
        return False


def test_sighup_takes_new_rules_and_refuses_broken_ones(site: Site, dx: Path) -> None:
    node, good = site.node, site.node.config.read_text()
    node.config.write_text("nonsense: true\n")
    site.child.send_signal(signal.SIGHUP)
    wait_for(lambda: "not reloaded" in node.log.read_text(), 10, "the broken file to be refused")
    node.config.write_text(good.replace("rules: []", "rules: [{name: new, when: {Modality: DX}, send: sink}]"))
    site.child.send_signal(signal.SIGHUP)
    wait_for(lambda: " reloaded " in node.log.read_text(), 10, "the new file to be in force")
    dcmsend(node.port, dx)
    wait_for(lambda: "rule=new" in node.log.read_text(), 20, "a decision by the new rule")
    assert site.child.poll() is None


def test_a_killed_inference_comes_back_and_receiving_goes_on(site: Site, dx: Path) -> None:
    os.kill(family(site.child.pid)[1], signal.SIGKILL)
    dcmsend(site.node.port, dx)
    wait_for(lambda: ready(site.node), 60, "inference to come back")
    uid = read_meta(dx).sop_instance
    wait_for(lambda: any(path.name.endswith(uid) for path in site.sink.iterdir()), 20, "the instance to arrive")


def test_the_command_line_of_a_running_node(site: Site, dx: Path) -> None:
    def router(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "router", *words, "--config", str(site.node.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = site.node.config.read_text()
    site.node.config.write_text(good.replace("send: sink}", "send: [sink, dead]}"))
    assert router("reload").stdout == "reloaded\n"
    dcmsend(site.node.port, dx)
    wait_for(lambda: '"destination": "dead"' in router("queue", "list", "--json").stdout, 30, "a waiting delivery")
    assert router("queue", "pause", "dead").returncode == 0
    assert router("queue", "discard", "--to", "dead", "--all", "--yes").returncode == 0
    assert router("queue", "list").stdout == ""
    assert "discarded by a person" in router("events").stdout
    assert router("wipe", "--yes", "--json").returncode == 0
    site.node.config.write_text("nonsense: true\n")
    assert router("reload").returncode == 2
    site.node.config.write_text(good)


def test_sigkill_leaves_no_process(tmp_path: Path) -> None:
    node = quick_node(tmp_path, {"dead": free_port()}, rules="rules: []\notherwise: {send: dead}\n")
    with node.running() as child:
        processes = family(child.pid)
        node.kill(child)
        wait_for(lambda: gone(processes), 10, "every process to end")


def test_sigterm_ends_it_in_time_and_leaves_no_process(site: Site, dx: Path) -> None:
    processes = family(site.child.pid)
    assert len(processes) >= 4  # node, inference, two pixel workers
    dcmsend(site.node.port, dx)
    began = time.monotonic()
    site.child.send_signal(signal.SIGTERM)
    assert site.child.wait(15) == 0
    assert time.monotonic() - began < 10  # Docker kills after ten seconds
    wait_for(lambda: gone(processes), 5, "every process to end")
