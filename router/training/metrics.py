"""Figures from labels and predictions; plain numpy, each one small enough to be checked by hand.

`truth` and `predicted` are class indices (n,) in the order of CLASSES, `probabilities` is (n, 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.flow import CLASSES

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
COUNT = len(CLASSES)


def confusion(truth: Indices, predicted: Indices) -> NDArray[np.int64]:
    """Counts (5, 5): row is the label, column the prediction."""
    return np.bincount(truth * COUNT + predicted, minlength=COUNT * COUNT).reshape(COUNT, COUNT)


def scores(matrix: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Recall, precision and F1 of each class from confusion counts (…, 5, 5); 0 where nothing was predicted."""
    matrix = np.asarray(matrix, np.float64)
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    labelled, named = matrix.sum(axis=-1), matrix.sum(axis=-2)
    recall = np.divide(hit, labelled, out=np.zeros_like(hit), where=labelled > 0)
    precision = np.divide(hit, named, out=np.zeros_like(hit), where=named > 0)
    both = recall + precision
    f1 = np.divide(2 * recall * precision, both, out=np.zeros_like(hit), where=both > 0)
    return recall, precision, f1


def macro_f1(truth: Indices, predicted: Indices) -> float:
    """The mean F1 of the classes that have labels."""
    matrix = confusion(truth, predicted)
    present = matrix.sum(axis=1) > 0
    return float(scores(matrix)[2][present].mean()) if present.any() else 0.0


def bootstrap(
    truth: Indices, predicted: Indices, patients: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of macro recall, precision and F1: patients drawn with replacement within each class."""
    drawn = resampled_scores(truth, predicted, patients, resamples=resamples, seed=seed)
    return {name: interval(values) for name, values in drawn.items()}


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def resampled_scores(
    truth: Indices, predicted: Indices, patients: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> dict[str, Floats]:
    """Macro recall, precision and F1 of every resample (resamples,).

    Two networks asked about the same images with one seed are drawn the same patients, so that their differences pair.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros((resamples, COUNT, COUNT))
    names = np.asarray(patients)
    for label in range(COUNT):
        mine = truth == label
        if not mine.any():
            continue
        own, place = np.unique(names[mine], return_inverse=True)
        table = np.zeros((len(own), COUNT))
        np.add.at(table, (place, predicted[mine]), 1)
        for begin in range(0, resamples, 500):
            rows = min(500, resamples - begin)
            often = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=rows)
            drawn[begin : begin + rows, label] = often @ table
    present = np.bincount(truth, minlength=COUNT) > 0
    return {
        name: values[:, present].mean(axis=1)
        for name, values in zip(("recall", "precision", "f1"), scores(drawn), strict=True)
    }


def binomial_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of a share; two-sided at `level`. (0, 1) where n is 0."""
    tail = (1 - level) / 2
    return _least(hits, n, tail), upper_bound(hits, n, 1 - tail)


def upper_bound(hits: int, n: int, level: float = 0.95) -> float:
    """One-sided Clopper–Pearson upper bound of a share; 1 where n is 0."""
    if n == 0 or hits >= n:
        return 1.0
    return _bisect(lambda p: _at_most(hits, n, p) > 1 - level)


def _least(hits: int, n: int, tail: float) -> float:
    if n == 0 or hits == 0:
        return 0.0
    return _bisect(lambda p: 1 - _at_most(hits - 1, n, p) < tail)


def _bisect(still_below: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if still_below(middle) else (low, middle)
    return (low + high) / 2


def _at_most(hits: int, n: int, p: float) -> float:
    """The chance of at most `hits` of n at share p."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    k = np.arange(hits + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return float(np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p)).sum())


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> list[dict[str, float]]:
    """Equal bins of confidence: from, count, mean confidence, share right. Empty bins are left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "from": b / bins,
            "n": int((place == b).sum()),
            "confidence": float(confidence[place == b].mean()),
            "right": float(right[place == b].mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: the mean gap between confidence and share right, weighted by count."""
    table = reliability(confidence, right, bins)
    return sum(row["n"] * abs(row["confidence"] - row["right"]) for row in table) / max(len(confidence), 1)


def coverage_curve(confidence: Floats, right: NDArray[np.bool_], points: int = 50) -> list[dict[str, float]]:
    """What share is answered and how much of that is right, when the most confident are answered first."""
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    n = len(order)
    counts = sorted({max(1, round(n * (i + 1) / points)) for i in range(points)}) if n else []
    return [
        {"coverage": c / n, "precision": float(hits[c - 1] / c), "confidence": float(confidence[order[c - 1]])}
        for c in counts
    ]


def share(hits: int, n: int) -> dict[str, Any]:
    """Hits of n with the Clopper–Pearson interval and the one-sided bound, both at 95 %."""
    low, high = binomial_interval(hits, n)
    return {"k": hits, "n": n, "share": round(hits / max(n, 1), 5), "low": round(low, 5), "high": round(high, 5),
            "upper_95": round(upper_bound(hits, n), 5)}  # fmt: skip
