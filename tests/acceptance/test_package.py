"""What a user installs: a wheel with model and routing.yaml that runs outside the checkout; the demonstration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from router.demo.phantoms import radiograph

ROOT = Path(__file__).resolve().parents[2]
DEMO_SECONDS = 300


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout and unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", folder, ROOT], check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [sys.executable, "-m", "router", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=DEMO_SECONDS
    )


def test_the_wheel_carries_what_it_needs_and_nothing_else(installed: Path) -> None:
    names = {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()}
    for needed in ("router/routing.yaml", "router/models/mobilenet_v1/model.safetensors",
                   "router/models/mobilenet_v1/card.json", "router/models/mobilenet_v1/LICENSE",
                   "router/spool/migrations/env.py"):  # fmt: skip
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert sum((installed / name).stat().st_size for name in names) < 20e6


@pytest.mark.timeout(DEMO_SECONDS)
def test_the_demonstration_from_the_wheel_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 instances arrived unchanged" in done.stdout
    assert "phantoms" in done.stdout
    for name in ("abdominal-ai", "adult-chest-ai", "pediatric-chest-ai", "spine-ai", "catch-all"):
        assert done.stdout.count(name) == 1, done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(DEMO_SECONDS)
def test_the_demonstration_with_the_users_own_pictures(installed: Path, tmp_path: Path) -> None:
    grey = (radiograph("hand") >> 4).astype("uint8")
    Image.fromarray(grey).save(tmp_path / "hand.png")
    Image.fromarray(grey).save(tmp_path / "hand.jpg")
    (tmp_path / "letter.txt").write_text("not a picture")
    done = run(installed, tmp_path, "demo", tmp_path)
    assert "2 of 2 instances arrived unchanged" in done.stdout, done.stdout + done.stderr
    assert "letter.txt" in done.stdout
    assert done.returncode == 1


@pytest.mark.timeout(DEMO_SECONDS)
def test_the_benchmark_says_what_the_machine_sustains(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "benchmark", "--count", 5, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["delivered"] == figures["sent"] == 5
    assert figures["instances_per_s"] > 0
