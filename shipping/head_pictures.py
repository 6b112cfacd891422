"""What the heads for view and polarity learn from: features of several pictures of each image, some of them inverted.

A picture comes inverted in more than one way: the whole image with its margins, or the exposed field alone within a
black shutter. And not everything with a light margin is inverted. The features are kept in a file, for looking takes
minutes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.polarity import negative
from router.pixels.prepare import field, prepare
from router.training import augment
from router.training.data import DataError, Item, read_grey
from router.training.pictures import UNREADABLE

Grey = NDArray[np.uint8]
FRAME = 0.12
"""The width of a margin that is added, as a share of the image's side."""
LENDERS = 60
"""Images that lend their histograms to others."""
WORKERS, CHUNK = 2, 64
"""Threads that make pictures, and images that they make ahead."""
CLEAN = "as it is"
KINDS: dict[str, bool] = {
    CLEAN: False,
    "white margin": False,
    "turned back": False,
    "augmented": False,
    "inverted": True,
    "inverted, black shutter": True,
    "inverted, white margin": True,
    "turned by mistake": True,
    "augmented, inverted": True,
}
"""The pictures of each image, and which of them are inverted."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Features (n, 1024) of each kind of picture, in the order of `items`."""

    items: list[Item]
    features: dict[str, NDArray[np.float16]]


def framed(grey: Grey, level: int) -> Grey:
    """The image with an even margin on all sides."""
    down, across = (round(side * FRAME) for side in grey.shape)
    return np.pad(grey, ((down, down), (across, across)), constant_values=level)


def shuttered(grey: Grey) -> Grey:
    """The exposed field inverted, and black around it."""
    top, left, bottom, right = field(Image.fromarray(grey))
    inverted = np.zeros_like(grey)
    inverted[top:bottom, left:right] = 255 - grey[top:bottom, left:right]
    return inverted


def pictures(grey: Grey, size: int, rng: np.random.Generator, lenders: Sequence[Image.Image]) -> Iterator[Grey]:
    """The pictures (size, size) of an image with bone white, in the order of KINDS."""

    def prepared(changed: Grey) -> Grey:
        return prepare(changed, size=size)[0]

    image = Image.fromarray(grey)
    box = field(image)
    clean, inverted = prepared(grey), prepared(255 - grey)
    yield clean
    yield prepared(framed(grey, 255))
    yield negative(inverted)
    yield augment.robust(image, box, rng, size, lenders)
    yield inverted
    yield prepared(shuttered(grey))
    yield prepared(framed(255 - grey, 255))
    yield negative(clean)
    yield augment.robust(image, box, rng, size, lenders, inverted=True)


def look(
    network: MobileNetV1, items: Sequence[Item], size: int, progress: Callable[[int], None] = lambda _: None
) -> Looked:
    """Features of every readable image. Raises DataError if none is."""
    lenders = [
        Image.fromarray(grey) for grey in map(_read, items[:: max(1, len(items) // LENDERS)]) if grey is not None
    ]

    def shown(item: Item) -> Grey | None:
        grey, seed = _read(item), zlib.crc32(item.path.name.encode())
        return None if grey is None else np.stack(list(pictures(grey, size, np.random.default_rng(seed), lenders)))

    kept: list[Item] = []
    rows: list[NDArray[np.float16]] = []
    with ThreadPoolExecutor(WORKERS) as pool, torch.inference_mode():
        for begin in range(0, len(items), CHUNK):
            chunk = items[begin : begin + CHUNK]
            for item, kinds in zip(chunk, pool.map(shown, chunk), strict=True):
                progress(1)
                if kinds is not None:
                    x = scale(torch.from_numpy(kinds)).contiguous(memory_format=torch.channels_last)
                    rows.append(network.features(x).numpy().astype(np.float16))
                    kept.append(item)
    if not kept:
        raise DataError(f"none of {len(items)} images can be read; see that the root folder is the manifest's")
    found = np.stack(rows)
    return Looked(kept, {kind: found[:, place] for place, kind in enumerate(KINDS)})


def _read(item: Item) -> Grey | None:
    try:
        return read_grey(item.path)
    except UNREADABLE:
        return None


def looked(
    network: MobileNetV1, digest: str, items: Sequence[Item], size: int, file: Path | None,
    progress: Callable[[int], None] = lambda _: None,
) -> Looked:  # fmt: skip
    """As `look`; from the file, if it holds what the network with this digest makes of these images."""
    names = [f"{item.path.parent.name}/{item.path.name}" for item in items]
    if file is not None and file.is_file():
        with np.load(file) as stored:
            if str(stored["digest"]) == digest and set(names) <= (where := _places(stored["image"])).keys():
                places = [where[name] for name in names]
                return Looked(list(items), {kind: stored[kind][places] for kind in KINDS})
    found = look(network, items, size, progress)
    if file is not None:
        image = np.array([f"{item.path.parent.name}/{item.path.name}" for item in found.items])
        np.savez(file, digest=np.array(digest), image=image, **found.features)  # type: ignore[arg-type]
    return found


def _places(images: NDArray[Any]) -> dict[str, int]:
    return {str(name): place for place, name in enumerate(images)}
