"""No patient in the open: marked patients go every way through a node, then all that it wrote is searched."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless

from router.node.client import give
from router.node.orders import EndStudy, Many
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import database, described, node_as_destination, quick_node, store
from tests.hook import Hook, webhook
from tests.peers import NodeUnderTest, descendants, free_port, http, storescp, wait_for
from tests.unit.webpeer import JSON, Talk, WebPeer, element

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
            titles = [Path(f"/proc/{task}/cmdline").read_bytes() for task in (child.pid, *descendants(child.pid))]
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


TOKEN = "t0ken-of-the-privacy-test"
STUDY = "1.2.826.0.1.3680043.10.777.25.1"


def quotes(talk: Talk) -> None:
    """A web server that says the patient's name wherever an answer has room, each time in another way."""
    while True:
        got = talk.request()
        mark = found[0].decode() if (found := re.findall(rb"MARK[0-9A-F]{12}", got.body)) else "MARK"
        uid = got.instances[0] if got.method == "POST" else "1.2.3"
        item = {"00081155": element("UI", uid), "00081197": element("US", 0xC000), "00000902": element("LO", mark)}
        refused = {"00081198": element("SQ", item), "00100010": element("PN", {"Alphabetic": mark})}
        html = f"<html>Patient {mark} of {STUDY} is not known</html>".encode()
        ways: list[tuple[int, bytes | dict[str, Any], str]] = [
            (409, refused, JSON), (400, html, "text/html"), (500, html, mark), (202, refused, JSON), (200, html, JSON),
            (302, html, "text/html"), (422, mark.encode(), "text/plain"), (403, html, "text/html"),
        ]  # fmt: skip
        status, body, media_type = ways[len(talk.peer.requests) % len(ways)]
        talk.answer(status, body, media_type, Warning=f"299 {mark}", Location=f"http://{mark}/", Retry_After=mark,
                    X_Patient=mark, WWW_Authenticate=f"Bearer realm={mark}")  # fmt: skip


def test_a_study_and_a_web_server_that_quotes_patients_put_nothing_into_the_open(hook: Hook, tmp_path: Path) -> None:
    mark = f"MARK{secrets.token_hex(6).upper()}"
    paths = [marked(tmp_path / f"{number}.dcm", mark) for number in range(10)]
    for number, path in enumerate(paths):
        data_set = pydicom.dcmread(path)
        data_set.StudyInstanceUID = STUDY
        if number:
            del data_set.StudyDescription  # only the first fires the rule; the others follow it
        data_set.save_as(path)
    rules = (
        "rules: [{name: named, when: {StudyDescription: {exists: true}}, send: web, scope: study}]\n"
        "otherwise: {send: native}\n"
    )
    extra = f"notify: {{to: 'http://127.0.0.1:{hook.server_port}/', buried: 1, circuit: 1s}}\n"
    with WebPeer(quotes) as peer, storescp(tmp_path / "native", port := free_port(), "--prefer-little"):
        node = quick_node(tmp_path / "node", {"native": port, "web": 1}, rules=rules, extra=extra)
        (node.folder / "token").write_text(TOKEN)
        text = node.config.read_text()
        was = "{ae_title: WEB, host: 127.0.0.1, port: 1}"
        assert was in text
        node.config.write_text(text.replace(was, f"{{stow: '{peer.url}', auth: {{bearer: {{file: token}}}}}}"))
        with node.running():
            store([described(path) for path in paths], node_as_destination(node), "XRAY")
            wait_for(lambda: node.log.read_text().count("study follows") >= 1, 60, "the study to follow")
            wait_for(lambda: len({uid for one in peer.posted for uid in one.instances}) > 1, 60, "several to be tried")
            answered = 0
            while answered < 8:  # each way of answering, and the circuit opens in between
                answered = len(peer.posted)
                give(node.folder / "spool", Many("retry", to="web"), "a person")
                wait_for(lambda before=answered: len(peer.posted) > before, 60, "another try")  # type: ignore[misc]
            give(node.folder / "spool", EndStudy(_an_instance(node), "web"), "a person")
            assert hook.came.acquire(timeout=90), "that the circuit of `web` is open is told"
            pages = [str(hook.got).encode()] + [
                http(f"http://127.0.0.1:{node.web_port}{path}")
                for path in ("/metrics", "/healthz", "/", "/destinations", "/attention", "/instances", "/rules",
                             "/notices", f"/instances/{_an_instance(node)}")
            ]  # fmt: skip
        shown = [
            subprocess.run(
                [sys.executable, "-m", "router", *words, "--config", node.config], capture_output=True, check=False
            )
            for words in (("queue", "list"), ("events", "--all"), ("find", "--json"), ("queue", "causes"))
        ]  # fmt: skip
    assert all(mark.encode() in one.body for one in peer.posted), "the server never had a name to quote"
    pages += [one.stdout + one.stderr for one in shown]
    pages.append(node.log.read_bytes())
    for secret in (mark, kept(mark), STUDY, TOKEN):
        assert not [page for page in pages if secret.encode() in page], secret
    written = [path for path in node.folder.rglob("*") if path.is_file()]
    for secret in (mark, STUDY):
        holding = {path for path in written if secret.encode() in path.read_bytes()}
        assert holding
        assert {path.suffix for path in holding} <= {".dcm", ".native"}
    assert [path.name for path in written if TOKEN.encode() in path.read_bytes()] == ["token"]


def _an_instance(node: NodeUnderTest) -> str:
    """One that follows its study."""
    with database(node) as connection:
        (which,) = connection.execute("SELECT instance_id FROM delivery WHERE follows IS NOT NULL LIMIT 1").fetchone()
    return str(which)
