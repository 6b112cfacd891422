"""Storage commitment of the node as it runs: with an archive that stores and answers, and through a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from router.demo.network import send
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import quick_node
from tests.peers import NodeUnderTest, free_port, wait_for
from tests.unit.committing import Archive, Modality, failures, references, says_nothing
from tests.unit.peer import DX

TRANSACTION = "1.2.3"


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    archive.answer = archive.has
    with archive.running() as running:
        yield running


def node_with(archive: Archive, folder: Path, report_port: int) -> NodeUnderTest:
    node = quick_node(folder, {"archive": archive.own_port}, rules="rules: []\notherwise: {send: archive}\n")
    archive.port = node.port
    lines = (
        f"accept: [{{ae_title: XRAY_1, commitment: {{host: 127.0.0.1, port: {report_port}}}}}, {{ae_title: ARCHIVE}}]"
    )
    text = node.config.read_text().replace("ae_title: ROUTER,", f"ae_title: ROUTER, {lines},")
    node.config.write_text(text.replace("ae_title: ARCHIVE, host", "archive: true, ae_title: ARCHIVE, host"))
    return node


def stored(node: NodeUnderTest, folder: Path, count: int) -> list[str]:
    """DX instances that the node has acknowledged."""
    noise = np.random.default_rng(5)
    paths = [wrap_image(noise.integers(0, 4096, (90, 80), np.uint16), folder / f"{n}.dcm") for n in range(count)]
    assert set(send(paths, node.port, called_ae="ROUTER", calling_ae="XRAY_1").values()) == {0}
    return [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]


def test_a_modality_learns_what_the_archive_has_committed(archive: Archive, tmp_path: Path) -> None:
    with Modality().listening() as modality:
        node = node_with(archive, tmp_path / "node", modality.own_port)
        with node.running():
            uids = stored(node, tmp_path, 3)
            assert modality.ask(node.port, TRANSACTION, *uids, "1.2.3.4") == 0
            event_type, information, _ = modality.report()
            log = node.log.read_text()
    assert (event_type, failures(information)) == (2, {"1.2.3.4": 0x0112})
    assert sorted(references(information)) == sorted((DX, uid) for uid in uids)
    assert archive.stored == set(uids)
    assert not [uid for uid in (*uids, "1.2.3.4") if uid in log], "an instance UID in the log"


def test_a_request_survives_kill_minus_nine(archive: Archive, tmp_path: Path) -> None:
    archive.answer = says_nothing
    modality = Modality()
    report_port = free_port()
    node = node_with(archive, tmp_path / "node", report_port)
    with node.running() as child:
        uids = stored(node, tmp_path, 2)
        assert modality.ask(node.port, TRANSACTION, *uids) == 0
        wait_for(lambda: archive.stored == set(uids) and bool(archive.asked), 60, "the archive to be asked")
        node.kill(child)
    archive.answer = archive.has
    with modality.listening(report_port), node.running():
        event_type, information, _ = modality.report()
    assert (event_type, failures(information)) == (1, {})
    assert sorted(references(information)) == sorted((DX, uid) for uid in uids)
