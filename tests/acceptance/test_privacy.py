"""No patient in the open: marked patients go every way through a node, then all that it wrote is searched."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from router.node.client import give
from router.node.orders import Many
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import described, node_as_destination, quick_node, store
from tests.hook import Hook, webhook
from tests.peers import NodeUnderTest, free_port, http, storescp, wait_for

pytestmark = pytest.mark.dcmtk
MARKED = ("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName", "PatientComments")
KEPT = ("StudyDescription", "InstitutionName")
"""What a decision keeps: in the spool's database, and nowhere else."""
DATABASE = {"node.db", "node.db-wal"}


def marked(path: Path, mark: str, **options: object) -> Path:
    """A DX whose patient attributes all carry `mark`; what is kept carries the same mark with another beginning."""
    grey = np.random.default_rng(len(mark)).integers(0, 4096, (160, 120), np.uint16)
    wrap_image(grey, path, **options)  # type: ignore[arg-type]
    data_set = pydicom.dcmread(path)
    for keyword in MARKED:
        setattr(data_set, keyword, mark)
    for keyword in KEPT:
        setattr(data_set, keyword, kept(mark))
    data_set.save_as(path)
    return path


def kept(mark: str) -> str:
    return f"KEPT{mark[4:]}"


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, hook: Hook) -> Iterator[NodeUnderTest]:
    ports = {"native": free_port(), "dead": free_port()}
    extra = f"notify: {{to: 'http://127.0.0.1:{hook.server_port}/', buried: 1, circuit: 1s}}\n"
    rules = (
        "rules: [{name: named, when: {StudyDescription: {exists: true}}, send: [native, dead]}]\n"
        "otherwise: {send: native}\n"
    )
    with storescp(tmp_path / "native", ports["native"], "--prefer-little"):
        yield quick_node(tmp_path / "node", ports, rules=rules, extra=extra)


def test_marked_patients_are_nowhere_but_in_blobs(node: NodeUnderTest, hook: Hook, tmp_path: Path) -> None:
    mark = f"MARK{secrets.token_hex(6).upper()}"
    good = marked(tmp_path / "good.dcm", mark)
    compressed = marked(tmp_path / "j2k.dcm", mark, transfer_syntax=JPEG2000Lossless)
    broken = marked(tmp_path / "broken.dcm", mark, transfer_syntax=JPEG2000Lossless)
    content = bytearray(broken.read_bytes())
    content[-400:-40] = bytes(360)
    broken.write_bytes(content)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(good.read_bytes()[:-9000])
    metas = [described(path) for path in (good, compressed, broken, cut)]
    lies = replace(metas[0], sop_instance=f"1.2.{mark[4:].translate(str.maketrans('ABCDEF', '123456'))}")
    environment = dict(os.environ)
    os.environ["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    try:
        with node.running() as child:
            statuses = store([*metas, lies], node_as_destination(node), "XRAY")
            # Keyed by path: the last one with the good file's path is the one whose UID is a lie.
            assert statuses[good] == 0xA900
            wait_for(lambda: node.log.read_text().count(" decided ") >= 3, 30, "all to be decided")
            wait_for(lambda: len(list((tmp_path / "native").iterdir())) >= 2, 30, "some to arrive")
            assert give(node.folder / "spool", Many("retry", text=mark), "a person") == {"job": 1}
            assert hook.came.acquire(timeout=90), "that the circuit of `dead` is open is told"
            pages = [str(hook.got).encode()] + [
                http(f"http://127.0.0.1:{node.web_port}{path}") for path in ("/metrics", "/healthz", "/readyz")
            ]
            titles = [Path(f"/proc/{task}/cmdline").read_bytes() for task in (child.pid, *_children(child.pid))]
    finally:
        os.environ.clear()
        os.environ.update(environment)
    for text in (mark.encode(), kept(mark).encode()):
        assert not [page for page in pages if text in page]
        assert not [title for title in titles if text in title]
        assert text not in node.log.read_bytes()
    written = [path for folder in (node.folder, tmp_path / "tmp") for path in folder.rglob("*") if path.is_file()]
    holding = {path for path in written if mark.encode() in path.read_bytes()}
    assert holding, "the marks were never there: this test proves nothing"
    assert {path.suffix for path in holding} <= {".dcm", ".native"}
    holding = {path for path in written if kept(mark).encode() in path.read_bytes()}
    assert {path.name for path in holding if path.suffix not in (".dcm", ".native")} <= DATABASE
    assert holding & {path for path in written if path.name in DATABASE}, "a decision keeps nothing"
    assert not [path for path in written if mark[4:] in path.name]
    log = node.log.read_text()
    for meta in metas:
        assert meta.sop_instance not in log
    modes = {oct(path.stat().st_mode & 0o777) for path in (node.folder / "spool").rglob("*") if not path.is_socket()}
    assert modes <= {"0o600", "0o700"}


def _children(pid: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]
