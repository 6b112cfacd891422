"""The figures are those that a hand would count, and the report gives nothing away and breaks on nothing."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from router.cli import evaluate as evaluate_command
from router.cli import train as train_command
from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.untrained import save_random_model
from router.pixels.wrap import wrap_image
from router.training import metrics
from router.training.data import Item, Skipped, read_all, read_manifest, with_header_age
from router.training.evaluate import (
    Answers,
    answer,
    evaluate,
    figures,
    read_model,
    table1,
    with_age,
    worst,
    write_predictions,
)
from router.training.report import write_report
from tests.unit.training_set import make_set, read_rows, write_manifest


@pytest.fixture
def run() -> Callable[..., Any]:
    """Call `train` or `evaluate` as the command line does."""
    app = typer.Typer()
    app.command("train")(train_command.command)
    app.command("evaluate")(evaluate_command.command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("stated", "written", "known"),
    [("006Y", None, 6.0), ("045Y", None, 45.0), (None, None, None), ("006Y", 50.0, 50.0)],
)
def test_the_age_is_that_of_the_manifest_else_of_the_header(
    tmp_path: Path, stated: str | None, written: float | None, known: float | None
) -> None:
    path = wrap_image(np.zeros((40, 40), np.uint8), tmp_path / "a.dcm", age=stated)
    item = with_header_age(Item(path, "adult_chest", "p", age=written))
    assert item.age == (known if known is None else pytest.approx(known, abs=1.0))
    kept, _, _ = read_all([Item(path, "adult_chest", "p", age=written)], 64)
    assert kept == [item]


def test_a_chest_of_a_folder_follows_the_age_of_its_header(tmp_path: Path) -> None:
    save_random_model(tmp_path / "model", size=64)
    path = wrap_image(np.zeros((40, 40), np.uint8), tmp_path / "a.dcm", age="006Y")
    answers = answer(read_model(tmp_path / "model", "cpu"), [Item(path, "pediatric_chest", "p")])
    assert figures(answers, resamples=100)["with_age"]["chests_with_age"] == 1


@pytest.mark.parametrize("content", [b"", b"no DICOM" * 40])
def test_a_header_that_cannot_be_read_says_no_age(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    for name in ("a.dcm", "absent.dcm", "a.png"):
        assert with_header_age(Item(tmp_path / name, "spine", "p")).age is None


def answers_of(
    labels: list[int], tops: list[int], sure: list[float], ages: list[float | None] | None = None
) -> Answers:
    """Answers with these labels and tops; `sure` is the confidence of each."""
    chances = np.array([[s if i == top else (1 - s) / 4 for i in range(5)] for top, s in zip(tops, sure, strict=True)])
    logits = np.log(chances).astype(np.float32)
    items = [
        Item(Path(f"/x/{n}.png"), CLASSES[label], f"p{n}", "test", "here", age=ages[n] if ages else None)
        for n, label in enumerate(labels)
    ]
    novelty = np.zeros(len(labels), np.float32)
    predictions = Calibration(thresholds=dict.fromkeys(CLASSES, 0.7)).predictions(logits, novelty, "m")
    return Answers(items, predictions, logits, novelty, [Skipped(Path("/x/broken.png"), "OSError")])


def test_figures_by_hand() -> None:
    found = figures(answers_of([0, 0, 1, 1, 3], [0, 1, 1, 1, 0], [0.9, 0.8, 0.95, 0.6, 0.9]), resamples=200)
    assert found["n"] == 5
    assert found["classes"]["abdominal"]["recall"] == pytest.approx(1 / 2)
    assert found["classes"]["abdominal"]["precision"] == pytest.approx(1 / 2)
    assert found["classes"]["adult_chest"]["f1"] == pytest.approx(0.8)
    assert found["pixels"]["recall"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["confusion"][0] == [1, 1, 0, 0, 0]
    assert found["routing"]["answered"] == 4
    assert found["routing"]["precision"] == pytest.approx(2 / 4)
    assert found["routing"]["wrong_routes"]["adult_chest"]["taken"] == 1
    assert found["skipped"]["n"] == 1
    # Two mistakes of 0.8 and 0.9, and right answers of 0.9, 0.95, 0.6; each in a bin with none or its like.
    assert found["calibration"]["error"] == pytest.approx((abs(1.8 - 1) + 0.8 + 0.05 + 0.4) / 5, abs=1e-6)


def test_intervals_hold_the_figure_and_narrow_with_patients() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(5), 40)
    predicted = np.where(rng.random(200) < 0.1, (truth + 1) % 5, truth)
    alone = metrics.bootstrap(truth, predicted, [str(i) for i in range(200)], resamples=2000)
    shared = metrics.bootstrap(truth, predicted, [f"{i // 20}" for i in range(200)], resamples=2000)
    value = metrics.macro_f1(truth, predicted)
    assert alone["f1"][0] < value < alone["f1"][1]
    assert alone["f1"] == metrics.bootstrap(truth, predicted, [str(i) for i in range(200)], resamples=2000)["f1"]
    certain = metrics.bootstrap(truth, truth, ["one"] * 200, resamples=100)
    assert certain["f1"] == (1.0, 1.0)
    assert shared["f1"] != alone["f1"]


def test_an_age_decides_between_chests_and_nothing_else() -> None:
    answers = answers_of([2, 1, 3, 2], [1, 2, 3, 1], [0.9] * 4, ages=[8.0, 16.0, 8.0, None])
    followed = with_age(answers.items, answers.predicted)
    assert [CLASSES[i] for i in followed] == ["pediatric_chest", "adult_chest", "spine", "adult_chest"]
    found = figures(answers, resamples=100)
    assert found["with_age"]["n"] == 4
    assert found["with_age"]["chests_with_age"] == 2
    assert found["with_age"]["accuracy"] == pytest.approx(3 / 4)
    assert found["pixels"]["accuracy"] == pytest.approx(1 / 4)


def test_the_surest_mistake_is_the_worst() -> None:
    answers = answers_of([0, 0, 0, 0], [1, 0, 1, 2], [0.6, 0.99, 0.9, 0.7])
    assert [item.patient for item, _ in worst(answers, 2)] == ["p2", "p3"]


def test_table_1_counts_images_patients_and_sources(tmp_path: Path) -> None:
    table = table1(read_manifest(make_set(tmp_path, 12), tmp_path))
    assert table["spine"] == {
        "splits": {"train": 8, "val": 2, "test": 2}, "images": 12, "patients": 6, "sources": {"a": 6, "b": 6},
    }  # fmt: skip
    assert table["total"]["images"] == 60


def test_the_report_is_private_escaped_and_can_leave_pictures_out(tmp_path: Path) -> None:
    manifest = make_set(tmp_path, 6)
    save_random_model(tmp_path / "model", size=32)
    rows = read_rows(manifest)
    for row in rows:
        row["source"] = "<script>alert(1)</script>"
    items = read_manifest(write_manifest(manifest, rows), tmp_path)
    found, answers = evaluate(read_model(tmp_path / "model", "cpu"), items, resamples=100)
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(0o644)
    write_report(found, answers, 32, path)
    page = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "burnt-in names" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    write_report(found, answers, 32, path, pictures=False)
    assert "data:image" not in path.read_text()


@pytest.mark.parametrize(("sure", "share"), [(0.9, "50.00%"), (0.5, "–")])
def test_the_share_of_what_was_answered_is_a_dash_where_nothing_was(tmp_path: Path, sure: float, share: str) -> None:
    answers = answers_of([0, 1], [0, 2], [sure] * 2)
    found = figures(answers, resamples=100) | {
        "table1": table1(answers.items), "milliseconds": {"network": 1.0, "prepare": 1.0, "device": "none"},
        "model": {"network": "mobilenet_v1", "size": 32, "parameters": 1, "digest": ""},
    }  # fmt: skip
    write_report(found, answers, 32, tmp_path / "report.html", pictures=False)
    assert f"{share} of these answers are right" in (tmp_path / "report.html").read_text()


def test_predictions_as_csv(tmp_path: Path) -> None:
    answers = answers_of([0, 1], [0, 2], [0.9, 0.5])
    write_predictions(answers, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["path", "label", "predicted", "class", "confidence"]
    assert [rows[1][key] for key in ("label", "predicted", "class")] == ["adult_chest", "pediatric_chest", "uncertain"]
    assert sum(float(rows[0][f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "p.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_train_then_evaluate_from_the_command_line(tmp_path: Path, run: Callable[..., Any]) -> None:
    manifest = make_set(tmp_path, 12)
    out = tmp_path / "run"
    trained = run("train", "--manifest", manifest, "--size", 32, "--epochs", 1, "--recipe", "shipped", "--out", out,
                  "--device", "cpu")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    asked = ["evaluate", "--model", out / "best", "--manifest", manifest, "--root", tmp_path, "--resamples", 100]
    scored = run(*asked, "--json", "--report", tmp_path / "r.html", "--predictions", tmp_path / "p.csv")
    assert scored.exit_code == 0, scored.output
    found = json.loads(scored.stdout)
    assert set(found["routes"]) == {"no body part in the header", "simulated header"}
    assert "Who gets what" in (tmp_path / "r.html").read_text()
    assert found["split"] == "test"
    assert found["n"] == 10
    assert found["model"]["parameters"] > 3_000_000
    plain = run("evaluate", "--model", out / "best", "--manifest", manifest, "--split", "all", "--resamples", 100)
    assert "Table 1" in plain.output
    assert "n = 60" in plain.output


@pytest.mark.slow
def test_what_it_was_trained_on_is_not_scored_where_nobody_wrote_splits(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    manifest = make_set(tmp_path, 12)
    write_manifest(manifest, [row | {"split": ""} for row in read_rows(manifest)])
    out = tmp_path / "run"
    trained = run("train", "--manifest", manifest, "--size", 32, "--epochs", 1, "--out", out, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    asked = ["evaluate", "--model", out / "best", "--manifest", manifest, "--resamples", 100, "--json"]
    found = json.loads(run(*asked).stdout)
    assert (found["split"], found["n"] < 20) == ("test", True)
    write_manifest(manifest, [row | {"split": ""} for row in read_rows(manifest)[1:]])
    assert [json.loads(run(*asked, *more).stdout)["split"] for more in ([], ["--split", "val"])] == ["all", "val"]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["train"], 2, "give either --folder DIR or --manifest"),
        (["train", "--folder", "x", "--root", "y"], 2, "--root needs --manifest"),
        (["train", "--folder", "nowhere"], 2, "--folder nowhere: no such folder"),
        (["train", "--manifest", "missing.csv"], 2, "--manifest missing.csv: no such file"),
        (["train", "--manifest", __file__, "--root", "nowhere"], 2, "--root nowhere: no such folder"),
        (["train", "--folder", "x", "--recipe", "secret"], 2, "one of paper, shipped"),
        (["train", "--folder", "x", "--network", "vgg"], 2, "--network vgg: use one of mobilenet_v1"),
        (["train", "--folder", "x", "--device", "tpu"], 2, "one of auto, cpu, cuda"),
        (["train", "--folder", "x", "--weights", "none"], 2, "--weights none: no such file"),
        (["evaluate", "--folder", "x", "--device", "tpu"], 2, "one of auto, cpu, cuda"),
        (["evaluate", "--folder", "nowhere"], 2, "--folder nowhere: no such folder"),
        (["evaluate", "--manifest", "missing.csv"], 2, "--manifest missing.csv: no such file"),
        (["evaluate", "--folder", "x", "--model", "nowhere"], 2, "--model nowhere: no such folder"),
        (["evaluate", "--manifest", __file__], 1, "no column file and label"),
    ],
)
def test_wrong_use_is_one_line(run: Callable[..., Any], arguments: list[str], code: int, line: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert line in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_without_torchvision_it_says_so_before_it_looks_at_an_image(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    result = run("train", "--folder", "nowhere", "--network", "resnet34")
    assert (result.exit_code, result.output.startswith("resnet34 needs torchvision")) == (1, True)
    assert len(result.output.splitlines()) == 1


def test_weights_that_are_none_are_one_line(tmp_path: Path, run: Callable[..., Any]) -> None:
    manifest = make_set(tmp_path, 12)
    (tmp_path / "w").write_bytes(b"not weights")
    result = run("train", "--manifest", manifest, "--size", 32, "--weights", tmp_path / "w", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "header" in result.output.strip().splitlines()[-1].lower()


def test_evaluate_without_such_a_split_or_card(tmp_path: Path, run: Callable[..., Any]) -> None:
    manifest = make_set(tmp_path, 6)
    wrong_split = run("evaluate", "--model", tmp_path, "--manifest", manifest, "--split", "dev")
    assert (wrong_split.exit_code, wrong_split.output.strip()) == (2, "--split dev: use one of train")
    no_card = run("evaluate", "--model", tmp_path, "--manifest", manifest)
    assert (no_card.exit_code, "give a model's folder, one with a card.json" in no_card.output) == (1, True)
