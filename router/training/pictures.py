"""The one way from labelled files to what a network says: read, prepared, asked a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from router.pixels.prepare import prepare
from router.training.data import DataError, Item, Skipped, read_grey

if TYPE_CHECKING:
    from router.model.mobilenet_v1 import MobileNetV1

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What reading a broken image raises; such an image is skipped."""
BATCH = 32
"""Pictures that a network is asked about at once."""

Pictures = NDArray[np.uint8]


def picture_of(path: Path, size: int) -> Pictures:
    """A file as the network sees it (size, size). Raises OSError or ValueError."""
    return prepare(read_grey(path), size=size)[0]


def batches(
    items: Iterable[Item],
    size: int,
    *,
    batch: int = BATCH,
    skipped: Callable[[Skipped], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Pictures, list[Item]]]:
    """Pictures (n, size, size) with their items, n at most `batch`. An image that cannot be read is told and passed."""
    pictures: list[Pictures] = []
    chunk: list[Item] = []
    for item in items:
        try:
            pictures.append(picture_of(item.path, size))
            chunk.append(item)
        except UNREADABLE as error:
            skipped(Skipped(item.path, type(error).__name__))
        progress(1)
        if len(chunk) == batch:
            yield np.stack(pictures), chunk
            pictures, chunk = [], []
    if chunk:
        yield np.stack(pictures), chunk


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network gave for the images that could be read, in one order."""

    items: list[Item]
    logits: NDArray[np.float32]
    """Of all heads, the class's first."""
    features: NDArray[np.float32]

    @property
    def truth(self) -> NDArray[np.int64]:
        return np.array([item.target for item in self.items], np.int64)


def outputs(
    network: MobileNetV1, items: Sequence[Item], size: int, progress: Callable[[int], None] = lambda _: None
) -> Outputs:
    """Logits and pooled features (n, 1024) of a network for every readable image. Raises DataError if none is."""
    import torch  # late: whoever only reads pictures does not need it

    from router.model.mobilenet_v1 import scale

    kept: list[Item] = []
    features = []
    with torch.inference_mode():
        for pictures, chunk in batches(items, size, progress=progress):
            x = scale(torch.from_numpy(pictures)).contiguous(memory_format=torch.channels_last)
            features.append(network.features(x))
            kept += chunk
        if not kept:
            raise DataError(f"none of {len(items)} images can be read; see that the root folder is the manifest's")
        found = torch.cat(features)
        return Outputs(kept, network.head(found).numpy(), found.numpy())
