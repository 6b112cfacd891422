"""Receive, classify, forward and web as four processes that share a database: who does what, and how each ends."""

from __future__ import annotations

import json
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
    common = {"database"}
    assert {role: set(site[role].get("/readyz")) for role in ROLES} == {
        "receive": common | {"room", "open"}, "classify": common | {"inference"}, "forward": common, "web": common,
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


def test_each_is_in_the_list_of_nodes(site: Site) -> None:
    found = site["web"].command("nodes", "--json")
    assert found.returncode == 0, found.stderr
    rows = {row["name"]: row for row in map(json.loads, found.stdout.splitlines())}
    assert {name: row["roles"] for name, row in rows.items()} == {role: [role] for role in ROLES}
    assert {row["state"]["settings"] for row in rows.values()} == {1}
    assert [name for name, row in rows.items() if row["state"]["about"]["model"]] == ["classify"]
    assert {row["state"]["problem"] for row in rows.values()} == {""}
    page = http(f"http://127.0.0.1:{site['web'].web_port}/nodes").decode()
    assert all(f'<th scope="row">{role} ' in page for role in ROLES)


def test_the_status_is_the_same_everywhere(site: Site) -> None:
    said = [json.loads(site[role].command("status", "--json").stdout) for role in ROLES[::3]]
    for one in said:
        assert [row["name"] for row in one["nodes"]] == sorted(ROLES)
    assert [[one[key] for key in ("well", "problems", "undecided", "node")] for one in said] == [
        [True, [], 0, None]
    ] * 2


def test_a_reload_on_one_machine_counts_on_all(site: Site, here: Downstream, tmp_path: Path) -> None:
    """The node that classifies decides by what another machine's file says."""
    before = {described(one).sop_instance for one in (site.folder / "native").iterdir()}
    site["web"].write(site, site.shared.replace("send: [here, native]", "send: [here]"))
    done = site["web"].command("reload", "--json")
    assert done.returncode == 0, done.stdout
    assert (json.loads(done.stdout)["version"], json.loads(done.stdout)["not_followed"]) == (2, [])
    metas = instance_files(tmp_path / "small", 3)
    assert store_all(metas, to(site["receive"])) == [0] * 3
    wait_for(lambda: all(meta.sop_instance in here.arrived for meta in metas), 60, "all three at the destination")
    assert site["classify"].command("queue", "list", "--json").stdout == ""
    assert {described(one).sop_instance for one in (site.folder / "native").iterdir()} == before


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
