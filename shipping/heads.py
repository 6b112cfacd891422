"""Heads for view and polarity on a finished network: its layers, class outputs and thresholds stay as they are.

`python -m shipping.heads --model models/mobilenet_v1 --manifest SET.csv --trained-on SET_OF_THE_MODEL.csv` fits both
heads by logistic regression on features of the set's images of training and validation, judges them with each source
left out once, and writes weights, card and known images anew. Eight bits are to be measured again after it
(`python -m router.training.quantise`).
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the usual name

from router.flow import CLASSES, VIEWS
from router.model.calibration import HEADS, Calibration
from router.model.card import WEIGHTS, Card, save_model
from router.model.mobilenet_v1 import MobileNetV1
from router.model.polarity import SURE, by_both_looks
from router.training.calibrate import fit_temperature
from router.training.data import DataError, Item, deal, digest_of, read_manifest
from router.training.evaluate import evaluate, read_model
from router.training.known_images import KnownImages
from router.training.metrics import share
from router.training.routes import Routes, who_gets_what
from shipping.head_pictures import CLEAN, KINDS, Looked, looked
from shipping.model_card import model_card
from shipping.ship import licences
from shipping.shortcuts import shortcuts

SEEN_BY_EYE = Path(__file__).with_name("views.csv")
"""Views of images for which the set names none. They were read by eye, before anything was fitted."""
VIEW_KINDS = (CLEAN, "white margin", "turned back", "augmented")
"""Pictures that teach the view: an inverted one is turned before its view counts."""
PULL = 1e-4
"""The factor of the squared weights, for features of unit variance."""
STEPS = 80
POWER = 0.4
"""Sources are weighed by size to this power, as in training."""
STRANGE = 0.3
"""What photographs, documents and sections count together beside all radiographs, in learning the polarity."""
LOOK_TWICE = 0.2
"""The least chance of being inverted from which a picture is turned and looked at again."""
ROUTED = CLASSES[:-1]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head: features (n, 1024) to outputs (n, k)."""

    weight: Floats
    bias: Floats

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        return features.astype(np.float32) @ self.weight.T + self.bias


def fit(features: Floats, truth: NDArray[np.int64], weights: NDArray[np.floating], outputs: int) -> Head:
    """Logistic regression on standardised features; `weights` (n,) is how much each counts."""
    x, t = torch.from_numpy(features), torch.from_numpy(truth)
    w = torch.from_numpy((weights / weights.sum()).astype(np.float32))
    mean = w @ x
    spread = (w @ (x - mean).square()).sqrt() + 0.02
    z = (x - mean) / spread
    weight, bias = torch.zeros(outputs, x.shape[1], requires_grad=True), torch.zeros(outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = (w * F.cross_entropy(F.linear(z, weight, bias), t, reduction="none")).sum()
        total = total + PULL * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / spread
    return Head(scaled.numpy(), (bias.detach() - scaled @ mean).numpy())


def balanced(groups: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """A weight for each (value, source): values alike, and within a value sources by the root of their size."""
    sizes = Counter(groups)
    strength = {key: n**POWER * n / (n + 4) for key, n in sizes.items()}
    total: dict[str, float] = defaultdict(float)
    for (value, _), w in strength.items():
        total[value] += w
    return np.array([strength[key] / total[key[0]] / sizes[key] for key in groups])


def fit_view(seen: Looked, taught: Mask) -> Head:
    """From the images of known view among `taught` (n,)."""
    places = [n for n in np.flatnonzero(taught) if seen.items[n].projection]
    weights = balanced([(seen.items[n].projection, seen.items[n].source) for n in places])
    truth = np.array([VIEWS.index(seen.items[n].projection) for n in places])
    features = np.concatenate([seen.features[kind][places] for kind in VIEW_KINDS]).astype(np.float32)
    return fit(features, np.tile(truth, len(VIEW_KINDS)), np.tile(weights, len(VIEW_KINDS)), len(VIEWS))


def fit_polarity(seen: Looked, taught: Mask) -> Head:
    """From all pictures of the radiographs among `taught` (n,). What is no radiograph is never inverted."""
    radiograph = np.array([item.is_radiograph for item in seen.items])
    rows, truths, weights = [], [], []
    for kind, inverted in KINDS.items():
        share_of_kind = 1 / sum(one == inverted for one in KINDS.values())
        for chosen, share_of_all in ((taught & radiograph, 1.0), (taught & ~radiograph, 0.0 if inverted else STRANGE)):
            places = np.flatnonzero(chosen)
            if share_of_all and len(places):
                rows.append(seen.features[kind][places].astype(np.float32))
                truths.append(np.full(len(places), int(inverted)))
                by_source = balanced([("", seen.items[n].source) for n in places])
                weights.append(share_of_kind * share_of_all * by_source)
    return fit(np.concatenate(rows), np.concatenate(truths), np.concatenate(weights), HEADS["inverted"])


@dataclass(frozen=True, slots=True)
class Judged:
    """What heads that never learned from an image's source say of it; NaN where nothing was asked."""

    view: Floats
    """(n, views) of the picture as it is."""
    inverted: dict[str, Floats]
    """The logit (n,) of being inverted, for each kind of picture."""


def judge(seen: Looked) -> Judged:
    """Each source left out once."""
    sources = np.array([item.source for item in seen.items])
    known = np.array([bool(item.projection) for item in seen.items])
    real = np.array([not item.is_synthetic for item in seen.items])
    n = len(seen.items)
    view = np.full((n, len(VIEWS)), np.nan, np.float32)
    inverted = {kind: np.full(n, np.nan, np.float32) for kind in KINDS}
    for source in np.unique(sources[real]):
        left, taught = real & (sources == source), sources != source
        if (left & known).any():
            view[left & known] = fit_view(seen, taught)(seen.features[CLEAN][left & known])
        polarity = fit_polarity(seen, taught)
        for kind, found in inverted.items():
            outputs = polarity(seen.features[kind][left])
            found[left] = outputs[:, 1] - outputs[:, 0]
    return Judged(view, inverted)


def view_figures(items: Sequence[Item], outputs: Floats, new: set[str]) -> dict[str, Any]:
    """How often the top view is right: in all, by body part, and by source and view. `new`: sources that the network
    has no image of."""
    rows = [(item, VIEWS[int(row.argmax())] == item.projection) for item, row in zip(items, outputs, strict=True)
            if np.isfinite(row).all()]  # fmt: skip

    def of(part: Sequence[tuple[Item, bool]]) -> dict[str, Any]:
        return share(sum(right for _, right in part), len(part))

    groups: dict[tuple[str, str, bool], list[bool]] = defaultdict(list)
    for item, right in rows:
        groups[item.source, item.projection, item.label in ROUTED].append(right)
    return {
        "all": of(rows),
        "with_an_ai": of([row for row in rows if row[0].label in ROUTED]),
        "new_sources": of([row for row in rows if row[0].source in new]),
        "views": {view: of([row for row in rows if row[0].projection == view]) for view in VIEWS},
        "sources": [
            {"source": source, "view": view, "with_an_ai": with_an_ai, "new": source in new,
             "n": len(found), "right": sum(found)}
            for (source, view, with_an_ai), found in sorted(groups.items())
        ],
    }  # fmt: skip


def polarity_figures(items: Sequence[Item], inverted: dict[str, Floats], calibration: Calibration) -> dict[str, Any]:
    """How many radiographs are turned that came inverted, and that did not; false alarms by source, of all images."""

    def called(came: str, turned: str) -> NDArray[np.bool_]:
        chances = [1 / (1 + np.exp(-inverted[kind].astype(np.float64))) for kind in (came, turned)]
        found: NDArray[np.bool_] = chances[0] >= calibration.inverted_threshold
        return found & (by_both_looks(chances[0], chances[1]) >= SURE)

    asked = np.isfinite(inverted[CLEAN])
    xray = asked & np.array([item.is_radiograph for item in items])
    right, wrong = called("inverted", "turned back"), called(CLEAN, "turned by mistake")
    twice = inverted[CLEAN] >= np.log(calibration.inverted_threshold / (1 - calibration.inverted_threshold))
    rows = []
    for source in sorted({item.source for item in items}):
        mine = asked & np.array([item.source == source for item in items])
        if mine.any():
            rows.append({"source": source, "n": int(mine.sum()), "alarms": int(wrong[mine].sum()),
                         "inverted": int((mine & xray).sum()), "found": int(right[mine & xray].sum())})  # fmt: skip
    return {
        "found": share(int(right[xray].sum()), int(xray.sum())),
        "alarms": share(int(wrong[xray].sum()), int(xray.sum())),
        "looked_at_twice": share(int(twice[xray].sum()), int(xray.sum())),
        "no_radiographs": share(int(wrong[asked & ~xray].sum()), int((asked & ~xray).sum())),
        "sources": rows,
    }


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
