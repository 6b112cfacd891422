"""Heads for view and polarity on a finished network: its layers, class outputs and thresholds stay as they are.

`python -m shipping.heads --model models/mobilenet_v1 --manifest SET.csv --trained-on SET_OF_THE_MODEL.csv` fits both
heads by logistic regression on features of the set's images of training and validation, judges them with each source
left out once, and writes weights, card and known images anew. Eight bits are to be measured again after it
(`python -m router.training.quantise`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from router.flow import CLASSES, VIEWS
from router.model.calibration import HEADS
from router.model.card import WEIGHTS, Card
from router.model.mobilenet_v1 import MobileNetV1
from router.model.saving import save_model
from router.training.calibrate import fit_temperature
from router.training.data import DataError, Item, deal, digest_of, read_manifest
from router.training.evaluate import evaluate, read_model
from router.training.known_images import KnownImages
from router.training.routes import Routes, who_gets_what
from shipping.head_fit import Head, fit_polarity, fit_view, judge, polarity_figures, view_figures
from shipping.head_pictures import Looked, looked
from shipping.model_card import model_card
from shipping.ship import licences
from shipping.shortcuts import shortcuts

SEEN_BY_EYE = Path(__file__).with_name("views.csv")
"""Views of images for which the set names none. They were read by eye, before anything was fitted."""
LOOK_TWICE = 0.2
"""The least chance of being inverted from which a picture is turned and looked at again."""


def with_views(items: Sequence[Item], file: Path) -> list[Item]:
    """The items, with a view from the file (`file, view`) where the set names none."""
    with file.open(newline="", encoding="utf-8") as lines:
        views = {row["file"]: row["view"] for row in csv.DictReader(lines)}
    return [
        item if item.view else replace(item, view=views.get(f"{item.path.parent.name}/{item.path.name}", ""))
        for item in items
    ]


def with_heads(network: MobileNetV1, *heads: Head) -> MobileNetV1:
    """The network with its head for the class, and these behind it."""
    classes = slice(len(CLASSES))
    weight, bias = network.head.weight.detach()[classes], network.head.bias.detach()[classes]
    fresh = MobileNetV1(len(CLASSES) + sum(len(head.bias) for head in heads))
    state = network.state_dict()
    state["head.weight"] = torch.cat([weight, *(torch.from_numpy(head.weight) for head in heads)])
    state["head.bias"] = torch.cat([bias, *(torch.from_numpy(head.bias) for head in heads)])
    fresh.load(state)
    return fresh.eval()


def write(
    model: Path, items: Sequence[Item], trained_on: Sequence[Item], seen: Looked, terms: dict[str, dict[str, int]],
    failures: str,
) -> dict[str, Any]:  # fmt: skip
    """Judge, fit on all, and write the model's folder. Raises DataError where `trained_on` is not the network's set."""
    old, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    if old.trained.get("set") != digest_of(trained_on):
        raise DataError(f"{model}: was not trained on these images; give the manifest of its run with --trained-on")
    known_images = KnownImages.read(model, old.digest)
    judged = judge(seen)
    new = {item.source for item in seen.items} - {item.source for item in trained_on}
    all_of_them = np.ones(len(seen.items), bool)
    fresh = with_heads(network, fit_view(seen, all_of_them), fit_polarity(seen, all_of_them))
    asked = np.isfinite(judged.view).all(axis=1)
    truth = np.array([VIEWS.index(item.projection) if item.projection else -1 for item in seen.items])
    calibration = replace(
        old.calibration, heads=tuple(HEADS), inverted_threshold=LOOK_TWICE,
        view_temperature=fit_temperature(judged.view[asked], truth[asked]),
    )  # fmt: skip
    heads = {
        "images": len(seen.items),
        "view": view_figures(seen.items, judged.view, new),
        "inverted": polarity_figures(seen.items, judged.inverted, calibration),
    }
    trained = dict(old.trained) | {"heads": {"set": digest_of(items), "images": len(seen.items)}}
    parts: dict[str, Any] = {"size": old.size, "half": True, "calibration": calibration, "trained": trained}
    save_model(fresh, model, **parts, figures=dict(old.figures) | {"heads": heads})
    return _card(model, fresh, parts, trained_on, known_images, terms, failures)


def _card(
    model: Path, network: MobileNetV1, parts: dict[str, Any], trained_on: Sequence[Item],
    known_images: KnownImages | None, terms: dict[str, dict[str, int]], failures: str,
) -> dict[str, Any]:  # fmt: skip
    """The cards, with what the test split says now that inverted pictures are turned; the look is counted."""
    ready = read_model(model, "cpu")
    test = [item for item in trained_on if item.split == "test"]
    found, answers = evaluate(ready, test, everything=trained_on)
    figures = dict(Card.read(model).figures)
    figures["test"] = dict(figures["test"]) | {"looks": figures["test"]["looks"] + 1}
    figures["heads"] = dict(figures["heads"]) | {"test": {"views": found["views"], "inverted": found["inverted"]}}
    figures["shortcuts"] = shortcuts(ready, test)
    figures["routes"] = {"test split": who_gets_what(Routes.of(None), answers.items, answers.predictions)}
    card = save_model(network, model, **parts, figures=figures)
    (model / "MODEL_CARD.md").write_text(model_card(card, found, answers, terms, [], failures), encoding="utf-8")
    if known_images is not None:
        known_images.write(model, card.digest)
    return figures


def main(
    manifest: Annotated[Path, typer.Option(help="The set that teaches the heads.")],
    trained_on: Annotated[Path, typer.Option(help="The set that the network was trained on.")],
    root: Annotated[Path | None, typer.Option(help="The folder of the files. Default: that of the manifest.")] = None,
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path("models/mobilenet_v1"),
    views: Annotated[Path, typer.Option(help="Views where the set names none: file, view.")] = SEEN_BY_EYE,
    features: Annotated[Path | None, typer.Option(help="Where to keep the features (.npz).")] = None,
    failures: Annotated[Path | None, typer.Option(help="Where you know it to fail, Markdown for the card.")] = None,
) -> None:
    """Fit the heads for view and polarity, judge them, and write them into the model's folder."""
    root = root or manifest.parent
    items = with_views(deal(read_manifest(manifest, root)), views)
    chosen = [item for item in items if item.split in ("train", "val")]
    card, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    seen = looked(network, card.digest, chosen, card.size, features)
    words = failures.read_text(encoding="utf-8") if failures else ""
    found = write(model, items, deal(read_manifest(trained_on, root)), seen, licences(trained_on), words)
    print(json.dumps(found["heads"], indent=1))


if __name__ == "__main__":
    typer.run(main)
