"""The answers that every engine is held against: written with the weights, and computed where none belong to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.model import reference, weights
from router.model.architecture import shapes
from router.model.card import WEIGHTS, Card, save_weights
from router.model.engines import INT8
from router.model.engines.folding import gains
from router.model.files import shipped_model
from router.model.int8 import FILE as INT8_FILE
from router.model.int8 import Int8, Int8Error
from router.model.load import load
from router.model.mobilenet_v1 import MobileNetV1
from router.model.reference import FILE, Reference
from router.model.saving import answers
from router.model.untrained import save_random_model

SIZE = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_random_model(tmp_path, size=SIZE)
    return tmp_path


def read(folder: Path) -> Reference | None:
    return reference.read(folder, Card.read(folder).digest, SIZE, 5)


def test_the_list_of_layers_is_the_network() -> None:
    assert {name: tuple(values.shape) for name, values in MobileNetV1().state_dict().items()} == shapes()


def test_without_torch_the_network_says_the_same() -> None:
    network = weights.read(shipped_model() / WEIGHTS)
    plain, computed = answers(network, SIZE), reference.computed(network, SIZE)
    assert np.abs(plain.logits - computed.logits).max() < 1e-3
    assert np.ptp(plain.logits, axis=0).min() > 0.1, "these pictures say nothing"
    assert np.abs(plain.novelty - computed.novelty).max() < 1e-3


@pytest.mark.slow
def test_the_shipped_answers_are_those_of_the_shipped_network() -> None:
    folder = shipped_model()
    card, network = Card.read(folder), weights.read(folder / WEIGHTS)
    kept = reference.read(folder, card.digest, card.size, len(network["head.bias"]))
    assert kept is not None
    for found in (answers(network, card.size), reference.computed(network, card.size)):
        assert np.abs(found.logits - kept.logits).max() < 1e-3
        assert np.abs(found.novelty - kept.novelty).max() < 1e-3


def changed(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        changed("version", 0), changed("digest", "0" * 64), changed("size", 32), changed("pictures", ""),
        changed("logits", [[0.0] * 5]), changed("logits", "many"), changed("novelty", [[0.0] * 6]),
        changed("novelty", [float("nan")] * 6), changed("logits", [[1e300] * 5] * 6), lambda raw: raw.clear(),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_not_used(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    assert read(folder) is not None
    raw = json.loads((folder / FILE).read_bytes())
    change(raw)
    (folder / FILE).write_text(json.dumps(raw))
    with np.errstate(over="ignore"):
        assert read(folder) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b" " * (reference.LIMIT + 1)])
def test_what_is_no_such_file_is_not_used(folder: Path, content: bytes) -> None:
    (folder / FILE).write_bytes(content)
    assert read(folder) is None
    (folder / FILE).unlink()
    assert read(folder) is None
    (folder / FILE).mkdir()
    assert read(folder) is None


def test_answers_that_are_not_finite_are_not_written(folder: Path) -> None:
    network, card = weights.read(folder / WEIGHTS), Card.read(folder)
    nothing = Reference(np.full((6, 5), np.nan, np.float32), np.zeros(6, np.float32))
    save_weights(network, folder, size=card.size, answers=nothing)
    assert not (folder / FILE).exists()


@pytest.mark.slow
def test_an_engine_is_held_against_the_file_and_without_one_against_the_network(folder: Path) -> None:
    pytest.importorskip("openvino")
    (folder / FILE).unlink()
    assert load(folder, device="cpu", threads=1).engine == "openvino"
    network, card = weights.read(folder / WEIGHTS), Card.read(folder)
    wrong = reference.computed(network, SIZE)
    replace(wrong, logits=(wrong.logits + np.arange(5)).astype(np.float32)).write(folder, card.digest, SIZE)
    model = load(folder, device="cpu", threads=1)
    assert model.engine == "torch"
    assert "openvino disagrees with the reference" in model.why


def test_the_gains_are_kept_with_eight_bits_and_must_be_the_networks(tmp_path: Path) -> None:
    network, card = weights.read(shipped_model() / WEIGHTS), Card.read(shipped_model())
    int8 = Int8.read(shipped_model(), card.digest)
    own = gains(network)
    assert int8.gain.keys() == own.keys()
    assert all(np.allclose(int8.gain[name], own[name], 1e-6, 0) for name in own)
    replace(int8, gain={}).write(tmp_path)  # as an earlier version wrote it
    layers = Int8.read(tmp_path, card.digest).layers(network)
    assert [np.array_equal(layer.weights, network[f"{layer.name}.weight"] * own[layer.name][:, None, None, None])
            for layer in layers] == [True] * 27  # fmt: skip
    others = {name: value * np.float32(1.001) for name, value in own.items()}
    with pytest.raises(Int8Error, match=f"{INT8_FILE} does not fit"):
        replace(int8, gain=others).layers(network)
    with pytest.raises(Int8Error, match="does not fit"):
        replace(int8, gain={"conv1": own["conv1"]}).layers(network)


@pytest.mark.slow
def test_the_shipped_model_is_served_in_eight_bits_without_a_reference(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    for name in (WEIGHTS, "card.json", INT8_FILE):
        (tmp_path / name).write_bytes((shipped_model() / name).read_bytes())
    assert load(tmp_path, device="cpu", threads=1).engine == INT8
