"""Fits heads for view and polarity on features of a network (`head_pictures`), and judges them by sources left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the usual name

from router.flow import CLASSES, VIEWS
from router.model.calibration import HEADS, Calibration
from router.model.polarity import SURE, by_both_looks
from router.training.data import Item
from router.training.metrics import share
from shipping.head_pictures import CLEAN, KINDS, Looked

VIEW_KINDS = (CLEAN, "white margin", "turned back", "augmented")
"""Pictures that teach the view: an inverted one is turned before its view counts."""
PULL = 1e-4
"""The factor of the squared weights, for features of unit variance."""
STEPS = 80
POWER = 0.4
"""Sources are weighed by size to this power, as in training."""
STRANGE = 0.3
"""What photographs, documents and sections count together beside all radiographs, in learning the polarity."""
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
