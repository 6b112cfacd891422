"""Calibration says how far to believe, folds judge on strangers, and shipping types no figure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.card import Card
from router.training.calibrate import fit_limit, fit_novelty, fit_temperature, fit_thresholds
from router.training.data import DataError, Item, deal, read_manifest
from router.training.evaluate import answer, read_model
from router.training.metrics import upper_bound
from router.training.recipe import Recipe
from router.training.train import train
from shipping.audit import fit_calibration, fit_view, named_by, novelty, pooled, routes
from shipping.folds import FOLDS, Withheld, remove_groups, remove_patients, run
from shipping.folds import figures as fold_figures
from shipping.ship import KINDS, licence_text, ship
from tests.unit.training_set import make_set, read_rows, write_manifest

SMALL = Recipe(size=32, epochs=1, batch=12, rate=1e-3, augmentation="none")


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
    thresholds, borrowed = fit_thresholds(chances, truth, floor=0.5)
    assert borrowed == []
    for index, name in enumerate(CLASSES[:4]):
        taken = (top == index) & (truth != index) & (sure >= thresholds[name])
        strangers = int((truth != index).sum())
        assert upper_bound(int(taken.sum()), strangers) <= 0.005
        looser = (top == index) & (truth != index) & (sure >= thresholds[name] - 0.02)
        assert upper_bound(int(looser.sum()), strangers) > 0.005
    assert thresholds["others"] == 0.5
    floored, _ = fit_thresholds(chances, truth, floor=0.95)
    assert {floored[name] for name in CLASSES[:4]} == {0.95}


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
    limit = fit_limit(known, truth, 0.99)
    assert (known > limit).mean() < 0.02
    assert (strange > limit).all()


@pytest.mark.parametrize("column", ["sources", "parts"])
def test_the_folds_of_the_shipped_model_name_everything_once(column: str) -> None:
    names = [name for removed in yaml.safe_load(FOLDS.read_text())[column].values() for name in removed]
    assert len(names) == len(set(names))


def by_source(items: list[Item]) -> dict[str, list[Item]]:
    pool = [item for item in items if item.split != "test"]
    return {name: [item for item in pool if item.source == source] for name, source in (("one", "a"), ("two", "b"))}


def test_folds_by_patient_take_every_image_once_and_no_patient_twice(tmp_path: Path) -> None:
    items = read_manifest(make_set(tmp_path, 24), tmp_path)
    folds = remove_patients(items, 3)
    assert sorted(item.path for removed in folds.values() for item in removed) == sorted(item.path for item in items)
    patients = [{item.patient for item in removed} for removed in folds.values()]
    assert not patients[0] & patients[1] | patients[1] & patients[2] | patients[0] & patients[2]
    assert all({item.label for item in removed} == set(CLASSES) for removed in folds.values())


def test_folds_by_group_take_what_the_file_says(tmp_path: Path) -> None:
    items = read_manifest(make_set(tmp_path, 12), tmp_path)
    groups = tmp_path / "groups.yaml"
    groups.write_text("sources: {one: [a]}\nparts: {hands: [hand]}\n")
    assert {item.source for item in remove_groups("sources", items, groups)["one"]} == {"a"}
    handed = [replace(item, part="hand") for item in items]
    assert {item.label for item in remove_groups("parts", handed, groups)["hands"]} == {"others"}
    with pytest.raises(DataError, match="no image of this set belongs to fold hands"):
        remove_groups("parts", items, groups)


@dataclass(frozen=True)
class Judged:
    """A set, and the folder and figures of its folds."""

    manifest: Path
    items: list[Item]
    folds: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    root = tmp_path_factory.mktemp("judged")
    manifest = make_set(root, 12)
    items = deal(read_manifest(manifest, root))
    found = run(by_source(items), items, SMALL, root / "folds", say=quiet)
    return Judged(manifest, items, root / "folds", found)


@pytest.mark.slow
def test_folds_judge_what_they_did_not_see_and_never_the_test_split(judged: Judged) -> None:
    foreign = Withheld.read(judged.folds)
    assert judged.found["n"] == sum(item.split != "test" for item in judged.items) == len(foreign.truth)
    assert set(foreign.source[foreign.fold == "one"]) == {"a"}
    assert json.loads((judged.folds / "figures.json").read_text())["macro_f1"] == judged.found["macro_f1"]
    said: list[str] = []
    run(by_source(judged.items), judged.items, SMALL, judged.folds, say=said.append)
    assert said == []


@pytest.mark.slow
def test_shipping_writes_a_small_model_with_its_own_figures(judged: Judged, tmp_path: Path) -> None:
    copytree(judged.manifest.parent, tmp_path, dirs_exist_ok=True, ignore=ignore_patterns("folds"))
    manifest = tmp_path / "manifest.csv"
    items = deal(read_manifest(manifest, tmp_path))
    train(replace(SMALL, seed=3), items, tmp_path / "run", device="cpu", say=quiet)
    for kind in KINDS:  # the same answers for each kind
        copytree(judged.folds, tmp_path / "folds" / kind)
    out = tmp_path / "model"
    ship(tmp_path / "run", manifest, tmp_path, tmp_path / "folds", out)
    assert not (out / "LICENSE").exists()
    card = ship(
        tmp_path / "run", manifest, tmp_path, tmp_path / "folds", out,
        failures="- Ours: knees.\n", licence="Ours.\n{restricted}\n",
    )  # fmt: skip
    assert Card.read(out).digest == card.digest
    assert (out / "model.safetensors").stat().st_size < 9_000_000
    test = [item for item in items if item.split == "test"]
    answers = answer(read_model(out, "cpu"), test)
    assert card.figures["test"]["looks"] == 2
    right = float((answers.truth == answers.predicted).sum())
    assert right == sum(row["recall"] * row["n"] for row in card.figures["test"]["classes"].values())
    page = (out / "MODEL_CARD.md").read_text()
    assert set(card.figures["routes"]) == {"sources it never saw", "test split"}
    told = ("## Who gets what", "simulated header", "was scored 2 times", card.digest, "| a | none (", "- Ours: knees.",
            "Generated pictures")  # fmt: skip
    for words in ("not a medical device", *told):
        assert words in page
    assert (out / "LICENSE").read_text().startswith("Ours.\n")

    rows = read_rows(manifest)
    write_manifest(manifest, rows[:-1])
    with pytest.raises(DataError, match="was not trained on"):
        ship(tmp_path / "run", manifest, tmp_path, None, out)


def test_the_licence_names_what_may_not_be_used_freely_and_nothing_else() -> None:
    text = licence_text("{restricted}", {
        "free": {"CC BY 4.0 (seen 2020)": 5, "CC0/public domain": 2},
        "mixed": {"CC BY 4.0": 3, "CC BY-NC-ND 4.0 [journals]": 7},
        "silent": {"not stated": 4}, "bound": {"RSNA: non-commercial research": 1}, "odd": {"  [journals]": 6},
    })  # fmt: skip
    named = [line for line in text.splitlines() if line.startswith("- ")]
    assert named == ["- mixed: CC BY-NC-ND 4.0 [journals] (7)", "- silent: not stated (4)",
                     "- bound: RSNA: non-commercial research (1)", "- odd: [journals] (6)"]  # fmt: skip


def withheld(truth: list[int], named: list[int], **columns: list[str]) -> Withheld:
    """Answers that are sure of `named`, and no picture is novel."""
    logits = np.zeros((len(truth), 5), np.float32)
    logits[np.arange(len(truth)), named] = 9
    texts = {name: np.array(columns.get(name, [name] * len(truth))) for name in ("image", "source", "part", "fold")}
    heads, view = np.zeros((len(truth), 0), np.float32), np.full(len(truth), "")
    return Withheld(logits, np.array(truth), np.zeros(len(truth), np.float32), **texts, heads=heads, view=view)


def test_the_views_of_answers_set_their_temperature_and_their_figures() -> None:
    plain = withheld([3] * 8, [3] * 8)
    assert fit_view(plain) == 1.0
    assert "views" not in fold_figures(plain)
    outputs = np.zeros((8, 5), np.float32)
    outputs[:, 0] = 3.0
    known = replace(plain, heads=outputs, view=np.array(["frontal"] * 6 + ["lateral", ""]))
    assert fit_view(known) > 1.0
    assert fold_figures(known)["views"] == {
        "n": 7, "right": 6, "sources": [
            {"source": "source", "view": "frontal", "n": 6, "right": 6},
            {"source": "source", "view": "lateral", "n": 1, "right": 0},
        ],
    }  # fmt: skip


def test_routes_count_what_reaches_a_wrong_ai_node() -> None:
    spine, others = CLASSES.index("spine"), CLASSES.index("others")
    truth = np.array([spine, spine, spine, others])
    found = routes(np.array(["spine", "abdominal", "uncertain", "spine"]), truth)
    assert (found["wrong"]["k"], found["wrong"]["n"], found["coverage"]["k"]) == (2, 4, 3)
    assert found["routes"]["spine"]["wrong"]["k"] == 1
    assert found["routes"]["spine"]["wrong"]["n"] == 1
    assert found["routes"]["spine"]["coverage"]["k"] == 2
    assert found["routes"]["abdominal"]["wrong"]["n"] == 4


@pytest.mark.slow
def test_a_fold_of_patients_is_scored_by_thresholds_fitted_without_it() -> None:
    """Fold b is wrong and sure of it: a calibration that had seen it would trust nothing at that confidence."""
    truth, count = [i % 5 for i in range(1500)], 1500
    images = [str(i) for i in range(count)]
    good = withheld(truth, truth, image=images, fold=["a"] * count)
    some, few = truth[:200], 200
    bad = withheld(some, [(t + 1) % 5 for t in some], image=[f"b{i}" for i in range(few)], fold=["b"] * few)
    found = pooled(withheld(truth, truth, image=[f"c{i}" for i in images]), good + bad)
    assert found["wrong"]["k"] == sum(CLASSES[(t + 1) % 5] != "others" for t in some)


def test_what_is_novel_is_believed_at_no_confidence_and_raises_no_threshold() -> None:
    truth, spine, others = [i % 5 for i in range(1500)], CLASSES.index("spine"), CLASSES.index("others")
    known, strangers = withheld(truth, truth), withheld([others] * 50, [spine] * 50)
    assert fit_calibration(known, known + strangers)[0].thresholds["spine"] > 0.9
    novel = replace(strangers, novelty=np.full(50, 5, np.float32))
    calibration, _ = fit_calibration(known, known + novel)
    assert calibration.thresholds["spine"] == 0.9
    assert set(named_by(calibration, novel.logits, novel.novelty)) == {"uncertain"}


def test_a_part_is_judged_without_what_was_known_of_it() -> None:
    truth, others = [i % 5 for i in range(1500)], CLASSES.index("others")
    images = [str(i) for i in range(1500)]
    known = withheld(truth, truth, image=images)
    parts = withheld([others] * 4, [others, 0, 0, others], image=["h1", "h2", "c1", "c2"],
                     part=["hand", "hand", "ct", "ct"], fold=["x", "x", "y", "y"])  # fmt: skip
    found = novelty(known, known, parts)
    assert (found["all"]["k"], found["all"]["n"]) == (2, 4)
    assert found["parts"]["hand"]["k"] == found["families"]["hands"]["k"] == 1
    assert found["families"]["computed tomography"]["n"] == 2
