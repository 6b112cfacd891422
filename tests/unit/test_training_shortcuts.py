"""The transforms of the shortcut table change what they say they change, and the table counts changed answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from router.flow import CLASSES
from router.pixels.prepare import field
from router.training.data import Item, deal, read_manifest
from router.training.evaluate import Model
from shipping.shortcuts import TRANSFORMS, Transform, _donor, equalised, on_margin_of, shortcuts, tight
from tests.unit.training_set import make_set, texture


@pytest.fixture
def body() -> Image.Image:
    return Image.fromarray(texture(3, np.random.default_rng(0))).resize((120, 90))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_gives_another_grey_image(name: str, body: Image.Image) -> None:
    donor = Image.new("L", (200, 160), 10)
    donor.paste(body.resize((60, 60)), (20, 30))
    changed = TRANSFORMS[name].change(body.copy(), donor)
    assert changed.mode == "L"
    assert changed.size != body.size or changed.tobytes() != body.tobytes()


def test_the_body_is_laid_on_the_donors_field() -> None:
    body = Image.fromarray(np.random.default_rng(1).integers(90, 110, (80, 80), np.uint8))
    donor = Image.new("L", (200, 160), 7)
    donor.paste(Image.fromarray(np.random.default_rng(2).integers(150, 250, (80, 80), np.uint8)), (60, 40))
    top, left, bottom, right = field(donor)
    changed = np.asarray(on_margin_of(body, donor))
    assert changed.shape == (160, 200)
    assert (changed[:38] == 7).all()
    assert abs(int(np.median(changed[top:bottom, left:right])) - 100) < 12


def test_local_equalisation_spreads_each_place_of_its_own() -> None:
    ramp = np.tile(np.linspace(0, 255, 256, dtype=np.float32), (256, 1))
    faint = (ramp * 0.5 + np.random.default_rng(3).normal(0, 4, (256, 256))).clip(0, 255).astype(np.uint8)
    found = np.asarray(equalised(Image.fromarray(faint), Image.fromarray(faint)), np.float32)
    assert found[:, 100:120].std() > 1.5 * faint[:, 100:120].std()


class Brightness(Model):
    """Answers 0 for a dark picture and 4 for a bright one: a network that has learned nothing but polarity."""

    def __init__(self) -> None:
        super().__init__(self._answer, "brightness", 64, 0, "none")

    def _answer(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        bright = pictures[:, :, :32].mean(axis=(1, 2)) > pictures[:, :, 32:].mean(axis=(1, 2))
        logits = np.zeros((len(pictures), 5), np.float32)
        logits[np.arange(len(pictures)), np.where(bright, 4, 0)] = 1
        return logits, np.zeros(len(pictures), np.float32)


def test_the_table_counts_changed_answers(tmp_path: Path) -> None:
    items = [item for item in deal(read_manifest(make_set(tmp_path, 12), tmp_path)) if item.split == "test"]
    model: Model = Brightness()
    table = shortcuts(model, items)
    assert set(table) == set(TRANSFORMS)
    assert table["inverted polarity"]["changed"] == table["inverted polarity"]["n"] == len(items)
    assert table["mirrored"]["changed"] == len(items)
    assert table["child on an adult's margin"]["n"] == sum(item.label == "pediatric_chest" for item in items)


@pytest.mark.parametrize(
    ("donors", "lenders"),
    [
        ((), {"abdominal", "pediatric_chest", "spine", "others"}),
        (("spine",), {"spine"}),
        (("spine", "adult_chest"), {"spine"}),  # never of its own class
        (("adult_chest",), {"adult_chest"}),  # nobody lends: its own
    ],
)
def test_margins_are_lent_by_another_class_and_only_by_those_named(donors: tuple[str, ...], lenders: set[str]) -> None:
    items = [Item(Path(), label, "") for label in CLASSES for _ in range(3)]
    place, rng = 3 * CLASSES.index("adult_chest"), np.random.default_rng(0)
    found = [_donor(items, place, Transform(tight, donors=donors), rng) for _ in range(60)]
    assert {items[donor].label for donor in found} == lenders
    assert lenders != {"adult_chest"} or set(found) == {place}
