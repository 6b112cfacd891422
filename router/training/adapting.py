"""A head of a hospital's own: fitted on features of its images and of old ones, from where the present head stands.

The layers below the head stay as they are, and so do the heads for view and polarity. Arrays only: no file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name

from router.flow import CLASSES
from router.model.mobilenet_v1 import MobileNetV1, Novelty
from router.training.metrics import Indices

OWN_SHARE = 0.5
"""The share (0…1) of the loss that the hospital's own images have; the old ones have the rest."""
WEAK = 0.5
"""What an image counts that a header labelled; one that a person labelled counts 1."""
SMOOTHING = 0.05
"""Of the labels, as in training: the confidence of the new head stays comparable with that of the old one."""
PULL = 0.003
"""How strongly the head is pulled to where it was: the factor of the squared distance."""
STEPS = 60
"""Steps of L-BFGS at most; it has come to rest before."""
FEWEST = 5
"""Images. A class of which the hospital has fewer gets no centre of its own in the novelty."""
DOUBT = 4.0
"""Images. A hospital's centre of a class lies between its own mean, which counts as many images as it has, and the old
centre, which counts this many."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features of images (n, 1024), their classes (n,), and how much each counts (n,) beside the others."""

    features: NDArray[np.float32]
    truth: Indices
    counts: NDArray[np.float32]

    @classmethod
    def certainly(cls, features: NDArray[np.float32], truth: Indices) -> Labelled:
        return cls(features, truth, np.ones(len(truth), np.float32))

    def __getitem__(self, kept: NDArray[np.bool_]) -> Labelled:
        return Labelled(self.features[kept], self.truth[kept], self.counts[kept])

    def __len__(self) -> int:
        return len(self.truth)


def adapted(network: MobileNetV1, old: Labelled, own: Labelled) -> MobileNetV1:
    """A copy of the network with a new head for the classes, and a novelty that knows the hospital's images."""
    fresh = MobileNetV1(network.head.out_features)
    fresh.load(network.state_dict())
    classes = slice(len(CLASSES))
    weight, bias = network.head.weight.detach()[classes], network.head.bias.detach()[classes]
    new_weight, new_bias = _fit(weight, bias, [(old, 1 - OWN_SHARE), (own, OWN_SHARE)])
    with torch.no_grad():
        fresh.head.weight[classes], fresh.head.bias[classes] = new_weight, new_bias
    fresh.novelty = _novelty(network.novelty, own)
    return fresh.eval()


def _fit(weight: Tensor, bias: Tensor, parts: Sequence[tuple[Labelled, float]]) -> tuple[Tensor, Tensor]:
    features = torch.from_numpy(np.concatenate([known.features for known, _ in parts]))
    truth = torch.from_numpy(np.concatenate([known.truth for known, _ in parts]))
    counts = torch.from_numpy(
        np.concatenate([share * known.counts / known.counts.sum() for known, share in parts]).astype(np.float32)
    )
    moved, shifted = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([moved, shifted], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = F.cross_entropy(F.linear(features, moved, shifted), truth, reduction="none", label_smoothing=SMOOTHING)
        total = (counts * each).sum() + PULL * ((moved - weight).square().sum() + (shifted - bias).square().sum())
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return moved.detach(), shifted.detach()


def _novelty(novelty: Novelty, own: Labelled) -> Novelty:
    """The old centres, and one for each class that the hospital has enough images of."""
    with torch.inference_mode():
        whitened = F.linear(torch.from_numpy(own.features), novelty.project, novelty.offset).numpy()
    centres = novelty.centres.numpy()
    extra = []
    for label in np.unique(own.truth):
        mine = own.truth == label
        if mine.sum() < FEWEST:
            continue
        mean = np.average(whitened[mine], axis=0, weights=own.counts[mine])
        nearest = centres[np.square(centres - mean).sum(axis=1).argmin()]
        count = float(own.counts[mine].sum())
        extra.append((count * mean + DOUBT * nearest) / (count + DOUBT))
    fresh = Novelty(len(novelty.project), len(centres) + len(extra))
    fresh.project.copy_(novelty.project)
    fresh.offset.copy_(novelty.offset)
    fresh.centres.copy_(torch.from_numpy(np.concatenate([centres, *(c[None] for c in extra)]).astype(np.float32)))
    return fresh
