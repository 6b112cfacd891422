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
SURE = 0.8
"""How likely a picture must be inverted by both looks: as it came, and turned."""


def look_right(
    run: Callable[[Pictures], tuple[Floats, Floats]], pictures: Pictures, calibration: Calibration
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """What a network says of pictures (n, size, size), and which of them were turned for it.

    Pictures that may be inverted cost twice the work, all others nothing more.
    """
    logits, novelty = run(pictures)
    turned = calibration.inverted(logits) >= calibration.inverted_threshold
    if not turned.any():
        return logits, novelty, turned
    again, far = run(np.stack([negative(picture) for picture in pictures[turned]]))
    better = by_both_looks(calibration.inverted(logits[turned]), calibration.inverted(again)) >= SURE
    turned[turned] = better
    logits, novelty = logits.copy(), novelty.copy()
    logits[turned], novelty[turned] = again[better], far[better]
    return logits, novelty, turned


def by_both_looks(came: NDArray[np.float64], turned: NDArray[np.float64]) -> NDArray[np.float64]:
    """How likely pictures (n,) are inverted, from the chance of it as they came and that after turning.

    What the two looks have in common says nothing of the polarity: it is that much stranger a picture.
    """
    odds = [np.log(np.clip(chance, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(chance, 1e-9, 1 - 1e-9))
            for chance in (came, turned)]  # fmt: skip
    found: NDArray[np.float64] = 1 / (1 + np.exp((odds[1] - odds[0]) / 2))
    return found


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
