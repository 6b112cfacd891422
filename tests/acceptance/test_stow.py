"""STOW-RS with web servers that nobody here wrote (Orthanc's DICOMweb plugin, tiny_pacs), and kill -9 amid it."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pydicom
import pytest
import yaml

from router.commands.send_files import read_meta
from router.commands.test_image import send_test
from router.config import load
from router.config.settings import DestinationSettings, HttpAuth, Secret
from router.flow import StoredFile
from router.forward.outcomes import Fate
from router.forward.stow import StowSender
from router.forward.together import MOST
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import quick_node
from tests.peers import NodeUnderTest, dcmsend, free_port, http, orthanc, process, wait_for
from tests.unit.webpeer import Talk, WebPeer, stored

pytestmark = [pytest.mark.dcmtk, pytest.mark.dicomweb]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
COUNT = 12
TOKEN = "t0ken-of-the-tests"


@contextmanager
def orthanc_web(folder: Path) -> Iterator[str]:
    extra = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "OverwriteInstances": False}
    with orthanc(folder, free_port(), free_port(), **extra) as base:
        yield f"{base}/dicom-web/studies"


@contextmanager
def tiny_pacs(folder: Path) -> Iterator[str]:
    """It wants a bearer token."""
    folder.mkdir()
    port = free_port()
    settings = {
        "ae": {"ae_title": "TINY", "port": free_port()},
        "components": {
            "Database": {"on": True, "db_name": str(folder / "tiny.db"), "mode": "rwc"},
            "InMemoryStorage": {"on": False},
            "FileStorage": {"on": True, "storage_dir": str(folder / "storage"), "overwrite": True},
            "PACS": {"on": True},
            "HttpServer": {"on": True, "host": "127.0.0.1", "port": port},
            "DICOMWeb": {"on": True, "auth": "token", "tokens": [TOKEN]},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [Path(sys.executable).with_name("tiny-pacs"), "run", "-c", folder / "config.yaml"]
    with process(command, port, folder / "tiny.log", cwd=folder):
        yield f"http://127.0.0.1:{port}/dicomweb/studies"


SERVERS: dict[str, Callable[[Path], object]] = {"orthanc": orthanc_web, "tiny_pacs": tiny_pacs}


def node_for(folder: Path, address: str) -> NodeUnderTest:
    """A node that sends everything to a web server, with a token in a file."""
    node = quick_node(folder, {"web": 1}, rules="rules: []\notherwise: {send: web}\n")
    (folder / "token").write_text(TOKEN)
    was = "{ae_title: WEB, host: 127.0.0.1, port: 1}"
    text = node.config.read_text()
    assert was in text
    node.config.write_text(text.replace(was, f"{{stow: {address}, auth: {{bearer: {{file: token}}}}}}"))
    return node


def images(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(25)
    folder.mkdir()
    paths = [
        wrap_image(noise.integers(0, 4096, (64, 64 + 2 * n), np.uint16), folder / f"{n}.dcm") for n in range(COUNT)
    ]
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in paths}


def delivered(node: NodeUnderTest) -> int:
    found = re.search(r'^dicom_router_delivered_total{destination="web"} (\d+)', node.metrics(), re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.orthanc
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_nobody_here_wrote_keeps_what_was_sent(name: str, tmp_path: Path) -> None:
    sent = images(tmp_path / "images")
    with SERVERS[name](tmp_path / "server") as address:  # type: ignore[attr-defined]
        node = node_for(tmp_path / "node", address)
        with node.running():
            dcmsend(node.port, *sent.values())
            wait_for(lambda: delivered(node) == COUNT, 60, "all to arrive")
            dcmsend(node.port, *sent.values())  # what is there already is no failure
            wait_for(lambda: delivered(node) == 2 * COUNT, 60, "all to arrive again")
        kept = kept_by(name, tmp_path / "server", address)
        assert kept == {uid: pydicom.dcmread(path).PixelData for uid, path in sent.items()}
        settings = load(node.config, {})
        assert send_test(settings, settings.destinations["web"]) == ""


@pytest.mark.orthanc
@pytest.mark.parametrize("name", SERVERS)
def test_several_in_one_request_are_answered_one_by_one(name: str, tmp_path: Path) -> None:
    """With one among them that is no DICOM: the others arrive, and it is not taken for stored."""
    sent = images(tmp_path / "images")
    files = [read_meta(path) for path in sent.values()]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no data set of any kind" * 20)
    bad = StoredFile(broken, 0, 460, files[0].sop_class, "1.2.3.4.5", files[0].transfer_syntax)
    (tmp_path / "token").write_text(TOKEN)
    with SERVERS[name](tmp_path / "server") as address:  # type: ignore[attr-defined]
        parts = urlsplit(address)
        auth = HttpAuth(bearer=Secret(file=tmp_path / "token"))
        sender = StowSender(DestinationSettings("web", "", "127.0.0.1", parts.port or 0, stow=address, auth=auth))
        outcomes = sender.store_together(files)
        assert [one and one.fate for one in outcomes] == [Fate.DONE] * COUNT
        assert kept_by(name, tmp_path / "server", address).keys() == sent.keys()
        mixed = sender.store_together([files[0], bad, files[1]])
        assert mixed[1] is None
        assert all(one is None or one.fate is Fate.DONE for one in mixed)
        sender.release()


def kept_by(name: str, folder: Path, address: str) -> dict[str, bytes]:
    """SOP Instance UID to pixels of every instance that a server has."""
    if name == "orthanc":
        base = address.removesuffix("/dicom-web/studies")
        numbers = json.loads(http(f"{base}/instances"))
        (folder / "out").mkdir()
        for number in numbers:
            (folder / "out" / number).write_bytes(http(f"{base}/instances/{number}/file"))
        paths = list((folder / "out").iterdir())
    else:
        paths = [path for path in (folder / "storage").rglob("*") if path.is_file()]
    found = {}
    for path in paths:
        data_set = pydicom.dcmread(path)
        assert str(data_set.SOPInstanceUID) not in found
        found[str(data_set.SOPInstanceUID)] = data_set.PixelData
    return found


def test_a_token_that_is_wrong_buries_nothing(tmp_path: Path) -> None:
    sent = images(tmp_path / "images")
    with tiny_pacs(tmp_path / "server") as address:
        node = node_for(tmp_path / "node", address)
        (node.folder / "token").write_text("another")
        with node.running():
            dcmsend(node.port, *sent.values())
            wait_for(lambda: "answered 401" in node.log.read_text(), 60, "the refusal")
            assert 'router_buried_total{destination="web"}' not in node.metrics()
            settings = load(node.config, {})
            assert "answered 401" in send_test(settings, settings.destinations["web"])


def test_kill_minus_nine_amid_a_request_loses_nothing(tmp_path: Path) -> None:
    sent = images(tmp_path / "images")
    half, killed = threading.Event(), threading.Event()

    def stops_in_the_middle(talk: Talk) -> None:
        """The third request is read only in part, until the node is killed."""
        for _ in range(2):
            talk.answer(200, stored(*talk.request().instances))
        talk.head()
        half.set()
        killed.wait(60)

    with WebPeer(scripts=[stops_in_the_middle]) as peer:
        node = node_for(tmp_path / "node", peer.url)
        with node.running() as child:
            dcmsend(node.port, *sent.values())
            assert half.wait(60)
            node.kill(child)
            killed.set()
        with node.running():
            wait_for(lambda: {uid for one in peer.posted for uid in one.instances} == set(sent), 120, "all to arrive")
            arrived = [part for one in peer.posted for part in zip(one.instances, one.files, strict=True)]
    assert len(arrived) <= COUNT + MOST
    for uid, file in arrived:
        assert file.endswith(pydicom.dcmread(sent[uid]).PixelData)
