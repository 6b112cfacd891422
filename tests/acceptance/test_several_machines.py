"""Receive, classify, forward and web as four processes that share a database: who does what, and how each ends."""

from __future__ import annotations

import signal
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from router.association.requestor import connect
from router.config import load
from router.config.settings import DestinationSettings
from router.demo.network import Downstream
from router.dicom.uids import EXPLICIT
from router.spool import read_spool
from tests.acceptance.corpus import described
from tests.acceptance.machines import MARK, Machine, Site, running
from tests.acceptance.small import instance_files, store_all
from tests.acceptance.test_signals import family
from tests.peers import free_port, http, listening, storescp, wait_for

pytestmark = [pytest.mark.postgresql, pytest.mark.dcmtk]

SHARED = """\
destinations:
  here: {{ae_title: HERE, host: 127.0.0.1, port: {here}}}
  native: {{ae_title: NATIVE, host: 127.0.0.1, port: {native}}}
rules: []
otherwise: {{send: [here, native]}}
"""
ROLES = ("receive", "classify", "forward", "web")


@pytest.fixture(scope="module")
def here() -> Iterator[Downstream]:
    downstream = Downstream("here", "HERE")
    downstream.start()
    yield downstream
    downstream.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgresql: Callable[[], str], here: Downstream) -> Iterator[Site]:
    folder, native = tmp_path_factory.mktemp("machines"), free_port()
    made = Site(folder, postgresql(), SHARED.format(here=here.port, native=native))
    for role in ROLES:
        made.add(role, role)
    with storescp(folder / "native", native, "+xe"), running(made):
        yield made


def to(machine: Machine) -> DestinationSettings:
    return DestinationSettings(name="node", ae_title="ROUTER", host="127.0.0.1", port=machine.port)


def test_an_image_passes_from_one_to_the_next(site: Site, here: Downstream, tmp_path: Path) -> None:
    metas = instance_files(tmp_path / "small", 5)
    assert store_all(metas, to(site["receive"])) == [0] * 5
    wait_for(lambda: all(meta.sop_instance in here.arrived for meta in metas), 60, "all five at the destination")
    uids = {meta.sop_instance for meta in metas}
    wait_for(lambda: uids <= {described(one).sop_instance for one in (site.folder / "native").iterdir()}, 60, "copies")


@pytest.mark.shared
def test_a_node_that_forwards_makes_copies_without_a_model(site: Site, shared: Path, tmp_path: Path) -> None:
    compressed = described(shared / "data" / "dicom" / "2-syntaxes" / "j2k_lossless_mr_i16.dcm")
    assert store_all([compressed], to(site["receive"])) == [0]

    def arrived() -> list[str]:
        found = [described(one) for one in (site.folder / "native").iterdir()]
        return [one.transfer_syntax for one in found if one.sop_instance == compressed.sop_instance]

    wait_for(lambda: bool(arrived()), 60, "the native copy")
    assert arrived() == [EXPLICIT]
    assert not (site.folder / MARK).exists(), "only a node that classifies needs PyTorch"


def test_health_names_the_parts_of_this_node(site: Site) -> None:
    common = {"spool", "control"}
    assert {role: set(site[role].get("/healthz")) for role in ROLES} == {
        "receive": common, "classify": common | {"classify"}, "forward": common, "web": common,
    }  # fmt: skip
    common = {"database", "room"}
    assert {role: set(site[role].get("/readyz")) for role in ROLES} == {
        "receive": common | {"open"}, "classify": common | {"inference"}, "forward": common, "web": common,
    }  # fmt: skip
    for role in ROLES:
        assert b"dicom_router_undecided" in http(f"http://127.0.0.1:{site[role].web_port}/metrics")


def test_only_web_has_the_page_and_only_receive_the_port(site: Site) -> None:
    assert b"<html" in http(f"http://127.0.0.1:{site['web'].web_port}/")
    for role in ROLES[:3]:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            http(f"http://127.0.0.1:{site[role].web_port}/")
    assert [role for role in ROLES if listening(site[role].port)] == ["receive"]


def test_only_classify_has_a_process_for_the_model(site: Site) -> None:
    def has_model(machine: Machine) -> bool:
        assert machine.child is not None
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in family(machine.child.pid)]
        return any(b"router.inference" in line for line in lines)

    assert [role for role in ROLES if has_model(site[role])] == ["classify"]


def test_each_has_its_own_socket_and_commands_find_one(site: Site) -> None:
    assert len(list((site.folder / "spool").glob("control.*"))) == len(ROLES)
    found = site["web"].command("health", "--json")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("control of ") == len(ROLES)


# -- the end of a node


@pytest.fixture
def receivers(tmp_path: Path, postgresql: Callable[[], str], here: Downstream) -> Iterator[Site]:
    """Two, of which one is told to end. Their associations may go on for a while."""
    made = Site(tmp_path, postgresql(), SHARED.format(here=here.port, native=here.port))
    for name in ("first", "second"):
        machine = made.add(name, "receive")
        machine.environment = {**machine.environment, "DICOM_ROUTER__NODE__DRAIN": "60s"}
    with running(made):
        yield made


def test_a_receiver_that_ends_refuses_nobody_that_it_has_accepted(receivers: Site, tmp_path: Path) -> None:
    metas = instance_files(tmp_path / "small", 8)
    first, second = receivers["first"], receivers["second"]
    assert first.child is not None
    wanted = [(meta.sop_class, meta.transfer_syntax) for meta in metas]
    open_one = connect(to(first), "MODALITY", wanted)
    assert open_one.store(metas[0]) == 0
    first.child.send_signal(signal.SIGTERM)
    wait_for(lambda: not listening(first.port), 30, "the port to be closed")
    assert store_all(metas[1:4], to(second)) == [0] * 3, "another one takes what comes now"
    assert [open_one.store(meta) for meta in metas[4:]] == [0] * 4
    assert first.child.poll() is None
    open_one.release()
    assert first.child.wait(30) == 0, "it waits for no association that has ended"
    with closing(read_spool(load(second.config, {}).spool)) as spool:
        assert {row.sop_instance for row in spool.views.instances()} == {meta.sop_instance for meta in metas}
