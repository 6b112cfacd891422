"""What a model says beside the class: view and polarity, and that a model without them says nothing of either."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from router.config import load as load_config
from router.decide import decide
from router.flow import Caller, Instance, Prediction, Seen
from router.model.calibration import Calibration
from router.model.card import Card, CardError
from router.model.load import load
from router.model.mobilenet_v1 import MobileNetV1
from router.model.polarity import MIDDLE, SURE, by_both_looks, look_right, negative
from router.model.saving import save_model
from router.model.untrained import save_random_model
from router.pixels.prepare import prepare

ALL = ("class", "view", "inverted")
Floats = NDArray[np.float32]


def logits(*, view: tuple[float, ...] = (0, 0, 0), inverted: float = 0.0) -> Floats:
    """A sure spine, with these outputs for the views and the chance of being inverted as a logit."""
    return np.array([[0, 0, 0, 9, 0, *view, 0, inverted]], np.float32)


def one(outputs: Floats, heads: tuple[str, ...] = ALL, *, far: float = 0.0, limit: float = 1.0) -> Prediction:
    calibration = Calibration(heads=heads, novelty_limit=limit)
    return calibration.predictions(outputs, np.array([far], np.float32), "m")[0]


def test_the_view_is_named_where_the_card_trusts_it() -> None:
    sure = one(logits(view=(0, 9, 0)))
    assert (sure.class_name, sure.view, round(sure.view_confidence, 2)) == ("spine", "lateral", 1.0)
    assert one(logits(view=(0, 1, 0))).view == "uncertain"
    assert one(logits(view=(0, 9, 0)), far=2.0).view == "uncertain"


def test_a_model_without_a_view_says_none_and_its_classes_are_as_before() -> None:
    plain = one(logits(view=(0, 9, 0))[:, :5], ("class",))
    assert (plain.view, plain.view_confidence, plain.inverted) == ("", 0.0, False)
    assert plain.probabilities == one(logits(view=(9, 0, 0), inverted=9)).probabilities


def test_the_heads_of_a_card_survive_and_an_old_card_has_the_class_alone(tmp_path: Path) -> None:
    network = MobileNetV1(10)
    save_model(network, tmp_path, size=32, calibration=Calibration(heads=ALL, view_threshold=0.8))
    card = Card.read(tmp_path)
    assert (card.calibration.heads, card.calibration.view_threshold) == (ALL, 0.8)
    assert card.architecture == "mobilenet_v1_heads"
    save_random_model(tmp_path / "old", size=32)
    file = tmp_path / "old" / "card.json"
    raw = json.loads(file.read_text())
    assert raw.pop("heads") == ["class"]
    file.write_text(json.dumps(raw))
    assert Card.read(tmp_path / "old").calibration.heads == ("class",)


@pytest.mark.parametrize("heads", [["view"], ["class", "inverted", "view"], ["class", "age"], []])
def test_heads_that_this_program_does_not_know_are_refused(tmp_path: Path, heads: list[str]) -> None:
    save_random_model(tmp_path, size=32)
    file = tmp_path / "card.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"heads": heads, "architecture": "mobilenet_v1_heads"}))
    with pytest.raises(CardError):
        Card.read(tmp_path)


def test_weights_with_other_outputs_than_their_card_says_never_answer(tmp_path: Path) -> None:
    save_model(MobileNetV1(10), tmp_path, size=32)
    with pytest.raises(CardError, match="have 10 outputs, their card has 5"):
        load(tmp_path, device="cpu", engine="torch", threads=1)


@pytest.mark.slow
def test_every_engine_gives_all_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(MobileNetV1(10), tmp_path, size=32, calibration=Calibration(heads=ALL))
    pictures = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    found = load(tmp_path, device="cpu", engine="torch", threads=1).predict(pictures)
    assert all(prediction.view for prediction in found)
    assert sum(found[0].probabilities) == pytest.approx(1)


def picture() -> NDArray[np.uint8]:
    """Bright bars on dark ground within a letterbox, as `prepare` makes it."""
    y, x = np.mgrid[0:120, 0:80]
    grey = (40 + 150 * (np.sin(x / 5) > 0.6) + y / 4).astype(np.uint8)
    return prepare(grey, size=64)[0]


def test_a_negative_keeps_margins_and_median_and_is_its_own_inverse() -> None:
    shown = picture()
    turned = negative(shown)
    margin = shown.any(axis=0)
    assert 0 < margin.sum() < 64
    assert (turned[:, ~margin] == 0).all()
    assert np.median(turned[:, margin]) / 255 == pytest.approx(MIDDLE, abs=0.06)
    assert np.corrcoef(shown[:, margin].ravel(), turned[:, margin].ravel())[0, 1] < -0.7
    assert np.corrcoef(shown[:, margin].ravel(), negative(turned)[:, margin].ravel())[0, 1] > 0.9
    assert (negative(np.zeros((8, 8), np.uint8)) == 0).all()


def test_what_is_inverted_is_looked_at_again_and_only_that() -> None:
    bright = np.full((1, 8, 8), 200, np.uint8)
    dark = np.full((1, 8, 8), 100, np.uint8)
    asked: list[int] = []

    def run(pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        asked.append(len(pictures))
        rows = [logits(inverted=9)[0] if p.mean() < 110 else logits(view=(9, 0, 0), inverted=-9)[0] for p in pictures]
        return np.stack(rows), np.arange(len(pictures), dtype=np.float32)

    calibration = Calibration(heads=ALL, novelty_limit=9.0)
    outputs, novelty, turned = look_right(run, np.concatenate([bright, dark]), calibration)
    assert asked == [2, 1]
    assert turned.tolist() == [False, True]
    predictions = calibration.predictions(outputs, novelty, "m", turned)
    assert [(p.view, p.inverted) for p in predictions] == [("frontal", False), ("frontal", True)]
    asked.clear()
    look_right(run, bright, calibration)
    assert asked == [1]
    assert not look_right(run, dark, Calibration())[2].any()


def test_a_picture_that_looks_inverted_either_way_is_left_as_it_came() -> None:
    def run(pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        return np.repeat(logits(inverted=9), len(pictures), axis=0), pictures.mean(axis=(1, 2)).astype(np.float32)

    dark = np.full((1, 8, 8), 100, np.uint8)
    _, novelty, turned = look_right(run, dark, Calibration(heads=ALL))
    assert not turned.any()
    assert novelty[0] == 100


def test_what_both_looks_say_in_common_says_nothing_of_the_polarity() -> None:
    came, turned = np.array([0.3, 0.3, 0.99, 0.5]), np.array([0.01, 0.25, 0.98, 0.5])
    assert (by_both_looks(came, turned) >= SURE).tolist() == [True, False, False, False]
    assert by_both_looks(np.array([0.9]), np.array([0.1]))[0] == pytest.approx(0.9)
    assert np.isfinite(by_both_looks(np.array([1.0, 0.0]), np.array([0.0, 1.0]))).all()


RULES = """
destinations: {catch-all: {ae_title: A, host: 10.0.0.1, port: 104}}
rules:
  - {name: inverted, when: {inverted: true}, send: catch-all}
  - {name: lateral, when: {view: lateral}, send: catch-all}
  - {name: another, when: {not: {view: lateral}}, send: catch-all}
otherwise: {send: catch-all}
"""


@pytest.mark.parametrize(
    ("view", "inverted", "rule"),
    [
        ("lateral", False, "lateral"), ("lateral", True, "inverted"), ("frontal", False, "another"),
        ("uncertain", False, "another"), ("", False, "otherwise"),
    ],
)  # fmt: skip
def test_rules_on_view_and_polarity(tmp_path: Path, view: str, inverted: bool, rule: str) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(RULES)
    seen = Seen("decoded", {}, Prediction((0, 0, 0, 1, 0), "spine", 1.0, 0.0, False, "spine", "m", view, 1.0, inverted))
    instance = Instance("0" * 32, 0.0, Caller("A", "B", "10.0.0.1"), "1.2", "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")
    assert decide(load_config(file, {}).rules, instance, seen, enabled=frozenset({"catch-all"})).rule == rule
