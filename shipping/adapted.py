"""What `dicom-router adapt` gains at a hospital that the model never saw: figures from the folds' networks.

`python -m shipping.adapted --manifest SET.csv --folds runs/folds` takes each fold of `sources`, and of `stress` if it
was run, as a hospital. The fold's network is adapted to some of the removed images and judged on all others, before and
after: once with labels by people, once with simulated headers alone. Counts are means of the draws.

With `--model DIR --trained-on SET_OF_THE_MODEL.csv` in place of `--folds`, the images that this model never saw are the
hospital: those of the set that are not in the model's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.card import WEIGHTS, Card
from router.model.mobilenet_v1 import MobileNetV1
from router.training.adapt import Old, count, refusals
from router.training.adapting import WEAK, Labelled, adapted
from router.training.calibrate import fit_novelty
from router.training.data import Item, deal, read_manifest
from router.training.known_images import KnownImages
from router.training.own_images import OwnImages, held_out, label_of
from router.training.pictures import outputs
from router.training.routes import BODY_PART, WORDS, Routes, simulated, without_part
from shipping.audit import calibrated_without
from shipping.folds import Withheld, remove_groups

DRAWS = 5
"""Draws of the images that are given to `adapt`."""
BY_HEADER = 300
"""Images that headers may label."""
HELD_OUT = 0.3
KEYS = ("right", "wrong", "people")


def hospital(
    best: Path, items: Sequence[Item], removed: Sequence[Item], size: int
) -> tuple[MobileNetV1, KnownImages, OwnImages]:
    """The fold's network with its novelty, known images from its training, and the removed images."""
    gone = {item.path for item in removed}
    seen = deal([item for item in items if item.path not in gone])
    network = MobileNetV1.read(best / WEIGHTS)
    known = KnownImages.of(network, seen, size)
    trained = outputs(network, [item for item in seen if item.split == "train"], size)  # all of them, as folds do
    network.novelty = fit_novelty(trained.features, trained.truth)
    found = outputs(network, [item for item in removed if not item.is_synthetic], size)
    return (
        network,
        known,
        OwnImages(found.items, [None] * len(found.items), Labelled.certainly(found.features, found.truth)),
    )


def by_headers(network: MobileNetV1, calibration: Calibration, own: OwnImages, seed: int) -> OwnImages:
    """The images that a simulated header labels as the pixels do, with that label."""
    parts = {word: part for part, word in WORDS.items()}
    predictions = _predictions(network, calibration, own)
    labels = []
    for item, prediction in zip(own.items, predictions, strict=True):
        word = (simulated(item, seed).get(BODY_PART) or ("",))[0]
        labels.append(label_of(parts[word], item.age, prediction) if word else "")
    kept = np.array([bool(label) for label in labels])
    truth = np.array([CLASSES.index(label) for label in labels if label], np.int64)
    few = own[kept]
    counts = np.full(len(truth), WEAK, np.float32)
    relabelled = [Item(i.path, CLASSES[t], i.patient, age=i.age) for i, t in zip(few.items, truth, strict=True)]
    return OwnImages(relabelled, few.headers, Labelled(few.known.features, truth, counts))


def trial(
    routes: Routes, network: MobileNetV1, calibration: Calibration, known: KnownImages, own: OwnImages,
    given: NDArray[np.bool_], headers: bool, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One draw: `adapt` gets the images `given`, decides as it does for users, and the others judge."""
    shown, rest = own[given], own[~given]
    if headers:
        shown = by_headers(network, calibration, shown, seed)
    judged = held_out(shown, HELD_OUT, seed)
    fresh = adapted(network, known.learned, shown[~judged].known)
    pinned = OwnImages(
        [Item(Path(str(n)), CLASSES[label], str(n)) for n, label in enumerate(known.pinned.truth)],
        [None] * len(known.pinned), known.pinned,
    )  # fmt: skip
    pairs = [[_count(routes, one, calibration, images) for one in (network, fresh)]
             for images in (shown[judged], pinned, rest)]  # fmt: skip
    why = refusals({"own": {"people": pairs[0]}, "pinned": pairs[1]})
    serves = network if why else fresh
    return {
        "refused": bool(why),
        "no body part in the header": [pairs[2][0], pairs[2][0] if why else pairs[2][1]],
        "simulated header": [_count(routes, one, calibration, rest, seed) for one in (network, serves)],
        "pinned": [pairs[1][0], pairs[1][0] if why else pairs[1][1]],
    }


def _predictions(network: MobileNetV1, calibration: Calibration, own: OwnImages) -> Any:
    with torch.inference_mode():
        features = torch.from_numpy(own.known.features)
        return calibration.predictions(network.head(features).numpy(), network.novelty(features).numpy(), "")


def _count(
    routes: Routes, network: MobileNetV1, calibration: Calibration, own: OwnImages, seed: int | None = None
) -> dict[str, Any]:
    made = [without_part(item) if seed is None else simulated(item, seed) for item in own.items]
    return count(routes, own.items, made, _predictions(network, calibration, own))


def drawn(
    routes: Routes, network: MobileNetV1, calibration: Calibration, known: KnownImages, own: OwnImages, images: int
) -> dict[str, Any]:
    """For each kind of labels: counts before and after, means of the draws. `images` are labelled by people."""
    found: dict[str, Any] = {"n": len(own.items)}
    for labels, amount in (("people", images), ("header", BY_HEADER)):
        trials = []
        for seed in range(DRAWS):
            given = np.zeros(len(own.items), bool)
            given[np.random.default_rng(seed).permutation(len(given))[:amount]] = True
            trials.append(trial(routes, network, calibration, known, own, given, labels == "header", seed))
        found[labels] = {
            "refused": sum(one["refused"] for one in trials),
            **{kind: [{key: round(float(np.mean([one[kind][at][key] for one in trials])), 1) for key in KEYS}
                      for at in (0, 1)]
               for kind in ("no body part in the header", "simulated header", "pinned")},
        }  # fmt: skip
    return found


def of_model(
    model: Path, items: Sequence[Item], trained_on: Sequence[Item], routes: Routes, images: int
) -> dict[str, Any]:
    """The same for a finished model, on real images of training and validation that are not in its own set."""
    card, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    seen = {item.path for item in trained_on}
    strange = [item for item in items if item.path not in seen and not item.is_synthetic and item.split != "test"]
    found = outputs(network, strange, card.size)
    known = Old().read(model, network, card)
    own = OwnImages(found.items, [None] * len(found.items), Labelled.certainly(found.features, found.truth))
    return drawn(routes, network, card.calibration, known, own, images)


def figures(
    folds: Path, items: Sequence[Item], routes: Routes, images: int, only: Sequence[str] = ()
) -> dict[str, Any]:
    """For each fold and each kind of labels: counts before and after, means of the draws."""
    found: dict[str, Any] = {}
    for by in ("sources", "stress"):
        if not (folds / by / "figures.json").exists():
            continue
        size = json.loads((folds / by / "figures.json").read_text())["recipe"]["size"]
        fitted = [Withheld.read(folds / kind) for kind in ("sources", "patients") if (folds / kind).exists()]
        pool = [item for item in items if item.split in ("train", "val")]
        for name, removed in remove_groups(by, pool).items():
            if only and name not in only:
                continue
            network, known, own = hospital(folds / by / name / "best", pool, removed, size)
            here = np.array([f"{item.path.parent.name}/{item.path.name}" for item in own.items])
            found[name] = drawn(routes, network, calibrated_without(here, *fitted), known, own, images)
            print(json.dumps({name: found[name]}), flush=True)
    return found


def main(
    manifest: Annotated[Path, typer.Option()],
    folds: Annotated[Path | None, typer.Option(help="What `python -m shipping.folds` wrote.")] = None,
    model: Annotated[Path | None, typer.Option(help="A finished model, in place of folds.")] = None,
    trained_on: Annotated[Path | None, typer.Option(help="The set of that model.")] = None,
    root: Annotated[Path | None, typer.Option(help="The folder of its files. Default: that of the manifest.")] = None,
    images: Annotated[int, typer.Option(help="Images that people label.")] = 100,
    only: Annotated[list[str] | None, typer.Option(help="Folds. Default: all.")] = None,
) -> None:
    """Print the figures of each fold as a line of JSON."""
    root = root or manifest.parent
    items = deal(read_manifest(manifest, root))
    if folds:
        figures(folds, items, Routes.of(None), images, only or ())
    elif model and trained_on:
        print(json.dumps(of_model(model, items, read_manifest(trained_on, root), Routes.of(None), images)))
    else:
        raise SystemExit("give --folds, or --model with --trained-on")


if __name__ == "__main__":
    typer.run(main)
