"""Training learns what is there and nothing else, resumes exactly, and says in one line what is wrong with a set."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from router.cli.train import choose_items
from router.model.card import Card, CardError
from router.training.data import DataError, Item, deal, read_folders, read_manifest
from router.training.evaluate import Answers, answer, read_model
from router.training.metrics import macro_f1
from router.training.recipe import Recipe
from router.training.train import _wanted, train
from shipping.folds import Withheld, run
from tests.unit.training_set import make_set, read_rows, write_manifest

TINY = Recipe(size=32, epochs=12, batch=12, rate=3e-3, optimizer="adamw", schedule="one_cycle", augmentation="none")


def quiet(_: str) -> None:
    """Nobody listens."""


def learn(root: Path, recipe: Recipe = TINY, *, shuffled: bool = False, each: int = 36) -> tuple[Path, Answers]:
    manifest = make_set(root, each, shuffled=shuffled)
    items = deal(read_manifest(manifest, root))
    best = train(recipe, items, root / "run", device="cpu", say=quiet)
    return best, answer(read_model(best, "cpu"), [item for item in items if item.split == "test"])


@pytest.mark.slow
def test_training_from_nothing_learns(tmp_path: Path) -> None:
    _, answers = learn(tmp_path)
    assert macro_f1(answers.truth, answers.predicted) > 0.8


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    _, answers = learn(tmp_path, shuffled=True)
    assert macro_f1(answers.truth, answers.predicted) < 0.5


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, 12)
    items = deal(read_manifest(manifest, tmp_path))
    recipe = Recipe(
        size=32, epochs=2, batch=12, rate=1e-3, optimizer="adamw", schedule="one_cycle", augmentation="robust",
        class_shares=(0.2,) * 5, average=0.9, helpers=0.3, smoothing=0.05,
    )  # fmt: skip
    train(recipe, items, tmp_path / "whole", device="cpu", say=quiet)
    train(recipe, items, tmp_path / "cut", device="cpu", say=quiet, stop_after=1)
    train(recipe, items, tmp_path / "cut", device="cpu", say=quiet)
    whole, cut = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "cut"))
    for name, tensor in whole["learner"].items():
        assert torch.equal(tensor, cut["learner"][name]), name
    figures = [
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in state["history"]] for state in (whole, cut)
    ]
    assert figures[0] == figures[1]


def with_views(manifest: Path) -> Path:
    """Views for every image: each third of a class another one, and one class of generated pictures."""
    rows = read_rows(manifest)
    for number, row in enumerate(rows):
        row["view"] = ("AP", "LAT;may be mirrored", "decubitus")[number % 3]
        if row["label"] == "spine":
            row["view"] += ";synthetic"
    return write_manifest(manifest, rows)


@pytest.mark.slow
def test_view_and_polarity_are_learned_beside_the_class(tmp_path: Path) -> None:
    manifest = with_views(make_set(tmp_path, 24))
    items = deal(read_manifest(manifest, tmp_path))
    recipe = Recipe(size=32, epochs=1, batch=12, augmentation="robust", helpers=0.3)
    best = train(recipe, items, tmp_path / "run", device="cpu", say=quiet)
    assert Card.read(best).calibration.heads == ("class", "view", "inverted")
    answers = answer(read_model(best, "cpu"), items[:6])
    assert answers.logits.shape == (6, 5)
    assert all(prediction.view for prediction in answers.predictions)
    plain = train(Recipe(size=32, epochs=1, batch=12), items, tmp_path / "paper", device="cpu", say=quiet)
    assert Card.read(plain).calibration.heads == ("class",)


@pytest.mark.parametrize(
    ("view", "part", "projection"),
    [
        ("AP", "chest", "frontal"), ("LAT;synthetic_drr", "lspine", "lateral"), ("mlo", "mammo", "other"),
        ("glioma", "mr", ""), ("coronal", "ct", ""), ("AP", "photo", ""), ("", "chest", ""), ("unheard of", "hand", ""),
    ],
)  # fmt: skip
def test_the_first_word_of_a_view_is_its_projection(view: str, part: str, projection: str) -> None:
    assert Item(Path("x.png"), "others", "p", view=view, part=part).projection == projection


def test_polarity_is_wanted_of_radiographs_alone() -> None:
    targets = {"class": torch.tensor([0, 4, 1]), "inverted": torch.tensor([0, -1, 0])}
    wanted = _wanted(targets, torch.tensor([0, 1, 2]), torch.tensor([True, True, False]))
    assert wanted["inverted"].tolist() == [1, -1, 0]
    assert targets["inverted"].tolist() == [0, -1, 0]


@pytest.mark.slow
def test_generated_pictures_are_trained_on_and_never_judged(tmp_path: Path) -> None:
    manifest = with_views(make_set(tmp_path, 24))
    items = deal(read_manifest(manifest, tmp_path))
    pool = [item for item in items if item.split != "test"]
    removed = {"half": [item for item in pool if item.source == "a"]}
    recipe = Recipe(size=32, epochs=1, batch=12, augmentation="robust", helpers=0.3)
    found = run(removed, items, recipe, tmp_path / "folds", say=quiet)
    real = [item for item in removed["half"] if item.label != "spine"]
    assert found["n"] == len(real) < len(removed["half"])
    assert found["views"]["n"] == len(real)
    answers = Withheld.read(tmp_path / "folds")
    assert answers.heads.shape == (len(real), 5)


@pytest.mark.slow
def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    items = deal(read_manifest(make_set(tmp_path, 12), tmp_path))
    recipe = Recipe(size=32, epochs=2, batch=8, augmentation="none")
    train(recipe, items, tmp_path / "run", device="cpu", say=quiet, stop_after=1)
    with pytest.raises(DataError, match="another recipe or set"):
        train(Recipe(size=32, epochs=2, batch=8, augmentation="none", seed=1), items, tmp_path / "run", say=quiet)


@pytest.mark.slow
def test_a_corrupt_image_is_named_skipped_and_counted(tmp_path: Path) -> None:
    items = deal(read_manifest(make_set(tmp_path, 12), tmp_path))
    broken = next(item for item in items if item.split == "train")
    broken.path.write_bytes(broken.path.read_bytes()[:100])
    said: list[str] = []
    train(
        Recipe(size=32, epochs=1, batch=8, augmentation="none"), items, tmp_path / "run", device="cpu", say=said.append
    )
    assert any(str(broken.path) in line for line in said)
    assert any("1 skipped" in line for line in said)


def test_an_empty_class_folder_is_an_error_with_the_fix(tmp_path: Path) -> None:
    make_set(tmp_path, 6)
    for path in (tmp_path / "spine").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="spine: an empty class; put images there"):
        read_folders(tmp_path)


def test_folders_are_dealt_by_patient(tmp_path: Path) -> None:
    make_set(tmp_path, 40)
    items = deal(read_folders(tmp_path))
    assert {item.split for item in items} == {"train", "val", "test"}
    assert deal(read_folders(tmp_path)) == items
    share = sum(item.split == "train" for item in items) / len(items)
    assert 0.65 < share < 0.75


def test_a_patient_of_two_classes_is_one_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path, 4)
    for name, patients in {"abdominal": ("0", "1"), "spine": ("0", "2")}.items():
        for patient in patients:
            (tmp_path / name / f"patient-{patient}").mkdir()
            copy(tmp_path / name / "0.png", tmp_path / name / f"patient-{patient}" / "a.png")
    dealt = deal(choose_items(tmp_path, None, None))
    assert capsys.readouterr().err.startswith("1 subfolder names occur in several classes")
    assert len({item.split for item in dealt if item.patient == "patient-0"}) == 1


def test_a_patient_in_two_splits_is_an_error_that_does_not_name_him(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, 12)
    rows = read_rows(manifest)
    torn = next(row for row in rows if row["split"] == "test")
    torn["patient"] = rows[0]["patient"] = "Doe^Jane"
    with pytest.raises(DataError, match="1 patients are in two splits") as caught:
        deal(read_manifest(write_manifest(manifest, rows), tmp_path))
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "chest"}, "manifest.csv:2: label 'chest' is none of"),
        ({"split": "dev"}, "manifest.csv:2: split 'dev' is none of"),
        ({"file": ""}, "manifest.csv:2: no file"),
    ],
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    manifest = make_set(tmp_path, 6)
    rows = read_rows(manifest)
    rows[0] |= change
    with pytest.raises(DataError, match=message):
        read_manifest(write_manifest(manifest, rows), tmp_path)


def test_some_splits_and_not_all_are_an_error(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, 6)
    rows = read_rows(manifest)
    rows[0]["split"] = ""
    with pytest.raises(DataError, match="1 of 30 images have no split"):
        deal(read_manifest(write_manifest(manifest, rows), tmp_path))


@pytest.mark.slow
def test_a_card_of_other_weights_is_refused(tmp_path: Path) -> None:
    items = deal(read_manifest(make_set(tmp_path, 12), tmp_path))
    best = train(
        Recipe(size=32, epochs=1, batch=8, augmentation="none"), items, tmp_path / "run", device="cpu", say=quiet
    )
    card = json.loads((best / "card.json").read_text())
    (best / "card.json").write_text(json.dumps(card | {"digest": "0" * 64}))
    with pytest.raises(CardError, match="not those of the card"):
        read_model(best)
    (best / "card.json").write_text(json.dumps(card | {"preprocessing": "0"}))
    with pytest.raises(CardError, match="prepared by version 0"):
        read_model(best)
    (best / "card.json").write_text(json.dumps(card))
    assert Card.read(best).trained["recipe"]["size"] == 32
    assert np.isfinite(answer(read_model(best), items[:3]).logits).all()
