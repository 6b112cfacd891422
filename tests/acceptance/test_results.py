"""An AI that answers what it gets, one that stays silent, and a node that is killed between: results reach the PACS,
none goes back, and what got no result goes to people."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import database, quick_node, settled
from tests.hook import webhook
from tests.peers import DCMTK, NodeUnderTest, dcmsend, free_port, received, storescp, wait_for

pytestmark = pytest.mark.dcmtk
SR, SC, SEG = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
COUNT = 6
RULES = """
rules:
  - {name: its own results, when: {result_of: chest-ai}, send: [pacs, chest-ai]}
  - {name: silent, when: {StationName: SILENT}, send: silent-ai}
  - {name: chests, when: {Modality: DX}, send: chest-ai, scope: study}
otherwise: {send: pacs}
"""


def refers(uid: str) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = DX, uid
    return made


def held(**values: object) -> Sequence:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])


def result_of(image: Dataset, sop_class: str) -> Dataset:
    """As makers write it: a report with evidence and content, a capture with its source, segments with a series."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = image.StudyInstanceUID, generate_uid()
    made.Modality = {SR: "SR", SC: "OT", SEG: "SEG"}[sop_class]
    one = Sequence([refers(image.SOPInstanceUID)])
    if sop_class == SR:
        made.CurrentRequestedProcedureEvidenceSequence = held(
            StudyInstanceUID=image.StudyInstanceUID, ReferencedSeriesSequence=held(ReferencedSOPSequence=one)
        )
        made.ContentSequence = held(ValueType="IMAGE", ReferencedSOPSequence=Sequence([refers(image.SOPInstanceUID)]))
    elif sop_class == SC:
        made.SourceImageSequence = one
    else:
        made.ReferencedSeriesSequence = held(ReferencedInstanceSequence=one)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    return made


@dataclass
class MadeUpAi:
    """Answers each image that it has not had before with one result, while it is being sent to. A copy gets none."""

    port: int
    router: int = 0
    arrived: Counter[str] = field(default_factory=Counter)
    sent: dict[str, str] = field(default_factory=dict)
    """By result the image."""
    lock: Any = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    def store(self, event: evt.Event) -> int:
        image = event.dataset
        uid = str(image.SOPInstanceUID)
        with self.lock:
            is_new = not self.arrived[uid]
            self.arrived[uid] += 1
            number = len(self.sent) + len(self.arrived)
        if is_new and image.get("Modality") == "DX":
            made = result_of(image, (SR, SC, SEG)[number % 3])
            threading.Thread(target=self.answer, args=(made, uid), daemon=True).start()
        return 0

    def answer(self, made: Dataset, of: str) -> None:
        """Until the node has acknowledged it, or the test is over.

        By another process: pynetdicom leaves sockets of broken connections.
        """
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "result.dcm"
            made.save_as(path, enforce_file_format=True)
            titles = ("-aet", "CHEST_AI", "-aec", "ROUTER")
            command = [str(DCMTK / "storescu"), "-R", *titles, "127.0.0.1", str(self.router), str(path)]
            while subprocess.run(command, capture_output=True, check=False, timeout=60).returncode:
                if self.closed.wait(0.2):
                    return
        with self.lock:
            self.sent[str(made.SOPInstanceUID)] = of

    @contextmanager
    def running(self) -> Iterator[None]:
        scp = AE("CHEST_AI")
        for sop_class in (DX, SR, SC, SEG):
            scp.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        server = scp.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)]
        )  # fmt: skip
        assert server is not None
        try:
            yield
        finally:
            self.closed.set()
            server.shutdown()


def images(folder: Path, count: int, station: str) -> dict[str, Path]:
    """Each of a study of its own."""
    noise = np.random.default_rng(len(station))
    folder.mkdir()
    found = {}
    for n in range(count):
        path = wrap_image(noise.integers(0, 4096, (32, 32 + 2 * n), np.uint16), folder / f"{n}.dcm")
        one = pydicom.dcmread(path)
        one.StationName, one.StudyInstanceUID = station, generate_uid()
        one.save_as(path)
        found[str(one.SOPInstanceUID)] = path
    return found


@contextmanager
def hospital(folder: Path, extra: str = "") -> Iterator[tuple[NodeUnderTest, MadeUpAi, dict[str, Path]]]:
    ports = {name: free_port() for name in ("chest-ai", "silent-ai", "pacs", "people")}
    node = quick_node(folder / "node", ports, rules=RULES, extra=extra)
    text = node.config.read_text()
    for name, more in (
        ("chest-ai", "expect_result: 60s, fallback: people"),
        ("silent-ai", "expect_result: 2s, fallback: people"),
    ):
        line = f"port: {ports[name]}}}"
        assert line in text
        text = text.replace(line, f"port: {ports[name]}, {more}}}")
    node.config.write_text(text)
    ai = MadeUpAi(ports["chest-ai"], node.port)
    with (
        ai.running(), storescp(folder / "silent-ai", ports["silent-ai"]) as silent,
        storescp(folder / "pacs", ports["pacs"]) as pacs, storescp(folder / "people", ports["people"]) as people,
    ):  # fmt: skip
        yield node, ai, {"silent": silent, "pacs": pacs, "people": people}


def asked(node: NodeUnderTest, *words: str) -> list[Any]:
    command = [sys.executable, "-m", "router", *words, "--config", str(node.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(node: NodeUnderTest, query: str) -> list[Any]:
    with database(node) as connection:
        return connection.execute(query).fetchall()


def test_results_reach_the_pacs_none_goes_back_and_silence_goes_to_people(tmp_path: Path) -> None:
    with (
        webhook() as hook,
        hospital(tmp_path, f"notify: {{to: 'http://127.0.0.1:{hook.server_port}/', result_missing: 2}}\n") as (
            node, ai, places,
        ), node.running(),
    ):  # fmt: skip
        talks, quiet = images(tmp_path / "talks", COUNT, "TALKS"), images(tmp_path / "quiet", 2, "SILENT")
        dcmsend(node.port, *talks.values(), calling="XRAY")
        dcmsend(node.port, *quiet.values(), calling="XRAY")
        wait_for(lambda: len(ai.sent) == COUNT, 60, "the AI's results")
        wait_for(lambda: len(received(places["pacs"])) == COUNT, 60, "the results at the PACS")
        wait_for(lambda: len(received(places["people"])) == 2, 60, "what got no result")
        wait_for(lambda: settled(node, 2 * COUNT + 2), 30, "rest")
        assert received(places["pacs"]).keys() == ai.sent.keys()
        assert received(places["people"]).keys() == received(places["silent"]).keys() == quiet.keys()
        assert ai.arrived == Counter(dict.fromkeys(talks, 1))
        found = rows(node, "SELECT r.sop_instance, i.sop_instance, how FROM result JOIN instance r ON r.id = result_id "
                           "JOIN instance i ON i.id = instance_id")  # fmt: skip
        assert {(result, image) for result, image, _ in found} == set(ai.sent.items())
        assert {how for _, _, how in found} == {"reference"}
        assert rows(node, "SELECT count(*) FROM delivery WHERE state = 'skipped'") == [(COUNT,)]
        (status,) = asked(node, "status")
        (problem,) = [one for one in status["problems"] if one["kind"] == "result"]
        assert problem["what"] == "silent-ai gave no result for 2 deliveries"
        (chest,) = [one for one in status["destinations"] if one["name"] == "chest-ai"]
        assert (chest["results"], chest["missing"]) == (COUNT, 0)
        assert 0 <= chest["result_s"] < 60
        missing = asked(node, "find", "--result", "missing")
        assert {one["id"] for one in missing} == {
            row[0] for row in rows(node, "SELECT instance_id FROM delivery WHERE destination = 'people'")
        }
        assert hook.came.acquire(timeout=90), "people are told"
        assert "silent-ai gave no result for 2 deliveries" in str(hook.got)
        said = node.metrics()
        assert f'dicom_router_results_total{{destination="chest-ai",how="reference"}} {COUNT}.0' in said
        assert 'dicom_router_results_missing_total{destination="silent-ai"} 2.0' in said


@pytest.mark.slow
def test_a_node_that_is_killed_amid_results_loses_none_and_sends_none_back(tmp_path: Path) -> None:
    """Killed at any moment between an image, its delivery, its result and what is decided of it."""
    with hospital(tmp_path) as (node, ai, places):
        talks, quiet = images(tmp_path / "talks", 40, "TALKS"), images(tmp_path / "quiet", 4, "SILENT")
        left = [*talks.values(), *quiet.values()]
        for seconds in (0.2, 0.6, 1.1):
            some, left = left[:12], left[12:]
            with node.running() as child:
                dcmsend(node.port, *some, calling="XRAY")
                time.sleep(seconds)
                node.kill(child)
        with node.running():
            dcmsend(node.port, *left, calling="XRAY")
            wait_for(lambda: len(ai.sent) == len(talks), 120, "the AI's results")
            wait_for(lambda: settled(node, 2 * len(talks) + len(quiet)), 120, "rest")
            wait_for(lambda: received_at(places["people"]) >= quiet.keys(), 60, "what got no result")
            # An image that came twice is answered twice, and the last answer may be under way.
            wait_for(lambda: received_at(places["pacs"]) == ai.sent.keys(), 60, "the results at the PACS")
            assert ai.arrived.keys() == talks.keys()
            time.sleep(3)
            assert rows(node, "SELECT count(*) FROM delivery WHERE destination = 'chest-ai' AND state = 'done' AND "
                              "result_due IS NOT NULL") == [(0,)]  # fmt: skip
            assert received_at(places["people"]) == quiet.keys()
            twice = (
                "SELECT instance_id FROM delivery WHERE destination = 'people' GROUP BY instance_id HAVING count(*) > 1"
            )
            assert rows(node, twice) == []


def received_at(folder: Path) -> set[str]:
    """A kill may cost a duplicate, which has the same name there."""
    return {
        str(pydicom.filereader.read_file_meta_info(path).MediaStorageSOPInstanceUID)
        for path in folder.iterdir() if not path.name.endswith(".part")
    }  # fmt: skip
