"""A picture with the wrong polarity (bone black) is recognised, turned, and looked at again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from router.model.calibration import Calibration

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]
MIDDLE = 0.45
"""Where the median grey of a picture lies, as pictures are prepared (`pixels.prepare`)."""
BELIEVED = 0.5
"""A turned picture must look right: less likely inverted than this."""


def look_right(
    run: Callable[[Pictures], tuple[Floats, Floats]], pictures: Pictures, calibration: Calibration
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """What a network says of pictures (n, size, size), and which of them were turned for it.

    Pictures that are likely inverted cost twice the work, all others nothing more.
    """
    logits, novelty = run(pictures)
    turned = calibration.inverted(logits) >= calibration.inverted_threshold
    if not turned.any():
        return logits, novelty, turned
    again, far = run(np.stack([negative(picture) for picture in pictures[turned]]))
    better = calibration.inverted(again) < BELIEVED
    turned[turned] = better
    logits, novelty = logits.copy(), novelty.copy()
    logits[turned], novelty[turned] = again[better], far[better]
    return logits, novelty, turned


def negative(picture: Pictures) -> Pictures:
    """A prepared picture in the other polarity: its black margins stay, and its median is where it was before."""
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    if len(rows) == 0:
        return picture
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    values = 1 - picture[box].astype(np.float32) / 255
    median = float(np.clip(np.median(values), 0.05, 0.95))
    gamma = float(np.clip(np.log(MIDDLE) / np.log(median), 0.5, 2.0))
    turned = np.zeros_like(picture)
    turned[box] = (values**gamma * 255 + 0.5).astype(np.uint8)
    return turned
