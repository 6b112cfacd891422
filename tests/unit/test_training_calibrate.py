"""Calibration says how far to believe, folds judge on strangers, and shipping types no figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.card import Card
from router.training.calibrate import fit_limit, fit_novelty, fit_temperature, fit_thresholds
from router.training.data import DataError, deal, read_manifest
from router.training.evaluate import answer, read_model
from router.training.folds import FOLDS, Foreign, read_folds, run
from router.training.metrics import upper_bound
from router.training.ship import ship
from router.training.train import Recipe, train
from tests.unit.training_set import make_set, read_rows, write_manifest

SMALL = Recipe(size=32, epochs=1, batch=12, rate=1e-3, augmentation="none")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_: str) -> None:
    """Nobody listens."""


def test_the_temperature_of_overconfident_answers_is_found() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 5))
    truth = np.array([rng.choice(5, p=row) for row in Calibration().probabilities(honest)])
    assert fit_temperature(honest * 3, truth) == pytest.approx(3, rel=0.1)


def test_thresholds_bound_wrong_routes() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 6000)
    top = np.where(rng.random(6000) < 0.04, rng.integers(0, 5, 6000), truth)
    sure = np.where(top == truth, rng.uniform(0.6, 1, 6000), rng.uniform(0.3, 0.9, 6000))
    chances = np.full((6000, 5), 0.0) + ((1 - sure) / 4)[:, None]
    chances[np.arange(6000), top] = sure
    thresholds, borrowed = fit_thresholds(chances, truth)
    assert borrowed == []
    for index, name in enumerate(CLASSES[:4]):
        taken = (top == index) & (truth != index) & (sure >= thresholds[name])
        strangers = int((truth != index).sum())
        assert upper_bound(int(taken.sum()), strangers) <= 0.005
        looser = (top == index) & (truth != index) & (sure >= thresholds[name] - 0.02)
        assert upper_bound(int(looser.sum()), strangers) > 0.005
    assert thresholds["others"] == 0.5


def test_few_images_bound_nothing_and_borrow() -> None:
    truth = np.repeat(np.arange(5), 20)
    chances = np.full((100, 5), 0.01) + np.eye(5)[truth] * 0.95
    thresholds, borrowed = fit_thresholds(chances, truth)
    assert borrowed == list(CLASSES[:4])
    assert {thresholds[name] for name in borrowed} == {0.9}


def test_what_is_unlike_everything_known_is_novel() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 5, 500)
    middles = rng.normal(0, 3, (5, 1024))
    features = (middles[truth] + rng.normal(0, 1, (500, 1024))).astype(np.float32)
    novelty = fit_novelty(features, truth)
    with torch.inference_mode():
        known = novelty(torch.from_numpy(features)).numpy()
        strange = novelty(torch.from_numpy(rng.normal(0, 9, (50, 1024)).astype(np.float32))).numpy()
    limit = fit_limit(known, truth)
    assert (known > limit).mean() < 0.02
    assert (strange > limit).all()


def test_the_folds_of_the_shipped_model_name_sources_once() -> None:
    sources = [source for removed in read_folds(FOLDS).values() for source in removed]
    assert len(sources) == len(set(sources))


def test_folds_judge_what_they_did_not_see_and_never_the_test_split(tmp_path: Path) -> None:
    items = deal(read_manifest(make_set(tmp_path, 12), tmp_path))
    found = run({"first": ["a"], "second": ["b"]}, items, SMALL, tmp_path / "folds", say=quiet)
    foreign = Foreign.read(tmp_path / "folds")
    assert found["n"] == sum(item.split != "test" for item in items) == len(foreign.truth)
    assert set(foreign.source[foreign.fold == "first"]) == {"a"}
    assert json.loads((tmp_path / "folds" / "figures.json").read_text())["macro_f1"] == found["macro_f1"]
    said: list[str] = []
    run({"first": ["a"], "second": ["b"]}, items, SMALL, tmp_path / "folds", say=said.append)
    assert said == []
    with pytest.raises(DataError, match="no image comes from nowhere"):
        run({"third": ["nowhere"]}, items, SMALL, tmp_path / "more", say=quiet)


def test_shipping_writes_a_small_model_with_its_own_figures(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, 12)
    items = deal(read_manifest(manifest, tmp_path))
    train(replace(SMALL, seed=3), items, tmp_path / "run", device="cpu", say=quiet)
    run({"first": ["a"], "second": ["b"]}, items, SMALL, tmp_path / "folds", say=quiet)
    out = tmp_path / "model"
    ship(tmp_path / "run", manifest, tmp_path, tmp_path / "folds", out)
    card = ship(tmp_path / "run", manifest, tmp_path, tmp_path / "folds", out)
    assert Card.read(out).digest == card.digest
    assert (out / "model.safetensors").stat().st_size < 8_000_000
    test = [item for item in items if item.split == "test"]
    answers = answer(read_model(out, "cpu"), test)
    assert card.figures["test"]["looks"] == 2
    right = float((answers.truth == answers.predicted).sum())
    assert right == sum(row["recall"] * row["n"] for row in card.figures["test"]["classes"].values())
    page = (out / "MODEL_CARD.md").read_text()
    for words in ("not a medical device", "looked at 2 times", card.digest, "| a | none ("):
        assert words in page
    assert "research" in (out / "LICENSE").read_text()

    rows = read_rows(manifest)
    write_manifest(manifest, rows[:-1])
    with pytest.raises(DataError, match="was not trained on"):
        ship(tmp_path / "run", manifest, tmp_path, None, out)
