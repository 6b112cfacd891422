"""The model that is shipped: small, whole, as good as its card says, and doubtful where it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from router.flow import CLASSES, Prediction
from router.model.calibration import HEADS
from router.model.card import Card
from router.model.load import load
from router.node.model_store import FILES
from router.pixels.prepare import prepare
from router.training.data import Item, read_grey, read_manifest
from router.training.evaluate import Model, answer, figures, read_model
from router.training.known_images import FILE as KNOWN
from shipping.strangers import phantoms

MODEL = Path(__file__).resolve().parents[2] / "models" / "mobilenet_v1"
CHESTS = {"adult_chest", "pediatric_chest"}


@pytest.fixture(scope="module")
def model() -> Model:
    """On the engine that a node takes on this machine: its answers are what the card promises."""
    return replace(read_model(MODEL, "cpu"), run=load(MODEL, device="cpu", threads=1).run)


@pytest.fixture(scope="module")
def items(shared: Path) -> list[Item]:
    root = shared / "data" / "xray"
    return [item for item in read_manifest(root / "manifest.csv", root) if item.split == "test"]


def test_it_is_small_and_whole() -> None:
    card = Card.read(MODEL)
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 13_000_000  # 3.5 MB of them for `adapt`
    assert {file.name for file in MODEL.iterdir()} == {*FILES, KNOWN}
    assert card.digest in (MODEL / "MODEL_CARD.md").read_text()
    assert "not a medical device" in (MODEL / "MODEL_CARD.md").read_text()
    assert all(0.5 <= card.calibration.thresholds[name] < 1 for name in CLASSES)
    assert np.isfinite(card.calibration.novelty_limit)
    assert card.calibration.heads == tuple(HEADS)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_as_good_as_its_card_says(model: Model, items: list[Item]) -> None:
    found = figures(answer(model, items), resamples=100)
    said = Card.read(MODEL).figures["test"]
    assert found["n"] == said["n"]
    assert found["pixels"]["f1"]["value"] >= 0.95
    assert found["pixels"]["f1"]["value"] == pytest.approx(said["macro"]["f1"][0], abs=0.005)
    assert found["routing"]["coverage"] == pytest.approx(said["answered"], abs=0.01)


@pytest.mark.shared
@pytest.mark.slow
def test_a_film_with_the_wrong_polarity_is_recognised_and_seen_right(model: Model, shared: Path) -> None:
    film = shared / "data" / "dicom" / "1-radiographs" / "dx_rentgenprom_cp1251_j2k_16bit_1416x1420.dcm"
    other = film.with_name("dx_canon_chest_2128x2000_j2k_lossless.dcm")
    pictures = np.stack([prepare(read_grey(file), size=model.size)[0] for file in (film, other)])
    logits, novelty, inverted = model.look(pictures)
    assert inverted.tolist() == [True, False]
    found = model.calibration.predictions(logits, novelty, model.digest, inverted)
    assert [p.top for p in found] == ["adult_chest", "adult_chest"]
    assert [p.inverted for p in found] == [True, False]
    assert max(p.view_confidence for p in found) > 0.9


def predict(model: Model, grey: NDArray[np.uint8]) -> Prediction:
    logits, novelty = model(prepare(grey, size=model.size)[0][None])
    return model.calibration.predictions(logits, novelty, model.digest)[0]


@pytest.mark.slow
def test_what_is_no_radiograph_goes_to_no_ai_node(model: Model) -> None:
    for kind, grey in phantoms(3, seed=1):
        assert predict(model, grey).class_name in ("others", "uncertain"), kind


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("source", ["msk_ct_slab", "imagenet_samples", "rsna_boneage", "busi_us", "synthetic_docs"])
def test_a_slice_a_dog_a_hand_is_no_confident_chest(model: Model, items: list[Item], source: str) -> None:
    answers = answer(model, [item for item in items if item.source == source])
    assert not [p for p in answers.predictions if p.class_name in CHESTS]
