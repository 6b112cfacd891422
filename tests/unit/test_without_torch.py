"""Nothing that serves imports PyTorch where OpenVINO answers; what needs PyTorch says how to get it, in one line.

A stand-in takes PyTorch's place on the path of every process, and notes that it was asked for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.demo.phantoms import radiograph
from router.model.engines import INT8
from router.model.files import shipped_model
from router.model.mobilenet_v1 import MobileNetV1
from router.pixels.wrap import wrap_image
from tests.peers import free_port, process, wait_for

STAND_IN = """
import os, sys
with open(os.environ["ASKED_FOR_TORCH"], "a") as file:
    print(sys.orig_argv, file=file)
raise ModuleNotFoundError("No module named 'torch'", name="torch")
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which processes note that they wanted PyTorch."""
    pytest.importorskip("openvino")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "torch.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("ASKED_FOR_TORCH", str(tmp_path / "asked"))
    return tmp_path / "asked"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "router", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(
        f"node: {{address: 127.0.0.1, port: {free_port()}}}\nweb: {{address: 127.0.0.1, port: {free_port()}}}\n"
        "model: {device: auto, workers: 1}\nspool: {path: spool}\n"
        f"destinations:\n  a: {{ae_title: A, host: 127.0.0.1, port: {free_port()}}}\n"
        "rules: []\notherwise: {send: a}\n"
    )
    wrap_image(radiograph("spine"), tmp_path / "one.dcm")
    return tmp_path


def test_the_stand_in_is_met(asked: Path, site: Path) -> None:
    done = run("train", "--folder", ".", cwd=site)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().splitlines()[-1].endswith("pip install '.[torch]' in a clone of dicom-router")
    assert "this needs PyTorch, which is not installed" in done.stderr
    assert asked.exists()


@pytest.mark.slow
def test_a_node_serves(asked: Path, site: Path) -> None:
    port = int((site / "routing.yaml").read_text().split("port: ")[1].split("}")[0])
    command = [sys.executable, "-m", "router", "serve", "--config", "routing.yaml"]
    with process(command, port, site / "node.log", cwd=site, seconds=120):
        assert run("send", "one.dcm", "--to", f"ROUTER@127.0.0.1:{port}", cwd=site).returncode == 0

        def decided() -> bool:
            found = run("find", "--json", cwd=site)
            return bool(found.stdout) and json.loads(found.stdout.splitlines()[0])["class"] is not None

        wait_for(decided, 60, "a decision")
        assert INT8 in run("status", cwd=site).stdout
    assert not asked.exists(), asked.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("check", "--offline"), ("classify", "one.dcm"), ("classify", "one.dcm", "--config", "routing.yaml")]
)
def test_commands_that_look_need_none(asked: Path, site: Path, words: tuple[str, ...]) -> None:
    done = run(*words, cwd=site)
    assert done.returncode == 0, done.stderr
    assert not asked.exists(), asked.read_text()


@pytest.mark.slow
def test_a_model_is_judged_and_promoted_by_the_engine_that_serves(asked: Path, site: Path) -> None:
    shutil.copytree(shipped_model(), site / "new")
    card = json.loads((site / "new" / "card.json").read_text())
    card["calibration"]["thresholds"]["abdominal"] = 0.91
    (site / "new" / "card.json").write_text(json.dumps(card))
    done = run("model", "promote", "new", "--json", cwd=site)
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["digest"] == card["digest"]
    (site / "manifest.csv").write_text("file,label\none.dcm,spine\n")
    done = run("evaluate", "--manifest", "manifest.csv", "--json", "--resamples", 100, cwd=site)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert INT8 in found["milliseconds"]["device"]
    assert found["model"]["parameters"] == sum(p.numel() for p in MobileNetV1(10).parameters())


@pytest.mark.slow
def test_the_demonstration_needs_none(asked: Path, tmp_path: Path) -> None:
    done = run("demo", cwd=tmp_path)
    assert "5 of 5 instances arrived unchanged" in done.stdout, done.stderr
    assert not asked.exists(), asked.read_text()


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("router.inference.inside", ("torch", "pydicom", "structlog", "yaml", "requests")),
        (
            "router.inference.nursery, router.inference.pixel_worker, router.pixels",
            ("torch", "pynetdicom", "structlog", "yaml", "requests"),
        ),
        ("router.cli.serve, router.node.node, router.page", ("torch", "openvino", "pynetdicom", "alembic", "requests")),
    ],
)
def test_each_process_takes_in_what_it_needs(modules: str, heavy: tuple[str, ...]) -> None:
    """All of them start with the node, and each library costs time and memory in each."""
    program = f"import sys, {modules}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
