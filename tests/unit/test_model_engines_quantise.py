"""Eight bits are measured on training images only, and kept only where they change nothing that matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from router.flow import CLASSES, Prediction
from router.model.card import Card
from router.model.engines.folding import folded
from router.model.int8 import FILE, Int8
from router.model.load import sample_pictures
from router.model.mobilenet_v1 import scale
from router.model.saving import save_model
from router.training import quantise
from router.training.data import DataError
from router.training.pictures import Pictures
from router.training.quantise import agreement, convolve, measure, refusals
from tests.unit.test_model_engines import SIZE, awake
from tests.unit.training_set import make_set

pytestmark = pytest.mark.slow

APP = typer.Typer()
APP.command()(quantise.main)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command for a small set and a model's folder; the model is sure of itself, so that little changes."""
    network = awake()
    with torch.no_grad():
        network.head.bias[:] = torch.tensor([0.0, 30.0, 0.0, 0.0, 0.0])
    save_model(network, tmp_path / "model", size=SIZE)
    return ["--manifest", str(make_set(tmp_path / "set")), "--model", str(tmp_path / "model"), "--threads", "1"]


def said(name: str, *, top: str | None = None, novel: bool = False) -> Prediction:
    return Prediction((0.9, 0.1, 0, 0, 0), top or name, 0.9, 0.1, novel, name, "m")


def test_agreement_counts_what_changed() -> None:
    pairs = [
        (said("spine"), said("spine")),
        (said("spine"), said("abdominal")),
        (said("spine"), said("others")),
        (said("uncertain", top="spine", novel=True), said("spine")),
        (said("spine"), said("uncertain", top="spine", novel=True)),
        (said("others"), said("uncertain", top="others")),
    ]
    found = agreement(pairs)
    assert (found["n"], found["top"], found["class"]) == (6, round(4 / 6, 5), round(1 / 6, 5))
    assert (found["rerouted"], found["newly_routed"], found["no_longer_routed"]) == (1, 1, 2)
    assert (found["novel"], found["newly_novel"], found["no_longer_novel"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, []),
        ({"top": 0.9979}, ["top is the same on 99.79 %, 99.8 % is needed"]),
        ({"class": 0.9949}, ["class is the same on 99.49 %, 99.5 % is needed"]),
        ({"rerouted": 1}, ["1 images go to another AI node"]),
    ],
)
def test_what_is_not_good_enough_is_refused(changed: dict[str, float], why: list[str]) -> None:
    assert refusals({"n": 1000, "top": 0.998, "class": 0.995, "rerouted": 0} | changed) == why


def test_one_image_of_few_may_differ_and_two_may_not() -> None:
    assert refusals({"n": 90, "top": round(89 / 90, 5), "class": round(89 / 90, 5), "rerouted": 0}) == []
    assert len(refusals({"n": 90, "top": round(88 / 90, 5), "class": round(88 / 90, 5), "rerouted": 0})) == 2
    assert refusals({"n": 90, "top": 1.0, "class": round(89 / 90, 5), "rerouted": 1}) != []


def test_measuring_stretches_quiet_channels_and_moves_the_mean_back() -> None:
    network = awake()
    with torch.no_grad():
        norm = network.get_submodule("conv_dw_5_bn")
        weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
        weight[3], bias[3] = 0.01, 0.5
        weight[4], bias[4] = 0.01, -1
    pictures = sample_pictures(SIZE)
    found = measure(network, "d", pictures)
    assert 0.5 < found.most["conv_dw_5"][3] < 0.65
    assert found.most["conv_dw_5"][4] == 6, "what never wakes is left as it is"
    assert set(found.shift) == {layer.name for layer in folded(network.weights())}
    assert np.abs(found.shift["conv1"]).max() < 1e-5, "the first layer is not rounded"

    def apart(int8: Int8) -> float:
        """How far the mean of the last layer is from the network's, layers being rounded and the biases `int8`'s."""
        x, y = (scale(torch.from_numpy(pictures)) for _ in range(2))
        with torch.inference_mode():
            for number, (exact, layer) in enumerate(
                zip(folded(network.weights()), int8.apply(folded(network.weights())), strict=True)
            ):
                x = convolve(exact, x).clamp(0, 6)
                y = quantise._in_steps(convolve(quantise._rounded(layer) if number else layer, y).clamp(0, 6))
        return float((x - y).mean(dim=(0, 2, 3)).abs().mean())

    unmoved = replace(found, shift={name: np.zeros_like(value) for name, value in found.shift.items()})
    assert apart(found) < 0.6 * apart(unmoved)


def test_the_command_writes_what_holds(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = CliRunner().invoke(APP, command)
    assert result.exit_code == 0, result.output
    int8 = Int8.read(tmp_path / "model", Card.read(tmp_path / "model").digest)
    assert int8.figures["train"]["n"] + int8.figures["val"]["n"] == int8.figures["n"] == 20 * len(CLASSES)
    assert int8.figures["rerouted"] == 0


def test_the_command_takes_away_what_does_not_hold(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "model" / FILE).write_bytes(b"of older weights")
    monkeypatch.setattr(quantise, "LEAST_TOP", 1.1)
    monkeypatch.setattr(quantise, "ONE_OF_FEW", -99)
    result = CliRunner().invoke(APP, command)
    assert result.exit_code == 1
    assert "not used: top is the same on" in result.output
    assert not (tmp_path / "model" / FILE).exists()


def test_only_training_images_are_measured(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    seen: list[int] = []

    def stop(_network: object, _digest: str, pictures: Pictures) -> Int8:
        seen.append(len(pictures))
        raise DataError("enough")

    monkeypatch.setattr(quantise, "measure", stop)
    monkeypatch.setattr(quantise, "PIXELS", 10**9)
    result = CliRunner().invoke(APP, command)
    assert (result.exit_code, seen) == (1, [16 * len(CLASSES)])
    assert "quantise: enough" in result.output
