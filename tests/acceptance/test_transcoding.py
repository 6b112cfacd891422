"""Destinations that take only native pixels: what they get means the same, and is made once for all of them."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from router.dicom.uids import EXPLICIT, IMPLICIT
from router.pixels import decode
from tests.acceptance.corpus import Case, cases, database, described, node_as_destination, quick_node, store
from tests.peers import NodeUnderTest, free_port, storescp, wait_for

pytestmark = [
    pytest.mark.shared,
    pytest.mark.dcmtk,
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),
]
ENCAPSULATED = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5"
LOSSLESS = {f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 90, 201, 202)} | {"1.2.840.10008.1.2.5"}
LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91)}
IMPOSSIBLE = "j2k_embedded_seqdelim.dcm"
"""Nothing can decode it."""
MAY_CHANGE = {0x00280004, 0x00280006, 0x7FE00001, 0x7FE00002, 0x7FE00010}
"""Photometric interpretation, planar configuration, offsets of fragments, and the pixels (PS3.5 §8.2)."""
RULES = "rules: []\notherwise: {send: [explicit-a, explicit-b, implicit]}\n"
WHAT = "SELECT state, reason, tries, buriable_tries FROM delivery WHERE instance_id = ?"


@dataclass(frozen=True)
class Copies:
    """The node after everything that can be transcoded was delivered, and what arrived, by SOP Instance UID."""

    node: NodeUnderTest
    sent: dict[str, Case]
    impossible: str
    """The id of the instance that cannot be transcoded."""
    arrived: dict[str, dict[str, Path]]
    before: dict[str, tuple[int, int]]
    after: dict[str, tuple[int, int]]
    """(inode, modification) of each native copy before and after the second destination was there."""


def compressed(shared: Path) -> dict[str, Case]:
    """Encapsulated instances by SOP Instance UID: the first of each syntax, and the made ones."""
    chosen: dict[str, Case] = {}
    seen: set[str] = set()
    for case in cases(shared, "1-radiographs", "2-syntaxes"):
        wanted = case.path.name.startswith("syn_") or case.syntax not in seen
        if wanted and case.expect == "decodes" and case.syntax.startswith(ENCAPSULATED):
            seen.add(case.syntax)
            chosen.setdefault(described(case.path).sop_instance, case)
    return chosen


def open_ones(node: NodeUnderTest, *destinations: str) -> int:
    """Open deliveries to some destinations."""
    marks = ", ".join("?" * len(destinations))
    with database(node) as connection:
        query = f"SELECT count(*) FROM delivery WHERE state = 'open' AND destination IN ({marks})"
        return int(connection.execute(query, destinations).fetchone()[0])


def decided(node: NodeUnderTest) -> int:
    with database(node) as connection:
        return int(connection.execute("SELECT count(*) FROM instance WHERE state != 'new'").fetchone()[0])


def native_copies(node: NodeUnderTest) -> dict[str, tuple[int, int]]:
    found = (node.folder / "spool" / "blobs").glob("*/*.native")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def by_uid(folder: Path) -> dict[str, Path]:
    found = {described(path).sop_instance: path for path in folder.iterdir()}
    assert len(found) == len(list(folder.iterdir()))
    return found


@pytest.fixture(scope="module")
def copies(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    folder = tmp_path_factory.mktemp("transcoding")
    sent = compressed(shared)
    impossible = shared / "data" / "dicom" / "2-syntaxes" / IMPOSSIBLE
    paths = [case.path for case in sent.values()] + [impossible]
    ports = {name: free_port() for name in ("explicit-a", "explicit-b", "implicit")}
    node = quick_node(folder / "node", ports, rules=RULES)
    with ExitStack() as running:
        folders = {
            "explicit-a": running.enter_context(storescp(folder / "explicit-a", ports["explicit-a"], "+xe")),
            "implicit": running.enter_context(storescp(folder / "implicit", ports["implicit"], "+xi")),
        }
        running.enter_context(node.running())
        answers = store([described(path) for path in paths], node_as_destination(node), "OURS")
        assert set(answers.values()) == {0}
        wait_for(lambda: decided(node) == len(paths), 60, "everything to be decided")
        wait_for(lambda: open_ones(node, "explicit-a", "implicit") == 2, 60, "all but one to be delivered")
        before = native_copies(node)
        folders["explicit-b"] = running.enter_context(storescp(folder / "explicit-b", ports["explicit-b"], "+xe"))
        wait_for(lambda: open_ones(node, *ports) == len(ports), 90, "the late destination to get all but one")
        with database(node) as connection:
            uid = described(impossible).sop_instance
            query = "SELECT id FROM instance WHERE sop_instance = ?"
            bad = str(connection.execute(query, (uid,)).fetchone()[0])
        arrived = {name: by_uid(folder) for name, folder in folders.items()}
        yield Copies(node, sent, bad, arrived, before, native_copies(node))


def elements(data_set: Dataset) -> Iterator[tuple[int, object]]:
    """Tags and values; without group lengths, and without a delimiter that pydicom takes for an element."""
    for tag in sorted(data_set.keys()):
        if tag not in MAY_CHANGE and tag.element and tag.group != 0xFFFE:
            yield int(tag), data_set[tag].value


@pytest.mark.parametrize(
    ("name", "syntax"), [("explicit-a", EXPLICIT), ("explicit-b", EXPLICIT), ("implicit", IMPLICIT)]
)
def test_pixels_and_elements_are_those_that_came(copies: Copies, name: str, syntax: str) -> None:
    assert copies.arrived[name].keys() == copies.sent.keys()
    assert {case.syntax for case in copies.sent.values()} >= LOSSLESS | LOSSY
    for uid, case in copies.sent.items():
        before, after = pydicom.dcmread(case.path), pydicom.dcmread(copies.arrived[name][uid])
        assert after.file_meta.TransferSyntaxUID == syntax, case.path.name
        assert np.array_equal(decode(case.path), decode(copies.arrived[name][uid])), case.path.name
        assert list(elements(after)) == list(elements(before)), case.path.name


def test_lossless_pixels_are_those_that_an_independent_decoder_sees(copies: Copies) -> None:
    for uid, case in copies.sent.items():
        if case.syntax in LOSSLESS and case.photometric.startswith(("MONOCHROME", "RGB")):
            after = pydicom.dcmread(copies.arrived["explicit-a"][uid])
            assert after.PhotometricInterpretation == case.photometric
            little = after.pixel_array.astype(after.pixel_array.dtype.newbyteorder("<"))
            assert hashlib.sha256(little.tobytes()).hexdigest() == case.pixel_sha256, case.path.name


def test_a_copy_is_made_once_for_two_destinations(copies: Copies) -> None:
    assert len(copies.before) == 2 * len(copies.sent)
    assert copies.after == copies.before
    assert list((copies.node.folder / "spool" / "blobs").glob("*/*.part")) == []


def test_what_cannot_be_transcoded_is_tried_again_visibly_and_then_buried(copies: Copies) -> None:
    with database(copies.node) as connection:
        found = connection.execute(WHAT, (copies.impossible,)).fetchall()
    assert len(found) == 3
    for state, reason, _, buriable in found:
        assert (state, buriable >= 1) == ("open", True)
        assert "transcoding is not possible" in reason
    command = [sys.executable, "-m", "router", "queue", "list", "--config", str(copies.node.config)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert listed.count("transcoding is not possible") == 3


def test_copies_go_with_their_blob(copies: Copies) -> None:
    command = [sys.executable, "-m", "router", "wipe", "--yes", "--config", str(copies.node.config)]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    left = [path.name for path in (copies.node.folder / "spool" / "blobs").glob("*/*")]
    assert left == [f"{copies.impossible}.dcm"]


def test_the_last_try_buries(shared: Path, tmp_path: Path) -> None:
    """The hours between the tries are taken out of the database while the node is stopped."""
    port = free_port()
    node = quick_node(tmp_path / "node", {"only": port}, rules="rules: []\notherwise: {send: only}\n")
    bad = shared / "data" / "dicom" / "2-syntaxes" / IMPOSSIBLE
    query = "SELECT state, reason, buriable_tries FROM delivery"

    def delivery() -> tuple[str, str | None, int]:
        with database(node) as connection:
            return connection.execute(query).fetchone() or ("", None, 0)

    with storescp(tmp_path / "only", port, "+xe"):
        with node.running():
            assert set(store([described(bad)], node_as_destination(node), "OURS").values()) == {0}
            wait_for(lambda: delivery()[2] == 1, 30, "the first try to fail")
        with closing(sqlite3.connect(node.folder / "spool" / "node.db")) as connection, connection:
            connection.execute("UPDATE delivery SET buriable_tries = 4, ready_at = 0")
        with node.running():
            wait_for(lambda: delivery()[0] == "buried", 30, "the last try to bury it")
    assert "transcoding is not possible" in (delivery()[1] or "")
