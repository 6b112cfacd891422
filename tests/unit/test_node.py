"""The node as a whole in one process: start, reload, control, stop, with a small untrained model and plain peers."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, load, shipped
from router.demo.network import Downstream, send
from router.inference import InferenceError
from router.listening import AddressError
from router.model.untrained import save_random_model
from router.node.client import NoNodeError, ask, state
from router.node.node import Node
from router.node.orders import OrderError
from router.node.sweeper import Sweeper
from router.node.view import NodeView
from router.pixels.wrap import wrap_image
from router.spool import InstanceRow, SpoolError, open_spool, read_spool
from tests.peers import free_port
from tests.unit.peer import wait_for

pytestmark = pytest.mark.slow

TEXT = """
node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}}}
web: {{address: 127.0.0.1, port: {web}}}
spool: {{path: spool, reserve: 1 MB}}
model: {{path: model, device: cpu, workers: 1}}
destinations:
  here: {{ae_title: HERE, host: 127.0.0.1, port: {here}}}
  gone: {{ae_title: GONE, host: 127.0.0.1, port: 1}}
rules: {rules}
otherwise: {{send: here}}
"""


@dataclass
class Running:
    node: Node
    port: int
    web_port: int
    folder: Path
    here: Downstream

    def write(self, rules: str = "[]", **changes: str) -> None:
        text = TEXT.format(here=self.here.port, rules=rules, port=self.port, web=self.web_port)
        for old, new in changes.items():
            text = text.replace(CHANGES[old], new)
        (self.folder / "routing.yaml").write_text(text)

    def send(self, path: Path, called_ae: str = "ROUTER") -> int | None:
        return send([path], self.port, called_ae=called_ae)[path]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def order(self, name: str, **about: Any) -> dict[str, Any]:
        """What the node answers to an order; of a failure the message and the exit code."""
        try:
            return ask(self.folder / "spool", "POST", f"/orders/{name}", about | {"who": "a test"})
        except OrderError as error:
            return {"error": str(error), "exit_code": error.exit_code}


CHANGES = {"gone": "  gone: {ae_title: GONE, host: 127.0.0.1, port: 1}\n", "workers": "workers: 1"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("node")
    save_random_model(folder / "model", size=64)
    here = Downstream("here", "HERE")
    here.start()
    port, web_port = free_port(), free_port()
    (folder / "routing.yaml").write_text(TEXT.format(here=here.port, rules="[]", port=port, web=web_port))
    node = Node(load(folder / "routing.yaml", {}))
    assert node.start() == (port, web_port)
    yield Running(node, port, web_port, folder, here)
    node.stop(5)
    here.stop()


@pytest.fixture
def dx(tmp_path: Path) -> Path:
    grey = np.random.default_rng(time.time_ns()).integers(0, 4096, (120, 100), np.uint16)
    return wrap_image(grey, tmp_path / "dx.dcm")


def latest(running: Running) -> InstanceRow:
    return running.node.spool.views.instances(limit=1)[0]


def test_the_way_of_an_instance(running: Running, dx: Path) -> None:
    assert running.send(dx) == 0
    row = wait_for(lambda: latest(running) if latest(running).state == "finished" else None)
    assert row.sop_instance in running.here.arrived
    assert row.pixels == "decoded"


def test_health_readiness_and_metrics(running: Running, dx: Path) -> None:
    running.send(dx)
    wait_for(lambda: latest(running).state == "finished")
    assert running.get("/healthz") == (200, '{"spool":true,"classify":true,"control":true}')
    assert running.get("/readyz") == (200, '{"inference":true,"database":true,"room":true,"open":true}')
    _, metrics = running.get("/metrics")
    for line in ('dicom_router_received_total{status="0000"}', 'dicom_router_delivered_total{destination="here"}'):
        value = next(x for x in metrics.splitlines() if x.startswith(line)).rsplit(" ", 1)[1]
        assert float(value) >= 1
    assert 'rule="otherwise"' in metrics
    (own,) = [line for line in metrics.splitlines() if line.startswith("dicom_router_stored_total{")][:1]
    assert own.startswith('dicom_router_stored_total{calling_ae="')
    for line in ('dicom_router_queue{destination="gone"} 0.0', 'dicom_router_paused{destination="here"} 0.0'):
        assert line in metrics
    assert state(running.folder / "spool", "status")["listens"] == [
        ["node.port", "127.0.0.1", running.port], ["web.port", "127.0.0.1", running.web_port]
    ]  # fmt: skip


def test_the_status_command_says_what_the_model_runs_on(running: Running) -> None:
    result = CliRunner().invoke(app, ["status", "--config", str(running.folder / "routing.yaml")])
    assert not isinstance(result.exception, (AttributeError, TypeError, KeyError)), result.exception
    assert "no node answers" not in result.stdout
    assert f"on {running.node.view.models_in_use.info()['engine']}" in result.stdout


def test_the_health_command_asks_the_node_itself(running: Running) -> None:
    """Over the control socket, so that it needs neither the page nor its port."""
    config = str(running.folder / "routing.yaml")
    works = CliRunner().invoke(app, ["health", "--config", config])
    assert (works.exit_code, works.output) == (0, "works\n")
    parts = json.loads(CliRunner().invoke(app, ["health", "--config", config, "--json"]).output)
    assert parts == running.node.view.alive()


def test_the_health_command_names_what_does_not_work(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeView, "alive", lambda _: {"spool": True, "classify": False, "control": True})
    done = CliRunner().invoke(app, ["health", "--config", str(running.folder / "routing.yaml")])
    assert (done.exit_code, done.output) == (1, "does not work: classify\n")


def test_a_reload_counts_from_the_next_instance_and_a_bad_file_changes_nothing(running: Running, dx: Path) -> None:
    before = running.node.settings()
    (running.folder / "routing.yaml").write_text("rules: nonsense")
    answer = running.order("reload")
    assert "destinations" in answer["error"]
    assert answer["exit_code"] == 2
    assert running.node.settings() is before
    running.write("[{name: all, when: {Modality: DX}, send: here}]")
    answer = running.order("reload")
    assert (answer["done"], answer["changed"], answer["needs_restart"]) == (True, ["rules"], [])
    assert running.order("reload")["changed"] == []
    told = [{"who": "a test", "changed": parts} for parts in (["rules"], [])]
    wait_for(lambda: [e.detail for e in running.node.spool.views.events(kind="reloaded", limit=500)][-2:] == told)
    running.send(dx)
    assert wait_for(lambda: latest(running).rule) == "all"
    running.write()
    running.order("reload")


def test_rules_are_applied_and_rolled_back_by_orders(running: Running) -> None:
    text = "rules:\n- {name: applied, when: {Modality: DX}, send: here}\notherwise: {send: here}\n"
    answer = running.order("apply-rules", text=text, comment="a test")
    assert answer.get("digest") == running.node.settings().rules.digest, answer
    assert [rule.name for rule in running.node.settings().rules.rules] == ["applied"]
    back = running.order("roll-back-rules", comment="enough")
    assert (back["digest"], back["before"]) == (answer["before"], answer["digest"])
    running.write("[{name: by hand, when: {Modality: DX}, send: here}]")
    running.order("reload")
    (kept,) = running.node.spool.rules.tables(running.node.settings().rules.digest)
    assert (kept.author, kept.replaced) == ("a test", back["digest"])
    running.write()
    running.order("reload")


def test_a_reload_says_what_needs_a_restart_until_that_is_taken_back(running: Running) -> None:
    running.write(workers="workers: 2")
    assert [running.order("reload")["needs_restart"] for _ in range(2)] == [["model"], ["model"]]
    running.write()
    assert running.order("reload")["needs_restart"] == []


def test_a_reload_that_orphans_deliveries_is_refused_with_their_count(running: Running, dx: Path) -> None:
    running.write("[{name: all, when: {Modality: DX}, send: gone}]")
    running.order("reload")
    running.send(dx)
    wait_for(lambda: running.node.view.counts().open.get("gone"))
    running.write(gone="")
    with pytest.raises(ConfigError, match=r"gone.*1 deliveries"):
        running.node.reload()
    waiting = [d.id for d in running.node.spool.views.deliveries(to="gone")]
    wait_for(lambda: running.order("discard", deliveries=waiting)["changed"] == 1)
    assert running.order("reload")["needs_restart"] == []
    running.write()
    running.order("reload")


def test_a_reload_that_fails_half_way_changes_nothing_and_the_next_one_works(
    running: Running, dx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (running.folder / "routing.yaml").read_text()
    new = text.replace("rules:", f"  new: {{ae_title: HERE, host: 127.0.0.1, port: {running.here.port}}}\nrules:")
    (running.folder / "routing.yaml").write_text(new.replace("otherwise: {send: here}", "otherwise: {send: new}"))
    before, start = running.node.settings(), threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name == "forward new":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(2):
        answer = running.order("reload")
        assert "no thread for destination new" in answer["error"]
        assert "TasksMax" in answer["error"]
        assert running.node.settings() is before
        assert "new" not in running.node.view.circuits()
    monkeypatch.undo()
    assert running.order("reload")["changed"]
    running.send(dx)
    row = wait_for(lambda: latest(running) if latest(running).state == "finished" else None)
    done = running.node.spool.views.deliveries(instance_id=row.id, states=("done",))
    assert [one.destination for one in done] == ["new"]
    running.write()
    running.order("reload")


@pytest.mark.parametrize("of", ["node.tls.certificate", "destination 'gone'.tls.ca"])
def test_a_reload_with_a_certificate_that_is_none_changes_nothing(running: Running, of: str) -> None:
    text, before = (running.folder / "routing.yaml").read_text(), running.node.settings()
    for name in ("a.crt", "a.key"):
        (running.folder / name).write_text("a robot's mistake")
    old, tls = {
        "node.tls.certificate": ("address: ", "tls: {certificate: a.crt, key: a.key, port: 2762}, address: "),
        "destination 'gone'.tls.ca": ("port: 1}", "port: 1, tls: {ca: a.crt}}"),
    }[of]
    (running.folder / "routing.yaml").write_text(text.replace(old, tls, 1))
    answer = running.order("reload")
    line = 1 + text[: text.index(old)].count("\n")
    assert f"routing.yaml:{line}: {of}: the file {running.folder / 'a.crt'} cannot be used" in answer["error"]
    assert answer["exit_code"] == 2
    assert running.node.settings() is before
    running.write()
    answer = running.order("reload")
    assert (answer["done"], answer["changed"], answer["needs_restart"]) == (True, [], [])


def test_paused_waits_and_resumed_goes_on(running: Running, dx: Path) -> None:
    refused = running.order("pause", destination="nowhere")
    assert (refused["error"].startswith("no destination nowhere: use one of "), refused["exit_code"]) == (True, 2)
    running.order("pause", destination="here")
    running.send(dx)
    row = wait_for(lambda: latest(running) if latest(running).decided_at else None)
    assert running.node.view.counts().open == {"here": 1}
    assert row.sop_instance not in running.here.arrived
    running.order("resume", destination="here")
    wait_for(lambda: latest(running).state == "finished")


def test_a_person_orders_a_new_decision(running: Running, dx: Path) -> None:
    running.send(dx)
    row = wait_for(lambda: latest(running) if latest(running).state == "finished" else None)
    assert running.order("decide-again", instance=row.id) == {"done": True}
    wait_for(lambda: len(running.here.arrived[row.sop_instance]) == 2)
    kinds = [event.kind for event in running.node.spool.views.events(instance_id=row.id)]
    assert kinds == ["new decision ordered"]


def test_wipe_removes_what_nobody_needs(running: Running, dx: Path) -> None:
    running.send(dx)
    row = wait_for(lambda: latest(running) if latest(running).state == "finished" else None)
    assert running.order("wipe")["changed"] >= 1
    assert not running.node.spool.blob(row.id).exists()
    assert latest(running).state == "gone"


def test_a_second_node_on_the_same_spool_is_refused_and_readers_are_not(running: Running) -> None:
    with pytest.raises(SpoolError, match="another node"):
        Node(running.node.settings())
    reader = read_spool(running.node.settings().spool)
    assert reader.views.counts().undecided == 0
    with pytest.raises(SpoolError, match="reading only"):
        reader.orders.pause("here", "nobody")
    reader.close()


def test_nonsense_on_the_control_socket_is_answered(running: Running) -> None:
    assert running.order("make-coffee")["error"].startswith("no such order: use one of retry, ")
    assert running.order("retry") == {"error": "retry: the field deliveries is missing", "exit_code": 2}
    found = state(running.folder / "spool", "status")
    assert (found["inference"], found["open"]) == (True, True)
    assert {"engine", "model"} <= set(found["runs_on"])


def test_without_a_node_the_control_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoNodeError, match="no node is running"):
        state(tmp_path, "status")


@pytest.mark.parametrize("used", ["port", "web"])
def test_a_port_in_use_is_known_before_inference_starts_and_leaves_nothing_behind(
    running: Running, tmp_path: Path, used: str
) -> None:
    ports = {"port": free_port(), "web": free_port(), used: running.port}
    (tmp_path / "routing.yaml").write_text(TEXT.format(here=running.here.port, rules="[]", **ports))
    (tmp_path / "model").mkdir()  # with no model in it: inference could not start
    node = Node(load(tmp_path / "routing.yaml", {}))
    with pytest.raises(AddressError, match=f"{running.port}: Address already in use"):
        node.start()
    open_spool(node.settings().spool).close()


def test_the_port_is_taken_and_answers_nobody_until_the_node_is_ready(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, port = running.node.settings(), free_port()
    settings = replace(
        settings, node=replace(settings.node, port=port), web=replace(settings.web, port=0),
        spool=replace(settings.spool, path=running.folder / "another"),
    )  # fmt: skip
    node = Node(settings)

    def warm() -> None:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((settings.node.address, port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((settings.node.address, port), 5)
        assert node.view.ready()["open"] is False  # so /readyz says 503
        raise InferenceError("enough seen")

    monkeypatch.setattr(node._models, "start", warm)
    with pytest.raises(InferenceError, match="enough seen"):
        node.start()


def test_names_of_blobs_hold_nothing_received(running: Running, dx: Path) -> None:
    running.send(dx)
    uid = wait_for(lambda: latest(running)).sop_instance
    names = [str(p) for p in (running.folder / "spool").rglob("*")]
    assert not [name for name in names if uid in name]
    modes = {oct(p.stat().st_mode & 0o777) for p in (running.folder / "spool").rglob("*")}
    assert modes <= {"0o700", "0o600"}


def test_events_are_json(running: Running) -> None:
    assert json.dumps([asdict(event) for event in running.node.spool.views.events(limit=10)])


def test_what_expires_goes_in_bites_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times as long as each bite took: what arrives meanwhile shares the disk; and a full disk goes first."""
    ticks, bites, pauses = itertools.count(), [50, 50, 7, 0, 50], []
    monkeypatch.setattr("router.node.sweeper.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))

    class Full:
        version = 0

        def wait(self, _version: int, seconds: float) -> None:
            pauses.append(seconds)

    spool: Any = SimpleNamespace(retention=SimpleNamespace(sweep=lambda: bites.pop(0)))
    sweeper = Sweeper(spool, lambda: load(shipped(), {}))
    full: Any = Full()
    sweeper._expire(full, 0)
    assert (pauses, bites) == ([9.0] * 3, [50])
    full.version = 1
    sweeper._expire(full, 0)
    assert bites == [50]
