"""From a finished run to the model that is shipped: calibrate, score the test split once, write the folder.

`python -m router.training.ship RUN --manifest FILE.csv --folds runs/folds --out models/mobilenet_v1`. Every number in
`card.json` and `MODEL_CARD.md` comes from here; none is typed. Each look at the test split is noted in the run.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.card import Card, save_model
from router.model.mobilenet_v1 import MobileNetV1
from router.training.calibrate import ROUTED, fit_limit, fit_novelty, fit_temperature, fit_thresholds
from router.training.data import DataError, deal, digest_of, read_manifest
from router.training.evaluate import evaluate, read_model
from router.training.folds import Foreign, Outputs, outputs
from router.training.model_card import model_card

LICENCE = Path(__file__).with_name("model_licence.txt")
FOREIGN_SHARE = 0.97
"""Of the images of unseen sources that a fold's network named rightly, this share must stay below the novelty limit."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration, and what it was fitted on."""

    calibration: Calibration
    notes: dict[str, Any]


def fit(network: MobileNetV1, known: Outputs, val: Outputs, foreign: Foreign | None) -> Fitted:
    """Fit novelty into the network, and temperature, thresholds and limit from validation and unseen sources."""
    network.novelty = fit_novelty(known.features, known.truth)
    with torch.inference_mode():
        at_home = network.novelty(torch.from_numpy(val.features)).numpy()
    logits, truth = val.logits, val.truth
    limit = fit_limit(at_home, truth, 0.995)
    if foreign is not None:
        logits, truth = np.concatenate([logits, foreign.logits]), np.concatenate([truth, foreign.truth])
        right = foreign.logits.argmax(axis=1) == foreign.truth
        limit = max(limit, fit_limit(foreign.novelty[right], foreign.truth[right], FOREIGN_SHARE))
    temperature = fit_temperature(logits, truth)
    if foreign is None:
        temperature = max(temperature, 1.0)  # home alone would only ask for more confidence
    thresholds, borrowed = fit_thresholds(Calibration(temperature=temperature).probabilities(logits), truth)
    notes = {
        "images": {"validation": len(val.items), "unseen_sources": 0 if foreign is None else len(foreign.truth)},
        "borrowed_thresholds": borrowed,
        "unseen_sources": None if foreign is None else _abroad(Calibration(temperature, thresholds, limit), foreign),
    }
    return Fitted(Calibration(temperature, thresholds, limit), notes)


def _abroad(calibration: Calibration, foreign: Foreign) -> dict[str, Any]:
    """What the calibration does to images of unseen sources: how much is answered, and how much of it rightly."""
    predictions = calibration.predictions(foreign.logits, foreign.novelty, "")
    named = np.array([p.class_name for p in predictions])
    top = foreign.logits.argmax(axis=1)
    answered = named != "uncertain"
    right: NDArray[np.bool_] = top == foreign.truth
    return {
        "n": len(top),
        "right": round(float(right.mean()), 4),
        "answered": round(float(answered.mean()), 4),
        "right_of_answered": round(float(right[answered].mean()), 4) if answered.any() else 0.0,
        "wrong_routes": {
            name: [int(((named == name) & (foreign.truth != i)).sum()), int((foreign.truth != i).sum())]
            for i, name in enumerate(CLASSES)
            if name in ROUTED
        },
    }


def halve(network: MobileNetV1) -> None:
    """Round the weights to what the shipped file will hold, so that everything is fitted to that."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())


def note_look(run: Path) -> int:
    """Write down that the test split is looked at once more; how often that is."""
    with (run / "looks.txt").open("a", encoding="utf-8") as file:
        file.write(time.strftime("%Y-%m-%d %H:%M:%S ship\n", time.gmtime()))
    return len((run / "looks.txt").read_text(encoding="utf-8").splitlines())


def licences(manifest: Path) -> dict[str, dict[str, int]]:
    """For each source, its licences as the manifest states them, with counts."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if row.get("split") in ("train", "val"):
                found[row.get("source") or "unknown"][row.get("license") or "not stated"] += 1
    return {source: dict(counts.most_common()) for source, counts in sorted(found.items())}


def ship(run: Path, manifest: Path, root: Path, folds: Path | None, out: Path) -> Card:
    """Write the model's folder from a run on this manifest. Raises DataError where the run had another set."""
    items = deal(read_manifest(manifest, root))
    trained = Card.read(run / "best").trained
    if trained.get("set") != digest_of(items):
        raise DataError(f"{run}: was not trained on {manifest}; give the manifest of that run")
    size = Card.read(run / "best").size
    network = MobileNetV1.read(run / "best" / "model.safetensors")
    halve(network)
    known, val = (outputs(network, [i for i in items if i.split == split], size) for split in ("train", "val"))
    foreign = Foreign.read(folds) if folds else None
    fitted = fit(network, known, val, foreign)
    save_model(network, out, size=size, half=True, calibration=fitted.calibration, trained=trained)

    test = [item for item in items if item.split == "test"]
    found, answers = evaluate(read_model(out, "cpu"), test, everything=items)
    abroad = json.loads((folds / "figures.json").read_text()) if folds else None
    figures = _summary(found, note_look(run), fitted, abroad)
    card = save_model(
        network, out, size=size, half=True, calibration=fitted.calibration, trained=trained, figures=figures
    )
    history = json.loads((run / "history.json").read_text())
    text = model_card(card, found, answers, licences(manifest), history, abroad)
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    (out / "LICENSE").write_text(LICENCE.read_text(encoding="utf-8"), encoding="utf-8")
    return card


def _summary(found: dict[str, Any], looks: int, fitted: Fitted, abroad: dict[str, Any] | None) -> dict[str, Any]:
    """The figures that go into card.json."""

    def rounded(macro: dict[str, Any]) -> dict[str, Any]:
        return {
            name: [round(macro[name][key], 4) for key in ("value", "low", "high")]
            for name in ("recall", "precision", "f1")
        }

    routing = found["routing"]
    return {
        "test": {
            "n": found["n"], "patients": found["patients"], "looks": looks, "macro": rounded(found["pixels"]),
            "macro_with_age": rounded(found["with_age"]), "chests_with_age": found["with_age"]["chests_with_age"],
            "classes": {name: {k: round(v, 4) for k, v in row.items() if k != "recall_interval"}
                        for name, row in found["classes"].items()},
            "calibration_error": round(found["calibration"]["error"], 4),
            "answered": round(routing["coverage"], 4), "right_of_answered": round(routing["precision"], 4),
        },
        "calibration": fitted.notes,
        "unseen_sources": abroad and {key: abroad[key] for key in ("n", "macro_f1", "classes")},
    }  # fmt: skip


def main(
    run: Annotated[Path, typer.Argument(help="The folder that `dicom-router train --out` wrote.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that it was trained on.")],
    root: Annotated[Path | None, typer.Option(help="Where its files are; left out, beside it.")] = None,
    folds: Annotated[Path | None, typer.Option(help="What `python -m router.training.folds` wrote.")] = None,
    out: Annotated[Path, typer.Option(help="The model's folder.")] = Path("models/mobilenet_v1"),
) -> None:
    """Calibrate a run, score the test split once, and write the model's folder."""
    card = ship(run, manifest, root or manifest.parent, folds, out)
    print(json.dumps({"calibration": card.figures["calibration"], "test": card.figures["test"]}, indent=1))


if __name__ == "__main__":
    typer.run(main)
