"""One process to signal: SIGHUP reloads, SIGTERM drains, SIGKILL leaves nothing, a killed inference comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import quick_node
from tests.acceptance.peers import NodeUnderTest, dcmsend, free_port, http, storescp, wait_for

pytestmark = pytest.mark.dcmtk


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    port = free_port()
    with storescp(tmp_path / "sink", port):
        rules = "rules: []\notherwise: {send: sink}\n"
        yield quick_node(tmp_path / "node", {"sink": port, "dead": free_port()}, rules=rules)


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


def test_sigterm_ends_it_in_time_and_leaves_no_process(node: NodeUnderTest, dx: Path) -> None:
    with node.running() as child:
        processes = family(child.pid)
        assert len(processes) >= 4  # node, inference, two pixel workers
        dcmsend(node.port, dx)
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(15) == 0
        assert time.monotonic() - began < 10  # Docker kills after ten seconds
        wait_for(lambda: gone(processes), 5, "every process to end")


def test_sigkill_leaves_no_process(node: NodeUnderTest) -> None:
    with node.running() as child:
        processes = family(child.pid)
        node.kill(child)
        wait_for(lambda: gone(processes), 10, "every process to end")


def test_sighup_takes_new_rules_and_refuses_broken_ones(node: NodeUnderTest, dx: Path, tmp_path: Path) -> None:
    good = node.config.read_text()
    with node.running() as child:
        node.config.write_text("nonsense: true\n")
        child.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded" in node.log.read_text(), 10, "the broken file to be refused")
        node.config.write_text(good.replace("rules: []", "rules: [{name: new, when: {Modality: DX}, send: sink}]"))
        child.send_signal(signal.SIGHUP)
        wait_for(lambda: " reloaded " in node.log.read_text(), 10, "the new file to be in force")
        dcmsend(node.port, dx)
        wait_for(lambda: "rule=new" in node.log.read_text(), 20, "a decision by the new rule")
        assert child.poll() is None


def test_a_killed_inference_comes_back_and_receiving_goes_on(node: NodeUnderTest, dx: Path, tmp_path: Path) -> None:
    with node.running() as child:
        inference = family(child.pid)[1]
        os.kill(inference, signal.SIGKILL)
        dcmsend(node.port, dx)
        wait_for(lambda: ready(node), 30, "inference to come back")
        wait_for(lambda: len(list((tmp_path / "sink").iterdir())) == 1, 20, "the instance to arrive")


def test_the_command_line_of_a_running_node(node: NodeUnderTest, dx: Path) -> None:
    def router(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "router", *words, "--config", str(node.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = node.config.read_text()
    node.config.write_text(good.replace("otherwise: {send: sink}", "otherwise: {send: [sink, dead]}"))
    with node.running():
        dcmsend(node.port, dx)
        wait_for(lambda: '"destination": "dead"' in router("queue", "list", "--json").stdout, 30, "a waiting delivery")
        assert router("queue", "pause", "dead").returncode == 0
        assert router("queue", "discard", "--to", "dead").returncode == 0
        assert router("queue", "list").stdout == ""
        assert "discarded by a person" in router("events").stdout
        assert router("reload").stdout == "reloaded\n"
        assert router("wipe", "--json").returncode == 0
        node.config.write_text("nonsense: true\n")
        assert router("reload").returncode == 2
