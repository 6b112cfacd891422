"""Who gets what, for images whose source, part or patient the answering network never saw.

`python -m shipping.routes --manifest FILE.csv --folds runs/folds` scores what folds withheld.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from router.flow import CLASSES, Prediction
from router.training.data import DataError, Item, read_manifest
from router.training.evaluate import with_age
from router.training.metrics import macro_f1
from router.training.routes import Routes, certain, who_gets_what
from shipping.audit import calibrated_without
from shipping.folds import Withheld


def withheld_predictions(
    folds: Path, items: Sequence[Item], by: str = "sources"
) -> tuple[list[Item], list[Prediction]]:
    """Answers of the folds' networks for images that they never saw, by thresholds fitted without their fold."""
    answers = Withheld.read(folds / by)
    others = [
        Withheld.read(folds / kind) for kind in ("sources", "patients") if (folds / kind / "answers.npz").exists()
    ]
    known = {f"{item.path.parent.name}/{item.path.name}": item for item in items}
    try:
        scored = [known[str(name)] for name in answers.image]
    except KeyError as error:
        raise DataError(f"{folds / by}: an image that the manifest lacks; give the manifest of that run") from error
    predictions: list[Prediction] = [certain("others")] * len(scored)
    for fold in np.unique(answers.fold):
        mine = np.flatnonzero(answers.fold == fold)
        calibration = calibrated_without(answers.image[mine], *others)
        fresh = calibration.predictions(answers.logits[mine], answers.novelty[mine], "")
        for place, prediction in zip(mine, fresh, strict=True):
            predictions[place] = prediction
    return scored, predictions


def of_folds(folds: Path, items: Sequence[Item], routes: Routes, by: str = "sources") -> dict[str, Any]:
    """Who gets what, for the images that folds withheld."""
    return who_gets_what(routes, *withheld_predictions(folds, items, by))


def f1(items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Macro F1 by pixels alone, and with the ages of the set deciding between chests."""
    truth = np.array([item.target for item in items])
    top = np.array([CLASSES.index(prediction.top) for prediction in predictions])
    return {"pixels": round(macro_f1(truth, top), 4), "with_age": round(macro_f1(truth, with_age(items, top)), 4)}


def main(
    manifest: Annotated[Path, typer.Option()],
    folds: Annotated[Path, typer.Option(help="What `python -m shipping.folds` wrote, its `sources` below.")],
    by: Annotated[str, typer.Option(help="sources, patients or stress.")] = "sources",
    root: Annotated[Path | None, typer.Option()] = None,
    config: Annotated[Path | None, typer.Option(help="A routing.yaml; left out, the shipped one.")] = None,
) -> None:
    """Score the rules on images that the answering networks never saw."""
    items = read_manifest(manifest, root or manifest.parent, any_split=True)
    scored, predictions = withheld_predictions(folds, items, by)
    found = who_gets_what(Routes.of(config), scored, predictions)
    print(json.dumps(found | {"macro_f1": f1(scored, predictions)}, indent=1))


if __name__ == "__main__":
    typer.run(main)
