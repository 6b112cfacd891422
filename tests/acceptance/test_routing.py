"""The way of an X-ray with peers that nobody here wrote: DCMTK and Orthanc as senders and as destinations."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest

from router.config import shipped
from router.flow import CLASSES
from router.pixels.wrap import wrap_image
from tests.acceptance.conftest import Radiograph
from tests.acceptance.corpus import quick_node
from tests.peers import (
    CLASS_TO_DESTINATION,
    NodeUnderTest,
    data_set,
    dcmsend,
    free_port,
    http,
    orthanc,
    received,
    storescp,
    wait_for,
)

pytestmark = [pytest.mark.shared, pytest.mark.dcmtk]
Radiographs = Callable[[str, int], list[Radiograph]]
EACH = 8
KILLS, INSTANCES = 2, 90


def shipped_rules() -> str:
    """Rules and otherwise of the routing.yaml that the package ships."""
    text = shipped().read_text()
    return text[text.index("\nrules:") :]


@contextmanager
def downstream(folder: Path, *without: str) -> Iterator[tuple[dict[str, int], dict[str, Path]]]:
    """A storescp for each destination but those in `without`; ports of all, folders of those that run."""
    with ExitStack() as running:
        ports = {name: free_port() for name in CLASS_TO_DESTINATION.values()}
        folders = {
            name: running.enter_context(storescp(folder / name, port))
            for name, port in ports.items()
            if name not in without
        }
        yield ports, folders


def sent(radiographs: list[Radiograph]) -> dict[str, bytes]:
    return {str(pydicom.dcmread(r.path, stop_before_pixels=True).SOPInstanceUID): data_set(r.path) for r in radiographs}


def test_each_class_arrives_at_its_own_node_and_nowhere_else(tmp_path: Path, radiographs: Radiographs) -> None:
    chosen = {label: radiographs(label, EACH) for label in CLASSES}
    with downstream(tmp_path) as (ports, folders):
        node = NodeUnderTest(tmp_path / "node", ports, rules=shipped_rules())
        with node.running():
            dcmsend(node.port, *[r.path for group in chosen.values() for r in group])
            total = EACH * len(CLASSES)
            wait_for(lambda: sum(len(list(f.iterdir())) for f in folders.values()) >= total, 60, "all to arrive")
    arrived = {name: received(folder) for name, folder in folders.items()}
    everything = sent([r for group in chosen.values() for r in group])
    # Byte-identical, each exactly once, wherever it went.
    assert {uid: content for found in arrived.values() for uid, content in found.items()} == everything
    assert sum(map(len, arrived.values())) == total
    # The model has a right to doubt one in three (the catch-all), never to send to another AI.
    for label, group in chosen.items():
        own = set(sent(group))
        for name, found in arrived.items():
            if name not in (CLASS_TO_DESTINATION[label], "catch-all"):
                assert not own & set(found), f"{label} arrived at {name}"
        assert 3 * len(own & set(arrived[CLASS_TO_DESTINATION[label]])) >= 2 * EACH, label


def test_a_dead_and_a_silent_destination_delay_only_their_own(tmp_path: Path, radiographs: Radiographs) -> None:
    group = radiographs("spine", 4)
    everything = sent(group)
    with downstream(tmp_path, "abdominal-ai", "spine-ai") as (ports, folders), socket.socket() as silent:
        silent.bind(("127.0.0.1", ports["spine-ai"]))
        silent.listen(16)  # the kernel accepts; nobody ever answers
        rules = (
            "rules:\n  - {name: all, when: {Modality: [CR, DX]}, send: [abdominal-ai, spine-ai, adult-chest-ai]}\n"
            "otherwise: {send: catch-all}\n"
        )
        node = quick_node(tmp_path / "node", ports, rules=rules)
        with node.running():
            dcmsend(node.port, *[r.path for r in group])
            wait_for(lambda: len(list(folders["adult-chest-ai"].iterdir())) == len(group), 30, "the live one's")
            assert received(folders["adult-chest-ai"]) == everything
            with storescp(tmp_path / "abdominal-ai", ports["abdominal-ai"]) as late:
                wait_for(lambda: len(list(late.iterdir())) == len(group), 60, "the dead one's after it came back")
                assert received(late) == everything
            silent.close()
            with storescp(tmp_path / "spine-ai", ports["spine-ai"]) as late:
                wait_for(lambda: len(list(late.iterdir())) == len(group), 90, "the silent one's after it came back")
                assert received(late) == everything


@pytest.mark.timeout(600)
def test_kill_minus_nine_loses_nothing_that_was_acknowledged(tmp_path: Path, radiographs: Radiographs) -> None:
    """Instances in one association each, the node killed in the midst of it twice; `make chaos` kills for hours."""
    rng = random.Random(9)
    noise = np.random.default_rng(9)
    paths = [
        wrap_image(noise.integers(0, 4096, (256, 256), np.uint16), tmp_path / f"{n}.dcm") for n in range(INSTANCES)
    ]
    uids = {path: str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}
    acknowledged: set[str] = set()
    stop = threading.Event()
    with downstream(tmp_path) as (ports, folders):
        node = quick_node(tmp_path / "node", ports, rules="rules: []\notherwise: {send: [catch-all, spine-ai]}\n")

        def send_all() -> None:
            waiting = list(paths)
            while waiting and not stop.is_set():
                path = waiting[0]
                done = subprocess.run(
                    ["/usr/bin/storescu", "-v", "-aec", "ROUTER", "127.0.0.1", str(node.port), path],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                if re.search(r"Received Store Response \(Success\)", done.stdout + done.stderr):
                    acknowledged.add(uids[waiting.pop(0)])
                else:
                    time.sleep(0.1)

        sender = threading.Thread(target=send_all)
        sender.start()
        try:
            for kill in range(KILLS):
                with node.running() as child:
                    goal = INSTANCES // (KILLS + 1) * (kill + 1)
                    wait_for(partial(_at_least, acknowledged, goal), 90, "some to be acknowledged")
                    time.sleep(rng.uniform(0, 0.3))
                    node.kill(child)
            with node.running():
                sender.join(120)
                assert len(acknowledged) == len(paths)
                for name in ("catch-all", "spine-ai"):
                    wait_for(partial(_all_there, folders[name], acknowledged), 60, f"all to arrive at {name}")
        finally:
            stop.set()
            sender.join()
    # At least once: a crash may send again what it had just sent, never more than one for each kill and destination.
    for name in ("catch-all", "spine-ai"):
        copies = len(list(folders[name].iterdir()))
        assert len(paths) <= copies <= len(paths) + KILLS * 8


def _at_least(these: set[str], many: int) -> bool:
    return len(these) >= many


def _all_there(folder: Path, these: set[str]) -> bool:
    return _uids(folder) >= these


def _uids(folder: Path) -> set[str]:
    found = set()
    for path in folder.iterdir():
        try:
            found.add(str(pydicom.filereader.read_file_meta_info(path).MediaStorageSOPInstanceUID))
        except Exception:  # still being written
            continue
    return found


@pytest.mark.orthanc
def test_orthanc_sends_and_receives(tmp_path: Path, radiographs: Radiographs) -> None:
    group = radiographs("spine", 2) + radiographs("others", 2)
    dicom_port, http_port = free_port(), free_port()
    node = quick_node(tmp_path / "node", {"pacs": dicom_port}, rules="rules: []\notherwise: {send: pacs}\n")
    pacs_settings = {"DicomModalities": {"router": ["ROUTER", "127.0.0.1", node.port]}}
    with (
        orthanc(tmp_path / "source", free_port(), free_port(), **pacs_settings) as source,
        orthanc(tmp_path / "pacs", dicom_port, http_port) as pacs,
        node.running(),
    ):
        ids = [json.loads(http(f"{source}/instances", data=r.path.read_bytes()))["ID"] for r in group]
        http(f"{source}/modalities/router/store", data=json.dumps(ids).encode())
        wait_for(lambda: len(json.loads(http(f"{pacs}/instances"))) == len(group), 60, "all to arrive at Orthanc")
        for one in json.loads(http(f"{pacs}/instances")):
            there, here = (http(f"{base}/instances/{one}/file") for base in (pacs, source))
            assert _without_meta(there) == _without_meta(here)


def _without_meta(content: bytes) -> bytes:
    return content[144 + int.from_bytes(content[140:144], "little") :]
