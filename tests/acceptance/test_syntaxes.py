"""Everything that a modality can send: each transfer syntax and pixel form, through one node, byte for byte."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import pytest
from pynetdicom import _config
from xxhash import xxh3_128_hexdigest

from router.association.dimse import Status
from router.commands.send_files import read_meta
from router.demo.network import Downstream
from router.dicom.uids import BIG_ENDIAN, DEFLATED, IMPLICIT
from tests.acceptance.corpus import (
    EXPECTED,
    Arrivals,
    Case,
    Row,
    arriving,
    cases,
    described,
    digest,
    node_as_destination,
    quick_node,
    rows,
    settled,
    store,
)
from tests.acceptance.made import make
from tests.peers import DCMTK, dcmsend, free_port, http, orthanc, storescp, wait_for

pytestmark = [
    pytest.mark.shared,
    pytest.mark.dcmtk,
    # pydicom warns of UIDs as real modalities write them; in a pynetdicom server an error would be an A-ABORT.
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),
]
NO_IDENTITY = {
    "charset_in_sequence.dcm": 0xC000,  # no SOP UIDs
    "jls_lossless_rgb_ilv2.dcm": 0xC000,  # no SOP Instance UID
    "jpegll_sv1_u16_mlut_vlut_overlay.dcm": 0xA900,  # an empty SOP Instance UID
    "no_meta_header.dcm": 0xC000,  # begins with a stray byte: no data set
}
"""What cannot be named downstream."""
NOT_AT_DCMTK = {f"1.2.840.10008.1.2.4.{n}" for n in (53, 55, 57)}
"""What dcmsend sends and storescp 3.6.7 does not accept."""
BY_STORESCU = {"-xb": BIG_ENDIAN, "-xi": IMPLICIT}
WHO_TO_WHOM = """
rules:
  - {name: by DCMTK to DCMTK, when: {calling_ae: DCMSEND}, send: dcmtk}
otherwise: {send: pynetdicom}
"""


@dataclass(frozen=True)
class Passage:
    """What was sent through the node in one go, by DCMTK and by ourselves, and what came of it."""

    corpus: list[Case]
    answers: dict[Path, int | str]
    without_node: Arrivals
    """What DCMTK's storescp got from DCMTK's dcmsend directly: what DCMTK can send and receive at all."""
    through_node: Arrivals
    downstream: Arrivals
    rows: list[Row]


def kept(folder: Path) -> Arrivals:
    """What a storescp has kept in its folder."""
    return Counter((read_meta(path).sop_instance, digest(path)) for path in folder.iterdir())


def send_by_dcmtk(port: int, paths: list[Path], native: dict[str, list[Path]]) -> None:
    """dcmsend brings everything native to Explicit VR Little Endian; storescu can be told to leave it as it is."""
    dcmsend(port, "--no-halt", "--decompress-never", *paths, check=False)
    for option, group in native.items():
        command: list[str | Path] = [DCMTK / "storescu", option, "-aet", "DCMSEND", "-aec", "ROUTER"]
        command += ["127.0.0.1", str(port), *group]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def passage(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passage]:
    folder, patch = tmp_path_factory.mktemp("syntaxes"), pytest.MonkeyPatch()
    corpus = cases(shared, "1-radiographs", "2-syntaxes") + make(folder / "made")
    paths = [case.path for case in corpus]
    ports = {"dcmtk": free_port(), "reference": free_port()}
    patch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", True)  # what its tables lack, it takes as well
    pynetdicom = Downstream("pynetdicom", "PYNETDICOM")
    pynetdicom.start()
    node = quick_node(folder / "node", {"dcmtk": ports["dcmtk"], "pynetdicom": pynetdicom.port}, rules=WHO_TO_WHOM)
    with ExitStack() as running:
        running.callback(patch.undo)
        running.callback(pynetdicom.stop)
        direct = running.enter_context(storescp(folder / "reference", ports["reference"], "--unique-filenames"))
        far = running.enter_context(storescp(folder / "dcmtk", ports["dcmtk"], "--unique-filenames"))
        native = {option: [c.path for c in corpus if c.syntax == syntax] for option, syntax in BY_STORESCU.items()}
        send_by_dcmtk(ports["reference"], paths, native)
        without_node = kept(direct)
        running.enter_context(node.running())
        send_by_dcmtk(node.port, paths, native)
        answers = store([described(path) for path in paths], node_as_destination(node), "OURS")
        wait_for(lambda: settled(node, len(paths)), 60, "everything to be delivered")
        arrived = Counter((uid, one) for uid, found in pynetdicom.arrived.items() for one in found)
        yield Passage(corpus, answers, without_node, kept(far), arrived, rows(node))


def identity(path: Path) -> tuple[str, str]:
    return described(path).sop_instance, digest(path)


def test_what_dcmtk_sends_reaches_dcmtk_as_without_a_node(passage: Passage) -> None:
    """Beyond it: what storescp refuses as it is arrives transcoded (test_transcoding)."""
    assert passage.without_node.keys() - passage.through_node.keys() == set()
    assert passage.without_node.total() > 150
    by_dcmtk = [row for row in passage.rows if row.calling_ae == "DCMSEND"]
    assert {BIG_ENDIAN, IMPLICIT} <= {row.syntax for row in by_dcmtk}
    assert len(by_dcmtk) == passage.through_node.total()
    assert {
        row.syntax for row in by_dcmtk if (row.sop_instance, row.digest) not in passage.through_node
    } == NOT_AT_DCMTK


def test_only_what_has_no_identity_is_refused(passage: Passage) -> None:
    refused = {path.name: status for path, status in passage.answers.items() if status != Status.SUCCESS}
    assert refused == NO_IDENTITY


def test_everything_arrives_byte_for_byte(passage: Passage, tmp_path: Path) -> None:
    sent = Counter(arriving(path, tmp_path) for path, status in passage.answers.items() if status == Status.SUCCESS)
    assert passage.downstream == sent
    as_it_came = Counter(identity(path) for path, status in passage.answers.items() if status == Status.SUCCESS)
    assert (sent - as_it_came).total() < 0.05 * sent.total()


def test_the_pixels_of_each_are_judged_as_they_are(passage: Passage) -> None:
    judged = {(row.sop_instance, row.digest): row for row in passage.rows}
    wrong = {}
    for case in passage.corpus:
        row = judged.get(identity(case.path))
        if row is not None and row.pixels != EXPECTED.get(case.expect, row.pixels):
            wrong[case.path.name] = f"{case.expect}: {row.pixels} ({row.why})"
    assert wrong == {}


@pytest.mark.orthanc
def test_orthanc_on_both_sides(shared: Path, tmp_path: Path) -> None:
    """One instance of each syntax, uploaded to one Orthanc, pushed (as it sees fit) through the node to another."""
    corpus = cases(shared, "1-radiographs", "2-syntaxes")
    of_each = {case.syntax: case.path for case in reversed(corpus) if case.path.name not in NO_IDENTITY}
    dicom_port, http_port = free_port(), free_port()
    node = quick_node(tmp_path / "node", {"pacs": dicom_port}, rules="rules: []\notherwise: {send: pacs}\n")
    modalities = {"router": ["ROUTER", "127.0.0.1", node.port]}
    with (
        orthanc(tmp_path / "source", free_port(), free_port(), DicomModalities=modalities) as source,
        orthanc(tmp_path / "pacs", dicom_port, http_port) as pacs,
        node.running(),
    ):
        ids: set[str] = set()
        for path in of_each.values():
            with suppress(HTTPError):  # a syntax that Orthanc does not keep, or does not send
                one = json.loads(http(f"{source}/instances", data=path.read_bytes()))["ID"]
                http(f"{source}/modalities/router/store", data=one.encode())
                ids.add(one)
        wait_for(lambda: settled(node, len(ids)), 60, "everything to be delivered")
        assert set(json.loads(http(f"{pacs}/instances"))) == ids
        kept_there = {xxh3_128_hexdigest(without_meta(http(f"{pacs}/instances/{one}/file"))) for one in ids}
    # Orthanc pads a deflated data set anew, with whatever stands in its memory.
    assert {row.digest for row in rows(node) if row.syntax != DEFLATED} <= kept_there
    assert len({row.syntax for row in rows(node)}) > 12


def without_meta(content: bytes) -> bytes:
    return content[144 + int.from_bytes(content[140:144], "little") :]
