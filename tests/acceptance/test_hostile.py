"""Everything malformed at once: hostile instances and PDU streams against one node, while others are served."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from router.demo.network import Downstream
from router.dicom.uids import KNOWN_SYNTAXES
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import (
    Case,
    Row,
    arriving,
    cases,
    described,
    digest,
    node_as_destination,
    rows,
    settled,
    store,
    untrained_node,
)
from tests.acceptance.siege import Played, Watch, play
from tests.peers import NodeUnderTest, wait_for

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
MOST_MEMORY = 2_000_000_000
SLOWEST_ECHO = 5.0
"""Seconds; below one on a quiet machine."""
PATIENCE = 25.0
"""Seconds after which a stream that the node has not closed counts as hanging: beyond ARTIM and idle of this node."""
ALLOWED = {
    "reject": {"refused", "unparseable", "undecodable"},
    "bury": {"undecodable", "unparseable"},
    "survive": {"refused", "unparseable", "undecodable", "none", "decoded"},
    "decodes": {"decoded"},
}
MEANT = {
    "g_rle_dicom_swapped.dcm": "decoded",  # RLE says nothing of its width
    "h_frames_j2k_zero.dcm": "decoded",  # 0 frames are written for one
    "h_frames_zero.dcm": "decoded",
    "i_j2k_missing_photo.dcm": "decoded",  # grey of unknown polarity, with a note
    "i_missing_photo.dcm": "decoded",
    "i_photo_empty.dcm": "decoded",
    "i_no_pixeldata.dcm": "none",
    "k_ts_empty.dcm": "decoded",  # its sender here says the transfer syntax that it is in
    "k_ts_space.dcm": "decoded",
    "l_uid_leading_zero.dcm": "decoded",  # as in UIDs of the radiographs
}
"""Where we know better than the manifest."""
LIMITS = {"DICOM_ROUTER__NODE__ARTIM": "5s", "DICOM_ROUTER__NODE__IDLE": "8s"}


@dataclass(frozen=True)
class Siege:
    """The node after all of it, still running."""

    node: NodeUnderTest
    pid: int
    watch: Watch
    cases: dict[Path, Case]
    answers: dict[Path, int | str]
    judged: dict[tuple[str, str], Row]
    streams: dict[str, Played]
    downstream: Downstream


def unpacked(case: Case, folder: Path) -> Case:
    if case.path.suffix != ".gz":
        return case
    target = folder / case.path.stem
    target.write_bytes(gzip.decompress(case.path.read_bytes()))
    return Case(target, case.syntax, case.expect)


@pytest.fixture(scope="module")
def siege(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    folder = tmp_path_factory.mktemp("hostile")
    hostile = {c.path: c for c in (unpacked(case, folder) for case in cases(shared, "3-hostile"))}
    metas = [described(path) for path in hostile]
    streams = sorted((shared / "data" / "dicom" / "4-network").glob("*.pdu"))
    downstream = Downstream("everything", "EVERYTHING")
    patch = pytest.MonkeyPatch()
    for name, value in LIMITS.items():
        patch.setenv(name, value)
    downstream.start()
    node = untrained_node(
        folder / "node", {"everything": downstream.port}, rules="rules: []\notherwise: {send: everything}\n"
    )
    try:
        with node.running() as child, ThreadPoolExecutor(24) as pool, ExitStack() as running:
            watch = Watch(node_as_destination(node), child.pid)
            running.callback(watch.stop)
            watch.start()
            played = {stream.stem: pool.submit(play, node.port, stream, patience=PATIENCE) for stream in streams}
            sent = [pool.submit(store, [meta], node_as_destination(node), "HOSTILE") for meta in metas]
            answers = {path: answer for future in sent for path, answer in future.result(300).items()}
            outcome = {name: future.result(300) for name, future in played.items()}
            wait_for(lambda: settled(node, 1), 180, "every accepted instance to be finished")
            watch.stop()
            judged = {(row.sop_instance, row.digest): row for row in rows(node)}
            yield Siege(node, child.pid, watch, hostile, answers, judged, outcome, downstream)
    finally:
        downstream.stop()
        patch.undo()


def what_became(siege: Siege, case: Case) -> str:
    """refused: by status, context or abort; otherwise the spool's word for its pixels."""
    if siege.answers[case.path] != 0:
        return "refused"
    return siege.judged[described(case.path).sop_instance, digest(case.path)].pixels or "new"


def test_each_fares_as_its_manifest_expects(siege: Siege) -> None:
    wrong = []
    table: Counter[tuple[str, str]] = Counter()
    for case in siege.cases.values():
        became = what_became(siege, case)
        table[case.expect, became] += 1
        refused_by_right = became == "refused" and case.syntax not in KNOWN_SYNTAXES
        if became not in ALLOWED[case.expect] and not refused_by_right and became != MEANT.get(case.path.name):
            wrong.append(f"{case.path.name}: {case.expect}, {became} ({siege.answers[case.path]})")
    print()
    for (expect, became), count in sorted(table.items()):
        print(f"{expect:8s} {became:12s} {count:4d}")
    assert wrong == []


def test_what_was_accepted_arrives_as_it_came_and_says_what_is_wrong(siege: Siege, tmp_path: Path) -> None:
    for path in (path for path, answer in siege.answers.items() if answer == 0):
        uid, content = arriving(path, tmp_path)
        assert content in siege.downstream.arrived[uid], path.name
        row = siege.judged[uid, digest(path)]
        assert row.state == "finished", path.name
        assert row.pixels == "decoded" or row.why, path.name
    assert "Traceback" not in siege.node.log.read_text()


def test_nobody_else_waits_and_nothing_grows(siege: Siege) -> None:
    print(f"\n{siege.watch.echoes} C-ECHO, slowest {siege.watch.slowest:.3f} s, "
          f"at most {siege.watch.most_memory / 1e6:.0f} MB of PSS")  # fmt: skip
    assert siege.watch.failures == []
    assert siege.watch.slowest < SLOWEST_ECHO
    assert 0 < siege.watch.most_memory < MOST_MEMORY


def test_every_stream_ends(siege: Siege) -> None:
    assert [name for name, played in siege.streams.items() if not played.closed] == []
    for name, played in siege.streams.items():
        if name.startswith("good_store"):
            assert played.statuses == [0], name


def test_a_good_one_still_goes_through(siege: Siege, tmp_path: Path) -> None:
    grey = np.random.default_rng(4).integers(0, 4096, (512, 512), np.uint16)
    meta = described(wrap_image(grey, tmp_path / "good.dcm"))
    assert store([meta], node_as_destination(siege.node), "GOOD") == {meta.path: 0}
    wait_for(lambda: meta.sop_instance in siege.downstream.arrived, 60, "the good one to arrive")
    assert siege.downstream.arrived[meta.sop_instance] == [digest(meta.path)]
