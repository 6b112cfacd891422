"""What a network answers in float32 about pictures that anybody can make again: every engine is held against it.

Whoever saves a model writes these answers into its folder (`reference.json`), as torch gives them. Where a folder has
none that belong to its weights, they are computed here, with numpy alone. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.model import files
from router.model.architecture import Weights
from router.model.calibration import Calibration
from router.model.engines.folding import Floats, Layer, folded

FILE = "reference.json"
LIMIT = 1 << 16
"""Bytes of the file."""
VERSION = 1
MOST_APART, MOST_NOVELTY_APART = 0.05, 0.15
"""How far a probability, and (relatively) a novelty, may be from the reference."""
PICTURES = 6
TOP = np.float32(6)
"""Where ReLU6 ends."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Logits (n, outputs) and novelty (n,) of the sample pictures."""

    logits: Floats
    novelty: Floats

    def agrees(self, logits: Floats, novelty: Floats) -> bool:
        """Whether these are answers of the same network about the same pictures."""
        chances = Calibration().probabilities
        apart = np.abs(chances(logits) - chances(self.logits)).max()
        novelty_apart = np.abs(novelty - self.novelty) / (np.abs(self.novelty) + 0.1)
        return bool(apart <= MOST_APART and novelty_apart.max() <= MOST_NOVELTY_APART)

    def content(self, digest: str, size: int) -> bytes:
        """The file's, for weights with this digest and pictures of this size."""
        about = {"version": VERSION, "digest": digest, "size": size, "pictures": _digest(sample_pictures(size))}
        answers = {"logits": self.logits.tolist(), "novelty": self.novelty.tolist()}
        return json.dumps(about | answers, indent=1, allow_nan=False).encode() + b"\n"

    def write(self, directory: Path, digest: str, size: int) -> None:
        """Write the file whole or not at all. Answers that are not finite are no reference: then there is no file."""
        if np.isfinite(self.logits).all() and np.isfinite(self.novelty).all():
            files.replace(directory / FILE, self.content(digest, size))
        else:
            (directory / FILE).unlink(missing_ok=True)


def read(directory: Path, digest: str, size: int, outputs: int) -> Reference | None:
    """What the folder says of the network with these weights; None where it says nothing that could be used."""
    path = directory / FILE
    try:
        files.must_be_regular(path, LIMIT)
        raw = json.loads(path.read_bytes())
        about = (raw["version"], raw["digest"], raw["size"], raw["pictures"])
        if about != (VERSION, digest, size, _digest(sample_pictures(size))):
            return None
        logits, novelty = (np.array(raw[name], np.float32) for name in ("logits", "novelty"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    if logits.shape != (PICTURES, outputs) or novelty.shape != (PICTURES,):
        return None
    return Reference(logits, novelty) if np.isfinite(logits).all() and np.isfinite(novelty).all() else None


def computed(weights: Weights, size: int) -> Reference:
    """The network in numpy, a picture at a time: slow, and as plain as it can be."""
    layers = folded(weights)
    features = np.stack([_features(layers, picture) for picture in sample_pictures(size)])
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    whitened = features @ weights["novelty.project"].T + weights["novelty.offset"]
    distances = np.square(whitened[:, None] - weights["novelty.centres"][None]).mean(axis=2)
    return Reference(logits, distances.min(axis=1))


def _features(layers: Sequence[Layer], picture: NDArray[np.uint8]) -> Floats:
    x: Floats = picture[..., None].astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    for layer in layers:
        x = np.clip(_convolve(x, layer) + layer.bias, np.float32(0), TOP)
    pooled: Floats = x.mean(axis=(0, 1))
    return pooled


def _convolve(x: Floats, layer: Layer) -> Floats:
    """Rows, columns, channels. A layer weighs one pixel of all channels, or three by three pixels of one."""
    outputs, _, kernel, _ = layer.weights.shape
    if kernel == 1:
        mixed: Floats = x.reshape(-1, x.shape[2]) @ layer.weights[:, :, 0, 0].T
        return mixed.reshape(*x.shape[:2], outputs)
    x = np.pad(x, (layer.padding, layer.padding, (0, 0)))
    rows, columns = ((length - kernel) // layer.stride + 1 for length in x.shape[:2])
    found = np.zeros((rows, columns, outputs), np.float32)
    for i, j in np.ndindex(kernel, kernel):
        taps = x[i : i + layer.stride * rows : layer.stride, j : j + layer.stride * columns : layer.stride]
        found += taps * layer.weights[:, 0, i, j]
    return found


def sample_pictures(size: int) -> NDArray[np.uint8]:
    """Some pictures (n, size, size) of smooth shadows and noise, always the same."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size]
    pictures = []
    for _ in range(PICTURES):
        shadows = sum(
            rng.uniform(-1, 1) * np.exp(-(((x - rng.random()) / 0.2) ** 2 + ((y - rng.random()) / 0.3) ** 2))
            for _ in range(6)
        )
        noisy = shadows + rng.normal(0, 0.05, (size, size))
        pictures.append((255 * (noisy - noisy.min()) / np.ptp(noisy)).astype(np.uint8))
    return np.stack(pictures)


def _digest(pictures: NDArray[Any]) -> str:
    return hashlib.sha256(pictures.tobytes()).hexdigest()
