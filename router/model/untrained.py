"""A valid model folder with untrained weights: for tests, and for measuring without a trained model. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from router.model import reference
from router.model.architecture import COUNTER, shapes
from router.model.card import Card, save_weights


def save_random_model(directory: Path, *, size: int = 64, seed: int = 0) -> Card:
    """Kernels as a network has them before its training, and norms that change nothing."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes().items():
        if name.startswith("novelty.") or name.endswith((COUNTER, "_bn.bias", "running_mean")):
            weights[name] = np.zeros(shape, np.int64 if name.endswith(COUNTER) else np.float32)
        elif "_bn." in name:
            weights[name] = np.ones(shape, np.float32)
        else:
            inputs = np.prod(shapes()[name.replace("bias", "weight")][1:])
            weights[name] = (rng.uniform(-1, 1, shape) / np.sqrt(inputs)).astype(np.float32)
    return save_weights(weights, directory, size=size, answers=reference.computed(weights, size))
