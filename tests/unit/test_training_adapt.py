"""A hospital's own model: it learns what it is shown, forgets nothing, and is not written where it is worse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from router.cli import adapt as adapt_command
from router.decide.header_words import CHEST
from router.flow import CLASSES, UNCERTAIN, Prediction
from router.model import weights
from router.model.calibration import Calibration
from router.model.card import Card
from router.model.files import shipped_model
from router.model.mobilenet_v1 import Head, MobileNetV1
from router.model.saving import save_model
from router.pixels.wrap import wrap_image
from router.training.adapt import PINNED, refusals
from router.training.adapting import Labelled, adapted
from router.training.calibrate import fit_novelty
from router.training.candidate import pinned_images
from router.training.data import DataError, Item, deal, read_manifest
from router.training.known_images import FILE, KnownImages
from router.training.own_images import _inverted, find, label_of
from router.training.pictures import Outputs
from router.training.routes import Routes
from shipping.adapted import of_model
from tests.unit.training_set import make_set, texture, write_manifest

SIZE = 64
WORDS = {"abdominal": "ABDOMEN", "adult_chest": "CHEST", "pediatric_chest": "CHEST", "spine": "SPINE", "others": "HAND"}
AGES = {"adult_chest": "045Y", "pediatric_chest": "005Y"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the textures of a tiny set: the layers of the shipped one, with a head fitted to the set."""
    folder = tmp_path_factory.mktemp("base")
    items = deal(read_manifest(make_set(folder / "set", each=30), folder / "set"))
    network = MobileNetV1.read(shipped_model() / "model.safetensors")
    network.head = Head(1024, len(CLASSES))
    torch.nn.init.zeros_(network.head.weight)
    known = KnownImages.of(network, items, SIZE)
    network.novelty = fit_novelty(known.learned.features, known.learned.truth)
    network = adapted(network, known.learned, known.learned)
    calibration = Calibration(temperature=0.2, thresholds=dict.fromkeys(CLASSES, 0.5))
    card = save_model(network, folder / "model", size=SIZE, calibration=calibration)
    known.write(folder / "model", card.digest)
    return folder / "model"


@pytest.fixture
def run() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(adapt_command.command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def foreign(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A texture as another hospital takes it: pale and full of grain."""
    pale = 0.3 * texture(label, rng) + rng.normal(90, 40, (SIZE, SIZE))
    return pale.clip(0, 255).astype(np.uint8)


def hospital(
    folder: Path, each: int, look: Callable[[int, np.random.Generator], NDArray[np.uint8]], *, words: bool
) -> list[dict[str, str]]:
    """DICOM files of every class; returns rows of labels."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    rows = []
    for label, name in enumerate(CLASSES):
        for number in range(each):
            file = f"{label * 1000 + number:032x}.dcm"
            wrap_image(look(label, rng), folder / file, age=AGES.get(name))
            if words:
                data_set = dcmread(folder / file)
                data_set.BodyPartExamined = WORDS[name]
                data_set.save_as(folder / file)
            rows.append({"file": file.removesuffix(".dcm"), "label": name, "patient": f"{name}{number}"})
    return rows


@pytest.mark.slow
def test_labels_of_people_make_foreign_images_known(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    labels = write_manifest(tmp_path / "labels.csv", hospital(tmp_path / "blobs", 20, foreign, words=False))
    result = run(tmp_path, "--labels", labels, "--model", base, "--out", tmp_path / "own", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    before, after = found["own"]["people"]
    assert after["right"] > before["right"] + 5
    assert found["pinned"][1]["right"] >= found["pinned"][0]["right"] - 1
    assert found["images"]["labelled_by_people"] == 100
    assert found["images"]["held_out"] == 30
    card = Card.read(tmp_path / "own")
    card.must_fit(weights.read(tmp_path / "own" / "model.safetensors"))
    assert card.trained["adapted_from"] == Card.read(base).digest
    assert card.figures["adapted"]["own"] == found["own"]
    assert KnownImages.read(tmp_path / "own", card.digest) is not None
    assert "adapted to a hospital" in (tmp_path / "own" / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_held_out_images_judge_later_models(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    labels = write_manifest(tmp_path / "labels.csv", hospital(tmp_path / "blobs", 10, foreign, words=False))
    assert run(tmp_path, "--labels", labels, "--model", base, "--out", tmp_path / "own").exit_code == 0
    pinned = tmp_path / "own" / PINNED
    assert pinned.stat().st_mode & 0o777 == 0o600
    assert "spine3" not in pinned.read_text()  # a patient's name stays with those who gave it
    items = read_manifest(pinned, Path("/"))
    judging, left_out = pinned_images(items, Card.read(tmp_path / "own").trained)
    assert (len(judging), left_out) == (15, 35)


@pytest.mark.slow
def test_headers_are_labels_where_the_pixels_agree(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    hospital(tmp_path / "blobs", 12, texture, words=True)
    result = run(tmp_path, "--model", base, "--out", tmp_path / "own", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["images"]["labelled_by_people"] == 0
    assert found["images"]["labelled_by_header"] > 40
    before, after = found["own"]["header"]
    assert after["wrong"] <= before["wrong"]


@pytest.mark.parametrize(
    ("part", "top", "named", "age", "label"),
    [
        ("spine", "spine", UNCERTAIN, None, "spine"),
        ("spine", "abdominal", "abdominal", None, ""),
        (CHEST, "adult_chest", UNCERTAIN, None, ""),
        (CHEST, "adult_chest", "adult_chest", None, "adult_chest"),
        (CHEST, "adult_chest", "adult_chest", 6.0, "pediatric_chest"),
        (CHEST, "pediatric_chest", UNCERTAIN, 40.0, "adult_chest"),
        ("others", "others", "others", None, "others"),
    ],
)
def test_a_header_labels_what_the_pixels_show_as_well(
    part: str, top: str, named: str, age: float | None, label: str
) -> None:
    prediction = Prediction((0.2,) * 5, top, 0.6, 0.0, False, named, "")
    assert label_of(part, age, prediction) == label


@pytest.mark.slow
def test_what_is_worse_is_not_written(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    """Labels of people that are nonsense: the head that learns them would send pinned images elsewhere."""
    rows = hospital(tmp_path / "blobs", 40, texture, words=False)
    wrong = [row | {"label": CLASSES[(CLASSES.index(row["label"]) + 1) % 5]} for row in rows]
    learned = {row["file"] for n, row in enumerate(rows) if n % 4}
    mixed = [w if row["file"] in learned else row for row, w in zip(rows, wrong, strict=True)]
    labels = write_manifest(tmp_path / "labels.csv", mixed)
    result = run(tmp_path, "--labels", labels, "--model", base, "--out", tmp_path / "own", "--json")
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout.splitlines()[-1])["refused"]
    assert not (tmp_path / "own").exists()


def test_each_way_to_be_worse_is_a_reason() -> None:
    same = {"with_ai": 100, "right": 90, "wrong": 2}
    fine: dict[str, Any] = {"own": {"people": [same, same]}, "pinned": [same, same | {"right": 89}]}
    assert refusals(fine) == []
    for own, pinned in (
        (same | {"wrong": 3}, same),
        (same | {"right": 89}, same),
        (same, same | {"wrong": 3}),
        (same, same | {"right": 88}),
    ):
        assert len(refusals({"own": {"people": [same, own]}, "pinned": [same, pinned]})) == 1


def test_only_the_head_changes(base: Path) -> None:
    network = MobileNetV1.read(base / "model.safetensors")
    rng = np.random.default_rng(0)
    known = KnownImages.read(base, Card.read(base).digest)
    assert known is not None
    own = Labelled.certainly(rng.random((40, 1024), np.float32), np.arange(40) % 5)
    new = adapted(network, known.learned, own)
    for name, tensor in network.state_dict().items():
        if not name.startswith(("head", "novelty")):
            assert torch.equal(tensor, new.state_dict()[name])
    with torch.inference_mode():
        x = torch.from_numpy(own.features)
        assert (new.novelty(x) <= network.novelty(x) + 1e-5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "cannot be read"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read"),
        (lambda path: path.unlink(), "--old SET.csv"),
    ],
)
def test_known_images_that_are_damaged_or_absent_are_one_line(
    base: Path, tmp_path: Path, run: Callable[..., Any], change: Callable[[Path], object], message: str
) -> None:
    for file in base.iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    change(tmp_path / "model" / FILE)
    (tmp_path / "blobs").mkdir()
    result = run(tmp_path / "blobs", "--model", tmp_path / "model", "--out", tmp_path / "own")
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_known_images_of_other_weights_are_refused(base: Path) -> None:
    with pytest.raises(DataError, match="other weights"):
        KnownImages.read(base, "0" * 64)


@pytest.mark.slow
def test_a_set_does_where_the_folder_holds_no_known_images(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    card, network = Card.read(base), MobileNetV1.read(base / "model.safetensors")
    save_model(network, tmp_path / "model", size=SIZE, calibration=replace(card.calibration))
    old = make_set(tmp_path / "set", each=24)
    labels = write_manifest(tmp_path / "labels.csv", hospital(tmp_path / "blobs", 8, foreign, words=False))
    result = run(tmp_path / "blobs", "--labels", labels, "--model", tmp_path / "model", "--old", old,
                 "--out", tmp_path / "own")  # fmt: skip
    assert result.exit_code in (0, 1)
    assert "pinned" in result.output


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"file": "absent", "label": "spine"}], "none of its 1 files"),
        ([{"file": "a.dcm", "label": "spine"}], "stands for 2 files"),
    ],
)
def test_labels_that_do_not_fit_the_folder(tmp_path: Path, labels: list[dict[str, str]], message: str) -> None:
    for place in ("x", "y"):
        (tmp_path / "images" / place).mkdir(parents=True)
        (tmp_path / "images" / place / "a.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        find(tmp_path / "images", write_manifest(tmp_path / "labels.csv", labels))


def test_wrong_use_is_one_line(tmp_path: Path, base: Path, run: Callable[..., Any]) -> None:
    for arguments in ([tmp_path / "absent"], [tmp_path, "--labels", tmp_path / "absent.csv"],
                      [tmp_path, "--model", base, "--out", base]):  # fmt: skip
        result = run(*arguments)
        assert result.exit_code == 2
        assert len(result.output.strip().splitlines()) == 1
    assert run(tmp_path, "--model", base, "--out", tmp_path / "own").exit_code == 1  # nothing there


def test_too_few_images_say_how_many_are_needed(base: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    labels = write_manifest(tmp_path / "labels.csv", hospital(tmp_path / "blobs", 2, foreign, words=False))
    result = run(tmp_path, "--labels", labels, "--model", base, "--out", tmp_path / "own")
    assert result.exit_code == 1
    assert "are needed" in result.output


@pytest.mark.slow
def test_a_finished_model_is_judged_on_what_it_never_saw(base: Path, tmp_path: Path) -> None:
    known = read_manifest(base.parent / "set" / "manifest.csv", base.parent / "set")
    fresh = deal(read_manifest(make_set(tmp_path / "set", each=20, seed=9), tmp_path / "set"))
    found = of_model(base, [*known, *fresh], known, Routes.of(None), 40)
    assert found["n"] == sum(item.split != "test" for item in fresh)
    for labels in ("people", "header"):
        before, after = found[labels]["no body part in the header"]
        assert sum(before.values()) == pytest.approx(sum(after.values()), abs=0.2)


def test_only_what_service_would_turn_counts_as_inverted(tmp_path: Path) -> None:
    """One network says after turning that the picture is right now, the other that it is inverted still."""
    grey = np.full((SIZE, SIZE), 60, np.uint8)
    grey[8:-8, 8:-8] = texture(3, np.random.default_rng(0))[8:-8, 8:-8]
    Image.fromarray(grey).save(tmp_path / "a.png")
    looked = np.array([[0, 0, 0, 9, 0, 0, 9]], np.float32)
    found = Outputs([Item(tmp_path / "a.png", "spine", "p")], looked, np.zeros((1, 1024), np.float32))
    calibration = Calibration(heads=("class", "inverted"), inverted_threshold=0.2)
    for again, expected in ((-9.0, True), (9.0, False)):
        row = torch.tensor([[0, 0, 0, 9, 0, 0, again]])
        network = cast(MobileNetV1, lambda _, row=row: (row, torch.zeros(1)))
        assert _inverted(network, calibration, SIZE, found).tolist() == [expected]
    assert not _inverted(network, Calibration(), SIZE, found).any()
