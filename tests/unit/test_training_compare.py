"""Table 2: every seed counts, differences pair by patient, and a finished run is not trained again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from router.training.data import deal, read_manifest
from router.training.metrics import resampled_scores
from router.training.recipe import Recipe
from shipping.compare import _rows, compare
from tests.unit.training_set import make_set

SMALL = Recipe(size=32, epochs=1, batch=12, rate=1e-3, augmentation="none")


@pytest.mark.slow
def test_a_network_with_two_seeds_gets_one_row_and_is_trained_once(tmp_path: Path) -> None:
    items = deal(read_manifest(make_set(tmp_path, 12), tmp_path))
    said: list[str] = []
    out = tmp_path / "runs"
    found = compare(items, SMALL, out, networks=["mobilenet_v1"], resamples=50, say=said.append)
    row = found["networks"]["mobilenet_v1"]
    assert row["f1"][0] == pytest.approx(np.mean(row["f1_of_seeds"]), abs=1e-4)
    assert row["f1"][1] <= row["f1"][0] <= row["f1"][2]
    assert json.loads((out / "table2.json").read_text()) == found
    told = (out / "table2.md").read_text()
    assert "a ranking" in told
    assert f"| {', '.join(f'{value:.3f}' for value in row['f1_of_seeds'])} | – |" in told
    assert sum(line.startswith("epoch") for line in said) == 2
    compare(items, SMALL, out, networks=["mobilenet_v1"], resamples=50, say=said.append)
    assert sum(line.startswith("epoch") for line in said) == 2


def test_differences_pair_by_patient() -> None:
    """A network that is better on every patient is surely better, though the intervals of both overlap."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 40)
    patients = [str(i // 2) for i in range(200)]
    worse = np.where(rng.random(200) < 0.12, (truth + 1) % 5, truth)
    better = np.where((worse != truth) & (rng.random(200) < 0.4), truth, worse)

    def row(predicted: NDArray[np.int_]) -> dict[str, object]:
        drawn = resampled_scores(truth, predicted, patients, resamples=2000)
        mean = {name: float(values.mean()) for name, values in drawn.items()}
        return {"mean": mean, "drawn": drawn, "f1_of_seeds": [], "parameters": 1, "milliseconds": 1.0}

    rows = _rows({"mobilenet_v1": row(worse), "other": row(better)})
    assert rows["mobilenet_v1"]["f1"][2] > rows["other"]["f1"][1]
    assert rows["other"]["f1_minus_mobilenet_v1"][1] > 0
    assert "f1_minus_mobilenet_v1" not in rows["mobilenet_v1"]
