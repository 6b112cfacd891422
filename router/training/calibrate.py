"""Fit how far a network may be believed: temperature, thresholds, and what counts as novel.

Give it answers for images that neither trained the network nor chose its epoch, best from sources it never saw:
confidence at home says nothing abroad. Pure numpy on logits and features; reads no file.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.mobilenet_v1 import Novelty
from router.training.metrics import Floats, Indices, upper_bound

ROUTED = tuple(name for name in CLASSES if name != "others")
"""Classes that lead to an AI node; an image that is wrongly called `others` goes to people."""
OTHERS = 0.5
"""The threshold of `others`: it leads to people, so the model need not be sure."""


def fit_temperature(logits: NDArray[np.floating], truth: Indices) -> float:
    """The temperature with the least negative log likelihood, by golden section between 0.2 and 8."""
    low, high = np.log(0.2), np.log(8.0)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - golden * (high - low), low + golden * (high - low)
        if _loss(logits, truth, np.exp(a)) < _loss(logits, truth, np.exp(b)):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def _loss(logits: NDArray[np.floating], truth: Indices, temperature: float) -> float:
    chance = Calibration(temperature=float(temperature)).probabilities(logits)
    return float(-np.log(np.clip(chance[np.arange(len(truth)), truth], 1e-12, 1)).mean())


def fit_thresholds(
    probabilities: Floats, truth: Indices, *, limit: float = 0.005, floor: float = 0.9, few: int = 600
) -> tuple[dict[str, float], list[str]]:
    """For each class the smallest confidence whose wrong routes are bounded; and the classes that borrowed theirs.

    The wrong-route rate of a class is the share of all images of other classes that it would take; its one-sided
    95 % upper bound must not exceed `limit`. With fewer than `few` images of other classes, or where no confidence
    holds the bound, the strictest threshold of the other classes is taken. None is below `floor`: where hardly anything
    was wrong, the bound alone would let through what the model itself doubts.
    """
    top, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found: dict[str, float] = {}
    borrowed: list[str] = []
    for index, name in enumerate(CLASSES):
        if name not in ROUTED:
            continue
        strangers = int((truth != index).sum())
        wrong = np.sort(confidence[(top == index) & (truth != index)])[::-1]
        allowed = next((k for k in range(len(wrong), -1, -1) if upper_bound(k, strangers) <= limit), None)
        if strangers < few or allowed is None:
            borrowed.append(name)
            continue
        barrier = np.nextafter(wrong[allowed], 2.0) if allowed < len(wrong) else floor
        found[name] = float(np.clip(np.ceil(barrier * 1000) / 1000, floor, 0.999))
    strictest = max(found.values(), default=floor)
    return {name: found.get(name, strictest) if name in ROUTED else OTHERS for name in CLASSES}, borrowed


def fit_novelty(features: NDArray[np.float32], truth: Indices, *, shrinkage: float = 0.1) -> Novelty:
    """Distance to the nearest class of the training images, from their features (n, 1024).

    Mahalanobis with one covariance within all classes (Lee et al. 2018, arXiv:1807.03888), shrunk towards the
    identity so that directions hardly used in training do not decide alone.
    """
    labels, member = np.unique(truth, return_inverse=True)
    means = np.stack([features[member == place].mean(axis=0) for place in range(len(labels))])
    within = np.cov((features - means[member]).T)
    variances, axes = np.linalg.eigh(within)
    variances = np.maximum(variances, 0) + shrinkage * variances.mean() + 1e-9
    # Rounded as the file will hold it before anything else is derived from it.
    project = (axes / np.sqrt(variances)).T.astype(np.float16).astype(np.float32)
    middle = means.mean(axis=0)
    novelty = Novelty(len(project), len(means))
    novelty.project.copy_(torch.from_numpy(project))
    novelty.offset.copy_(torch.from_numpy((-middle @ project.T).astype(np.float32)))
    novelty.centres.copy_(torch.from_numpy(((means - middle) @ project.T).astype(np.float32)))
    return novelty


def fit_limit(novelty: NDArray[np.floating], truth: Indices, share: float) -> float:
    """The novelty that `share` of the images that belong to an AI node stay below."""
    known = novelty[np.isin(truth, [CLASSES.index(name) for name in ROUTED])]
    return float(np.quantile(known if len(known) else novelty, share))
