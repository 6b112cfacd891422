"""The version of what the network sees, and the picture that it stands for, change together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from router.demo.phantoms import radiograph
from router.flow import PREPROCESSING
from router.model import polarity
from router.pixels import prepare, render
from router.pixels.wrap import wrap_image

SIZE, BLOCK = 224, 32
"""Pixels: of the picture's side, and of a block's."""
APART = 0.1
"""Grey values that a block's mean may be apart: processors round the last bit of a power differently."""
PINNED = {
    "1": (
        (11.71, 78.31, 135.96, 200.28, 134.06, 76.31, 10.99),
        (91.79, 141.54, 86.78, 166.8, 86.13, 143.43, 87.05),
        (77.24, 90.39, 61.49, 155.09, 61.94, 92.22, 73.54),
        (62.52, 78.9, 67.1, 186.59, 78.54, 80.55, 59.23),
        (48.27, 87.59, 80.76, 212.73, 109.45, 88.81, 45.15),
        (33.21, 169.47, 204.8, 202.99, 185.16, 154.76, 29.91),
        (17.21, 184.48, 242.62, 226.21, 245.0, 185.65, 15.02),
    )
}


@pytest.mark.slow
def test_another_picture_is_another_version(tmp_path: Path) -> None:
    """A new picture needs a new PREPROCESSING, a training, and its own line in PINNED. A new phantom needs neither."""
    plate = np.repeat(np.repeat(radiograph("chest"), 2, axis=0), 2, axis=1)  # large enough to be thinned
    picture, _ = render(wrap_image(plate, tmp_path / "chest.dcm"), SIZE, frozenset())
    assert picture is not None
    means = picture.reshape(SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK).mean(axis=(1, 3))
    assert np.abs(means - np.array(PINNED[PREPROCESSING])).max() < APART


def test_a_turned_picture_has_the_middle_grey_of_a_prepared_one() -> None:
    assert polarity.MIDDLE == prepare.MIDDLE
