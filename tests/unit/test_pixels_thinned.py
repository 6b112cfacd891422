"""Looking at fewer samples must not change what is seen: the quick path held against the whole image."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from router.dicom.uids import HTJ2K_LOSSLESS, JPEG_2000_LOSSLESS
from router.model.load import Model, load
from router.pixels import grey_of, render
from router.pixels.wrap import wrap_image

MOST_APART, MOST_APART_WAVELETS = 0.03, 0.05
"""Of a probability. The second is what an engine may differ by, too."""


@pytest.fixture(scope="module")
def model() -> Model:
    return load(None, device="cpu", engine="torch")


@pytest.mark.slow
@pytest.mark.shared
def test_the_model_sees_the_same_in_the_thinned_and_in_the_whole_image(
    shared: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((shared / "data" / "dicom" / "1-radiographs").iterdir())
    quick = {path: render(path, model.card.size, frozenset())[0] for path in files}
    monkeypatch.setattr(sys.modules["router.pixels.render"], "_reduction", lambda form, size, fine: 0)
    compared = 0
    for path in files:
        whole, _ = render(path, model.card.size, frozenset())
        if whole is None:
            assert quick[path] is None
            continue
        one, other = model.predict(np.stack([quick[path], whole]))  # type: ignore[list-item]
        assert (one.top, one.class_name) == (other.top, other.class_name), path.name
        assert np.abs(np.subtract(one.probabilities, other.probabilities)).max() <= MOST_APART, path.name
        compared += 1
    assert compared >= 15


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("syntax", [JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS])
def test_the_model_sees_the_same_in_a_lower_resolution_of_wavelets(
    shared: Path, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, syntax: str
) -> None:
    quick: dict[Path, NDArray[np.uint8]] = {}
    for path in sorted((shared / "data" / "dicom" / "1-radiographs").iterdir()):
        with suppress(ValueError):
            packed = wrap_image(grey_of(path), tmp_path / f"{path.name}.dcm", transfer_syntax=syntax)
            quick[packed] = picture(packed, model)
    monkeypatch.setattr(sys.modules["router.pixels.render"], "_reduction", lambda form, size, fine: 0)
    for path, seen in quick.items():
        one, other = model.predict(np.stack([seen, picture(path, model)]))
        assert (one.top, one.class_name) == (other.top, other.class_name), path.name
        assert np.abs(np.subtract(one.probabilities, other.probabilities)).max() <= MOST_APART_WAVELETS, path.name
    assert len(quick) >= 15


def picture(path: Path, model: Model) -> NDArray[np.uint8]:
    found, seen = render(path, model.card.size, frozenset())
    assert found is not None, seen.reason
    return found


def test_stripes_as_fine_as_pixels_do_not_come_out_as_waves(tmp_path: Path) -> None:
    """An anti-scatter grid: every second column brighter. Taking every fourth column alone would see flat or wavy."""
    y, x = np.mgrid[0:2000, 0:1600]
    body = 1500 + 1000 * np.exp(-(((x - 800) / 400) ** 2 + ((y - 1000) / 500) ** 2))
    plain = wrap_image(body.astype(np.uint16), tmp_path / "plain.dcm")
    striped = wrap_image((body + np.where(x % 2 == 0, 300, -300)).astype(np.uint16), tmp_path / "striped.dcm")
    one, other = (render(path, 224, frozenset())[0] for path in (plain, striped))
    assert one is not None
    assert other is not None
    middle = slice(20, -20)
    assert np.abs(one[middle, middle].astype(int) - other[middle, middle]).mean() < 6


@pytest.mark.parametrize("shape", [(671, 673), (672, 900), (1345, 1347), (2500, 2048)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_shape_keeps_its_crop_and_greys(tmp_path: Path, shape: tuple[int, int], dtype: type) -> None:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    grey = (np.iinfo(dtype).max // 4 * (1 + np.sin(x / 90) * np.cos(y / 70))).astype(dtype)
    path = wrap_image(grey, tmp_path / "x.dcm")
    picture, seen = render(path, 224, frozenset())
    assert picture is not None
    assert seen.facts.crop is not None
    assert seen.facts.crop[2] <= shape[0]
    assert seen.facts.crop[3] <= shape[1]
    assert picture.std() > 20
