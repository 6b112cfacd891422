"""From a trained network to a model's folder: weights, reference answers, card. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from router.model.architecture import Weights
from router.model.calibration import Calibration
from router.model.card import Card, save_weights
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.reference import Reference, sample_pictures


def save_model(
    network: MobileNetV1,
    directory: Path,
    *,
    size: int,
    calibration: Calibration | None = None,
    half: bool = False,
    figures: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Card:
    """Write the folder; `half`: the weights with half of their bits, and the answers of such a network."""
    state = {name: _half(values) if half else values for name, values in network.weights().items()}
    return save_weights(
        state, directory, size=size, answers=answers(state, size),
        calibration=calibration, figures=figures, trained=trained,
    )  # fmt: skip


def _half(values: Any) -> Any:
    return values.astype(np.float16) if values.ndim > 1 else values


def answers(weights: Weights, size: int) -> Reference:
    """What the plain network says of the sample pictures."""
    with torch.inference_mode():
        logits, novelty = MobileNetV1.of(weights)(scale(torch.from_numpy(sample_pictures(size))))
    return Reference(logits.numpy(), novelty.numpy())
