"""The paper's Table 2 again: seven networks by one recipe from one start, each with some seeds, paired by patient.

`python -m shipping.compare --manifest FILE.csv --out runs/compare` trains each network and seed (a finished one
is not run again) and writes `table2.json`: macro recall, precision and F1 on the test split, the difference of each
network's F1 to MobileNet-V1's, parameters, and time of an image on this device; `table2.md` is the same for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from router.templates import fill
from router.training.data import Item, deal, read_manifest
from router.training.evaluate import answer, milliseconds, read_model
from router.training.metrics import Floats, Indices, confusion, interval, resampled_scores, scores
from router.training.networks import NAMES
from router.training.recipe import SHIPPED, Recipe, with_overrides
from router.training.train import train

TEMPLATE = Path(__file__).with_name("compare.md.j2")
PAPER = {"recall": 0.982, "precision": 0.981, "f1": 0.981, "low": 0.976, "high": 0.987, "milliseconds": 29.5}
"""MobileNet-V1 in Pham et al., DICOM Imaging Router (2021): 512 px, 2,419 test images of theirs, their device."""


def compare(
    items: Sequence[Item], recipe: Recipe, out: Path, *, networks: Sequence[str] = NAMES, seeds: int = 2,
    resamples: int = 10_000, say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Train and score all; writes `table2.json` and `table2.md` into `out` and returns the table."""
    test = [item for item in items if item.split == "test"]
    runs: dict[str, list[Path]] = {}
    for name in networks:
        for seed in range(seeds):
            chosen = with_overrides(recipe, network=name, seed=seed)
            say(f"{name}, seed {seed}")
            runs.setdefault(name, []).append(train(chosen, items, out / f"{name}-{seed}", say=say))
    found = {name: _score(paths, test, resamples) for name, paths in runs.items()}
    truth = {"patients": len({item.patient for item in test}), "n": len(test)}
    table = {"recipe": asdict(recipe), "seeds": seeds, "test": truth,
             "paper_mobilenet_v1": PAPER, "networks": _rows(found)}  # fmt: skip
    (out / "table2.json").write_text(json.dumps(table, indent=1))
    (out / "table2.md").write_text(page(table), encoding="utf-8")
    return table


def page(table: Mapping[str, Any]) -> str:
    """Table 2 as Markdown, with the paper's figures beside it and what must be known to read it."""
    return fill(TEMPLATE, table=table)


def _score(paths: Sequence[Path], test: Sequence[Item], resamples: int) -> dict[str, Any]:
    """The mean over seeds of each figure and of each resample's, with the parts that do not depend on the seed."""
    values, drawn, seconds = [], [], []
    for path in paths:
        model = read_model(path, "cpu")
        answers = answer(model, test)
        # By the class that is on top: thresholds have been fitted for none of these networks.
        predicted = answers.logits.argmax(axis=1)
        values.append(_macro(answers.truth, predicted))
        drawn.append(resampled_scores(answers.truth, predicted, [i.patient for i in answers.items],
                                      resamples=resamples))  # fmt: skip
        seconds.append(milliseconds(model, answers.items)["network"])
    return {
        "mean": {key: float(np.mean([value[key] for value in values])) for key in values[0]},
        "f1_of_seeds": [round(value["f1"], 4) for value in values],
        "drawn": {key: np.mean([one[key] for one in drawn], axis=0) for key in drawn[0]},
        "parameters": model.parameters, "milliseconds": float(np.mean(seconds)),
    }  # fmt: skip


def _macro(truth: Indices, predicted: Indices) -> dict[str, float]:
    matrix = confusion(truth, predicted)
    present = matrix.sum(axis=1) > 0
    return {name: float(values[present].mean())
            for name, values in zip(("recall", "precision", "f1"), scores(matrix), strict=True)}  # fmt: skip


def _rows(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ours: Floats | None = found["mobilenet_v1"]["drawn"]["f1"] if "mobilenet_v1" in found else None
    rows = {}
    for name, row in found.items():
        figures = {key: [round(value, 4) for value in (row["mean"][key], *interval(row["drawn"][key]))]
                   for key in ("recall", "precision", "f1")}  # fmt: skip
        rows[name] = figures | {
            "f1_of_seeds": row["f1_of_seeds"], "parameters": row["parameters"],
            "milliseconds": round(row["milliseconds"], 2),
        }  # fmt: skip
        if ours is not None and name != "mobilenet_v1":
            difference = row["mean"]["f1"] - found["mobilenet_v1"]["mean"]["f1"]
            rows[name]["f1_minus_mobilenet_v1"] = [
                round(value, 4) for value in (difference, *interval(row["drawn"]["f1"] - ours))
            ]
    return rows


def main(
    manifest: Annotated[Path, typer.Option()],
    root: Annotated[Path | None, typer.Option()] = None,
    out: Annotated[Path, typer.Option()] = Path("runs/compare"),
    size: Annotated[int, typer.Option(min=32, max=1024)] = 512,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train and score the seven networks from nothing, by the recipe of the shipped model."""
    items = deal(read_manifest(manifest, root or manifest.parent))
    recipe = with_overrides(SHIPPED, size=size, epochs=epochs, frozen_blocks=0)
    print(json.dumps(compare(items, recipe, out, seeds=seeds), indent=1))


if __name__ == "__main__":
    typer.run(main)
