"""Real radiographs wrapped as DX and CR instances, destinations, and a node that uses the shipped routing.yaml."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.pixels.images import load_image
from router.pixels.wrap import wrap_image


@dataclass(frozen=True)
class Radiograph:
    """A labelled radiograph of the test split, as a DICOM file."""

    label: str
    path: Path
    name: str


@pytest.fixture(scope="session")
def radiographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Radiograph]]:
    """`radiographs(label, n)`: the first n of the test split with that label, DX and CR in turn."""
    folder = tmp_path_factory.mktemp("radiographs")
    with (shared / "data" / "xray" / "manifest.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"]

    def get(label: str, count: int) -> list[Radiograph]:
        found = []
        for n, row in enumerate([r for r in rows if r["label"] == label][:count]):
            path = folder / f"{label}_{n:03d}.dcm"
            if not path.exists():
                grey = load_image(shared / "data" / "xray" / row["file"])
                wrap_image(grey, path, modality=("DX", "CR")[n % 2])
            found.append(Radiograph(label, path, row["file"]))
        return found

    return get
