"""Tiny labelled sets for tests of training: a texture for each class, a patient for every two images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from router.flow import CLASSES

SIDE = 64


def texture(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stripes across, down or aslant, squares, or a disc, at chance places and with noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + rng.uniform(0, 16, (2, 1, 1))
    waves = (
        np.sin(y / 4),
        np.sin(x / 4),
        np.sin((x + y) / 5),
        np.sign(np.sin(x / 5) * np.sin(y / 5)),
        2.0 * (np.hypot(x - 40, y - 40) < 20) - 1,
    )
    values: NDArray[np.float64] = 128 + 80 * waves[label] + rng.normal(0, 10, (SIDE, SIDE))
    return values.clip(0, 255).astype(np.uint8)


def make_set(root: Path, each: int = 24, *, shuffled: bool = False, seed: int = 0) -> Path:
    """Write `each` images a class and a manifest with splits, sources and ages; returns the manifest."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            file = f"{name}/{number}.png"
            Image.fromarray(texture(label, rng)).save(root / file)
            split = ("train", "train", "train", "train", "val", "test")[number // 2 % 6]
            written = CLASSES[int(rng.integers(5))] if shuffled else name
            rows.append({"file": file, "label": written, "split": split, "source": "ab"[number % 2],
                         "patient": f"{name}{number // 2}", "age": str(number), "license": "none"})  # fmt: skip
    return write_manifest(root / "manifest.csv", rows)


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
