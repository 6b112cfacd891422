"""Score a model on labelled images: every figure of the paper's two tables, and how far the model may be believed.

An image goes the way that it goes in service: read, prepared, network, calibration. Numbers only; the terminal and
`report` show them. Nothing here trains or changes a model.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.flow import CLASSES, UNCERTAIN, VIEWS, Prediction
from router.model.architecture import WIDTH, shapes
from router.model.calibration import HEADS, Calibration
from router.model.card import CARD, Card
from router.model.engines import Run
from router.model.load import load
from router.model.polarity import look_right
from router.training import metrics
from router.training.data import DataError, Item, Skipped, with_header_age
from router.training.pictures import BATCH, batches
from router.training.pictures import UNREADABLE as UNREADABLE
from router.training.pictures import picture_of as picture_of

ADULT = 16.0
"""A chest of fewer years is a child's."""
CHESTS = ("adult_chest", "pediatric_chest")


@dataclass(slots=True)
class Model:
    """A network ready to answer: MobileNet-V1 with its card, or one of the others as a run left it."""

    run: Run
    name: str
    size: int
    parameters: int
    device: str
    """What answers, for people."""
    calibration: Calibration = field(default_factory=Calibration)
    digest: str = ""

    def __call__(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs (n, all heads) and novelty (n,) of prepared pictures (n, size, size)."""
        return self.run(pictures)

    def look(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """As in service, with inverted pictures turned. Returns all outputs, novelty, and which were inverted."""
        return look_right(self, pictures, self.calibration)


def read_model(directory: Path, device: str = "auto") -> Model:
    """The model of a folder: `card.json` and weights, or a run's `network.pt`. Raises CardError.

    PyTorch answers. Where it is not installed, a model with a card answers as it does in service.
    """
    try:
        from router.training.plain import read_plain
    except ModuleNotFoundError as error:
        if error.name != "torch" or not (directory / CARD).exists():
            raise
        return _as_served(directory)
    return read_plain(directory, device)


def _as_served(directory: Path) -> Model:
    card, model = Card.read(directory), load(directory, device="cpu")
    trained = [shape for name, shape in shapes().items() if name.endswith(("weight", "bias"))]
    more = sum(HEADS[name] for name in card.calibration.heads) - len(CLASSES)
    count = sum(math.prod(shape) for shape in trained) + more * (WIDTH + 1)
    device = f"CPU ({platform.machine()}), {model.engine}"
    return Model(model.run, card.architecture, card.size, count, device, card.calibration, card.digest)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of the images of a set that could be read; all sequences are in one order."""

    items: Sequence[Item]
    predictions: Sequence[Prediction]
    logits: NDArray[np.float32]
    novelty: NDArray[np.float32]
    skipped: Sequence[Skipped]

    @property
    def truth(self) -> metrics.Indices:
        return np.array([item.target for item in self.items], np.int64)

    @property
    def predicted(self) -> metrics.Indices:
        return np.array([CLASSES.index(p.top) for p in self.predictions], np.int64)


def answer(
    model: Model, items: Sequence[Item], *, batch: int = BATCH, progress: Callable[[int], None] = lambda _: None
) -> Answers:
    """Ask the model about every image; an unreadable one is skipped and named. Raises DataError if all are."""
    kept: list[Item] = []
    skipped: list[Skipped] = []
    logits, novelty, turned = [], [], []
    for pictures, chunk in batches(items, model.size, batch=batch, skipped=skipped.append, progress=progress):
        one, two, three = model.look(pictures)
        logits.append(one)
        novelty.append(two)
        turned.append(three)
        kept += map(with_header_age, chunk)
    if not kept:
        raise DataError(f"none of {len(items)} images can be read; see that the root folder is the manifest's")
    all_logits, all_novelty = np.concatenate(logits), np.concatenate(novelty)
    predictions = model.calibration.predictions(all_logits, all_novelty, model.digest, np.concatenate(turned))
    return Answers(kept, predictions, all_logits[:, : len(CLASSES)], all_novelty, skipped)


def milliseconds(model: Model, items: Sequence[Item], most: int = 40) -> dict[str, Any]:
    """Mean time of one image alone, in ms: reading and preparing, and the network; on which device."""
    pictures: list[NDArray[np.uint8]] = []
    began = time.perf_counter()
    for item in items[:most]:
        try:
            pictures.append(picture_of(item.path, model.size))
        except UNREADABLE:
            continue
    read = time.perf_counter() - began
    for picture in pictures[:5]:
        model(picture[None])
    began = time.perf_counter()
    for picture in pictures:
        model(picture[None])
    ran = time.perf_counter() - began
    count = max(len(pictures), 1)
    return {"n": len(pictures), "prepare": 1000 * read / count, "network": 1000 * ran / count, "device": model.device}


def table1(items: Sequence[Item]) -> dict[str, Any]:
    """The paper's Table 1: images of each class in each split, with patients and sources."""
    splits = sorted(
        {item.split or "all" for item in items}, key=lambda s: ({"train": 0, "val": 1, "test": 2}.get(s, 3), s)
    )
    rows: dict[str, Any] = {}
    for name in (*CLASSES, "total"):
        mine = [item for item in items if name in (item.label, "total")]
        counts = Counter(item.split or "all" for item in mine)
        rows[name] = {
            "splits": {split: counts[split] for split in splits},
            "images": len(mine),
            "patients": len({item.patient for item in mine}),
            "sources": dict(Counter(item.source or "unknown" for item in mine).most_common()),
        }
    return rows


def figures(answers: Answers, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Every figure of the answers, ready for JSON; shares in 0…1, intervals at 95 %."""
    truth, predicted = answers.truth, answers.predicted
    confidence = np.array([p.confidence for p in answers.predictions])
    right = predicted == truth
    named = np.array([p.class_name for p in answers.predictions])
    trusted = named != UNCERTAIN
    aged = with_age(answers.items, predicted)
    known = sum(item.age is not None and item.label in CHESTS for item in answers.items)
    return {
        "n": len(truth),
        "patients": len({item.patient for item in answers.items}),
        "skipped": {"n": len(answers.skipped), "images": [[str(s.path), s.reason] for s in answers.skipped]},
        "pixels": {"n": len(truth)} | _macro(answers.items, truth, predicted, resamples, seed),
        "with_age": {"n": len(truth), "chests_with_age": known} | _macro(answers.items, truth, aged, resamples, seed),
        "classes": _classes(truth, predicted),
        "sources": _sources(answers.items, right, trusted),
        "confusion": metrics.confusion(truth, predicted).tolist(),
        "routing": _routing(truth, named, right, trusted, answers.predictions),
        "calibration": {
            "error": metrics.calibration_error(confidence, right),
            "reliability": metrics.reliability(confidence, right),
        },
        "coverage": metrics.coverage_curve(confidence, right),
        "views": views(answers),
        "inverted": sum(p.inverted for p in answers.predictions),
    }


def views(answers: Answers) -> list[dict[str, Any]]:
    """For each known view: the images, and how many are named correctly, wrongly, or not at all."""
    rows = []
    for name in VIEWS:
        said = [p.view for item, p in zip(answers.items, answers.predictions, strict=True) if item.projection == name]
        if said and any(said):
            right, unsure = said.count(name), said.count(UNCERTAIN)
            low, high = metrics.binomial_interval(right, len(said) - unsure)
            rows.append({"view": name, "n": len(said), "right": right, "wrong": len(said) - right - unsure,
                         "uncertain": unsure, "low": low, "high": high})  # fmt: skip
    return rows


def with_age(items: Sequence[Item], predicted: metrics.Indices) -> metrics.Indices:
    """Predictions where a chest's class follows the age, if it is known."""
    adult, child = (CLASSES.index(name) for name in CHESTS)
    followed = predicted.copy()
    for place, item in enumerate(items):
        if item.age is not None and predicted[place] in (adult, child):
            followed[place] = child if item.age < ADULT else adult
    return followed


def _macro(
    items: Sequence[Item], truth: metrics.Indices, predicted: metrics.Indices, resamples: int, seed: int
) -> dict[str, Any]:
    matrix = metrics.confusion(truth, predicted)
    present = matrix.sum(axis=1) > 0
    intervals = metrics.bootstrap(truth, predicted, [item.patient for item in items], resamples=resamples, seed=seed)
    return {
        name: {"value": float(values[present].mean()), "low": intervals[name][0], "high": intervals[name][1]}
        for name, values in zip(("recall", "precision", "f1"), metrics.scores(matrix), strict=True)
    } | {"accuracy": float((truth == predicted).mean())}


def _classes(truth: metrics.Indices, predicted: metrics.Indices) -> dict[str, Any]:
    matrix = metrics.confusion(truth, predicted)
    rows = zip(CLASSES, *metrics.scores(matrix), matrix.sum(axis=1), np.diagonal(matrix), strict=True)
    return {
        name: {"n": int(n), "recall": float(r), "precision": float(p), "f1": float(f),
               "recall_interval": metrics.binomial_interval(int(hits), int(n))}
        for name, r, p, f, n, hits in rows
    }  # fmt: skip


def _sources(items: Sequence[Item], right: NDArray[np.bool_], trusted: NDArray[np.bool_]) -> list[dict[str, Any]]:
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        places[item.source or "unknown", item.label].append(place)
    return [
        {"source": source, "class": label, "n": len(mine), "right": int(right[mine].sum()),
         "recall": float(right[mine].mean()), "uncertain": int((~trusted[mine]).sum())}
        for (source, label), mine in sorted(places.items())
    ]  # fmt: skip


def _routing(
    truth: metrics.Indices,
    named: NDArray[np.str_],
    right: NDArray[np.bool_],
    trusted: NDArray[np.bool_],
    predictions: Sequence[Prediction],
) -> dict[str, Any]:
    """What a rule on `class` would do: how much is answered, and what would reach the wrong AI node."""
    wrong = {}
    for index, name in enumerate(CLASSES):
        strangers = truth != index
        taken = int((strangers & (named == name)).sum())
        wrong[name] = {"others": int(strangers.sum()), "taken": taken,
                       "share": taken / max(int(strangers.sum()), 1),
                       "upper_bound": metrics.upper_bound(taken, int(strangers.sum()))}  # fmt: skip
    answered = int(trusted.sum())
    return {
        "answered": answered,
        "coverage": float(trusted.mean()),
        "precision": float(right[trusted].mean()) if answered else 0.0,
        "novel": sum(p.novel for p in predictions),
        "wrong_routes": wrong,
    }


def worst(answers: Answers, most: int = 24) -> list[tuple[Item, Prediction]]:
    """The mistakes that the model was surest of, surest first."""
    wrong = [(i, p) for i, p in zip(answers.items, answers.predictions, strict=True) if i.label != p.top]
    return sorted(wrong, key=lambda pair: -pair[1].confidence)[:most]


def evaluate(
    model: Model, items: Sequence[Item], *, everything: Sequence[Item] = (), resamples: int = 10_000,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Any], Answers]:  # fmt: skip
    """All figures of a model on `items`, and its answers; `everything` is the whole set, for Table 1."""
    answers = answer(model, items, progress=progress)
    about = {"network": model.name, "size": model.size, "parameters": model.parameters, "digest": model.digest}
    found = {"model": about, "table1": table1(everything or items)} | figures(answers, resamples=resamples)
    return found | {"milliseconds": milliseconds(model, answers.items)}, answers


def write_predictions(answers: Answers, path: Path) -> None:
    """CSV, readable by its owner only: one line for each image, with a probability column for each class."""
    with private(path) as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", "class", "confidence", *(f"p_{name}" for name in CLASSES)])
        for item, p in zip(answers.items, answers.predictions, strict=True):
            chances = (f"{value:.6f}" for value in p.probabilities)
            writer.writerow([str(item.path), item.label, p.top, p.class_name, f"{p.confidence:.6f}", *chances])


def private(path: Path) -> Any:
    """A new text file of mode 0600; an old one is replaced."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", newline="", encoding="utf-8")
