"""`known.safetensors` in a model's folder: features of images that its network was trained on, and of pinned ones.

A model that is adapted to a hospital must not get worse on other hospitals' images, and a user does not have those.
Their pooled features are enough to fit a head and to judge it, and take 2 kB an image. The file belongs to one set of
weights.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from router.flow import CLASSES
from router.model import files
from router.model.architecture import WIDTH
from router.model.mobilenet_v1 import MobileNetV1
from router.training.adapting import Labelled
from router.training.data import DataError, Item
from router.training.pictures import outputs

FILE = "known.safetensors"
VERSION = "1"
LIMIT = 64 << 20
"""The most bytes of the file that are read."""
MOST_LEARNED, MOST_PINNED = 240, 200
"""Images of a class, at most: to learn from, and to judge by."""


@dataclass(frozen=True, slots=True)
class KnownImages:
    """Features of images to learn from (split train), and of those to judge by (`pinned`, split val)."""

    learned: Labelled
    pinned: Labelled

    @classmethod
    def of(cls, network: MobileNetV1, items: Sequence[Item], size: int) -> KnownImages:
        """Look at images of a set with splits. Raises DataError if it has none of a split."""
        real = [item for item in items if item.split == "val" and not item.is_synthetic]
        learned, pinned = (
            outputs(network, _some(chosen, most), size)
            for chosen, most in (([i for i in items if i.split == "train"], MOST_LEARNED), (real, MOST_PINNED))
        )
        halves = [one.features.astype(np.float16).astype(np.float32) for one in (learned, pinned)]
        return cls(Labelled.certainly(halves[0], learned.truth), Labelled.certainly(halves[1], pinned.truth))

    @classmethod
    def read(cls, directory: Path, digest: str) -> KnownImages | None:
        """Of a model's folder, for the weights with this digest; None if there are none. Raises DataError."""
        path = directory / FILE
        if not path.is_file():
            return None
        try:
            files.must_be_regular(path, LIMIT)
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            parts = [_checked(found[f"{name}.features"], found[f"{name}.classes"]) for name in ("learned", "pinned")]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({type(error).__name__}); copy the model's folder again"
            ) from error
        if about.get("version") != VERSION or about.get("digest") != digest:
            raise DataError(f"{path}: belongs to other weights; copy the model's folder again")
        return cls(*parts)

    def write(self, directory: Path, digest: str) -> None:
        """Write the file whole or not at all."""
        tensors = {}
        for name, part in (("learned", self.learned), ("pinned", self.pinned)):
            tensors[f"{name}.features"] = part.features.astype(np.float16)
            tensors[f"{name}.classes"] = part.truth.astype(np.uint8)
        files.replace(directory / FILE, save(tensors, {"version": VERSION, "digest": digest}))


def _checked(features: NDArray[Any], classes: NDArray[Any]) -> Labelled:
    """Raises ValueError unless they are finite features with a class each."""
    fits = features.shape == (len(classes), WIDTH) and classes.ndim == 1 and len(classes) > 0
    if not fits or features.dtype != np.float16 or classes.dtype != np.uint8 or classes.max() >= len(CLASSES):
        raise ValueError(FILE)
    if not np.isfinite(features).all():
        raise ValueError(FILE)
    return Labelled.certainly(features.astype(np.float32), classes.astype(np.int64))


def _some(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of each class, as even between sources as there are images; the same on every machine."""
    groups: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        groups[item.label][item.source].append(item)
    chosen: list[Item] = []
    for label in sorted(groups):
        sources = [sorted(groups[label][name], key=lambda item: str(item.path)) for name in sorted(groups[label])]
        for source in sources:
            random.Random(label).shuffle(source)  # noqa: S311 - a choice that must repeat
        taken = 0
        while taken < most and any(sources):
            for source in (one for one in sources if one):
                if taken < most:
                    chosen.append(source.pop())
                    taken += 1
    return chosen
