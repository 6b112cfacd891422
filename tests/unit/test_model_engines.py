"""Every engine says what the network says; eight bits only with what belongs to the weights, and the log says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from router.model.card import WEIGHTS, Card
from router.model.engines import ENGINES, INT8, EngineError
from router.model.engines.folding import Layer, folded, in_bfloat16
from router.model.int8 import FILE, LEAST_MOST, LIMIT, REACH, STEPS, TOP, VERSION, Int8, Int8Error, rounded
from router.model.load import build, load, sample_pictures, shipped_model
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.saving import save_model
from router.pixels.prepare import prepare
from router.training.quantise import convolve, measure, refusals
from shipping.strangers import phantoms

SIZE = 64
PICTURES = sample_pictures(SIZE)


def awake(seed: int = 0) -> MobileNetV1:
    """A random network whose norms know what they see, and whose novelty is fitted: a network like a trained one."""
    torch.manual_seed(seed)
    network = MobileNetV1()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.9)
            torch.nn.init.normal_(module.bias, 0.8, 0.8)
            module.momentum = None
    with torch.no_grad():
        network.train()(scale(torch.from_numpy(PICTURES)))
    torch.nn.init.normal_(network.head.weight, std=0.04)
    state = network.state_dict()
    state |= {"novelty.project": torch.randn(8, 1024) / 16, "novelty.centres": torch.randn(3, 8)}
    state |= {"novelty.offset": torch.zeros(8)}
    network.load(state)
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with what eight bits need."""
    path = tmp_path_factory.mktemp("model")
    network = awake()
    card = save_model(network, path, size=SIZE)
    measure(network, card.digest, PICTURES).write(path)
    return path


@pytest.fixture
def network(folder: Path) -> MobileNetV1:
    return MobileNetV1.read(folder / WEIGHTS)


@pytest.fixture
def int8(folder: Path) -> Int8:
    return Int8.read(folder, Card.read(folder).digest)


def said(network: MobileNetV1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.inference_mode():
        logits, novelty = network(scale(torch.from_numpy(PICTURES)))
    return logits.numpy(), novelty.numpy()


@pytest.mark.slow
def test_folded_layers_are_the_network(network: MobileNetV1) -> None:
    x = scale(torch.from_numpy(PICTURES))
    with torch.inference_mode():
        expected = network.features(x)
        for layer in folded(network.weights()):
            x = convolve(layer, x).clamp(0, 6)
    assert torch.allclose(x.mean(dim=(2, 3)), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_says_what_the_network_says(network: MobileNetV1, int8: Int8, name: str) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    expected, expected_novelty = said(network)
    try:
        run = build(ENGINES[name], network.weights(), SIZE, 1, *((int8,) if name == INT8 else ()))
    except EngineError as error:
        pytest.skip(str(error))
    most = 1e-3 if name == "torch" else (0.06 if name == INT8 else 0.05) * np.ptp(expected)
    for batch in (1, 6):
        logits, novelty = run(PICTURES[:batch])
        assert logits.dtype == novelty.dtype == np.float32
        assert np.abs(logits - expected[:batch]).max() < most
        assert np.abs(novelty - expected_novelty[:batch]).max() < 0.1 * expected_novelty.max()
    assert np.allclose(said(network)[0], expected, atol=1e-4), (
        "an engine has changed the network that it was built from"
    )


def test_eight_bits_are_computed_as_integers(network: MobileNetV1, int8: Int8) -> None:
    openvino = pytest.importorskip("openvino")
    from router.model.engines.openvino_cpu import _model

    compiled = openvino.Core().compile_model(
        _model(int8.apply(int8.layers(network.weights())), network.weights(), SIZE, int8=True), "CPU"
    )
    found = [{key: op.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
             for op in compiled.get_runtime_model().get_ops()]  # fmt: skip
    kinds = [one["runtimePrecision"] for one in found if "Convolution" in one["layerType"]]
    assert (len(kinds), kinds.count("u8")) == (27, 26)


def pooled(layers: list[Layer]) -> torch.Tensor:
    x = scale(torch.from_numpy(PICTURES))
    with torch.inference_mode():
        for layer in layers:
            x = convolve(layer, x).clamp(0, 6)
    return x.mean(dim=(2, 3))


def test_biases_make_up_for_rounded_weights(network: MobileNetV1) -> None:
    exact, made_up = folded(network.weights()), in_bfloat16(network.weights())
    plain = [replace(new, bias=old.bias) for old, new in zip(exact, made_up, strict=True)]
    expected = pooled([*exact])
    without, within = ((pooled([*layers]) - expected).mean(dim=0).abs().mean() for layers in (plain, made_up))
    assert within < 0.7 * without


def test_rounded_weights_are_within_half_a_step() -> None:
    weights = np.random.default_rng(0).normal(size=(7, 3, 3, 3)).astype(np.float32)
    weights[3] = 0
    integers, step = rounded(weights)
    assert np.abs(integers).max() == 127
    assert (np.abs(integers * step - weights) <= 0.501 * step).all()


def test_two_products_fit_into_sixteen_bits() -> None:
    """A processor without VNNI adds them there, and cuts what exceeds."""
    code = round(STEPS * float(TOP / REACH) + 0.5)
    weight = int(np.abs(rounded(np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32))[0]).max())
    assert 2 * code * weight <= np.iinfo(np.int16).max


@pytest.mark.slow
def test_auto_takes_eight_bits_and_says_so(folder: Path) -> None:
    pytest.importorskip("openvino")
    model = load(folder, device="cpu", threads=1)
    assert (model.engine, model.why) == (INT8, "the fastest that is installed and agrees")
    assert load(folder, device="cpu", engine="openvino", threads=1).engine == "openvino"


def copy(folder: Path, to: Path) -> Path:
    for name in (WEIGHTS, "card.json", FILE):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def changed(path: Path, **about: str) -> None:
    """Write the file again with something changed in its metadata."""
    tensors = load_file(path)
    save_file(tensors, path, {"version": VERSION, "digest": "0", "figures": "{}"} | about)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), f"no {FILE}"),
        (lambda path: path.write_bytes(b"\x08"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "cannot be read"),
        (lambda path: path.write_bytes(bytes(LIMIT + 1)), "is too large"),
        (changed, "belongs to other weights"),
        (lambda path: changed(path, version="0"), "of another version"),
        (lambda path: changed(path, figures="{"), "cannot be read"),
    ],
)
def test_auto_passes_over_what_does_not_belong(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    pytest.importorskip("openvino")
    spoil(copy(folder, tmp_path) / FILE)
    model = load(tmp_path, device="cpu", threads=1)
    assert model.engine == "openvino"
    assert model.why.startswith(f"{INT8}: ")
    assert why in model.why


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0, 0.0, LEAST_MOST / 2])
def test_values_out_of_range_are_damage(folder: Path, tmp_path: Path, value: float) -> None:
    path = copy(folder, tmp_path) / FILE
    tensors = load_file(path)
    tensors["most.conv1"][5] = value
    digest = Card.read(folder).digest
    save_file(tensors, path, {"version": VERSION, "digest": digest})
    with pytest.raises(Int8Error, match="is damaged"):
        Int8.read(tmp_path, digest)


@pytest.mark.parametrize(
    "spoil", [lambda t: t.pop("shift.conv_dw_4"), lambda t: t.update({"most.conv1": t["most.conv1"][:9]})]
)
def test_what_does_not_fit_the_network_is_refused(
    folder: Path, tmp_path: Path, network: MobileNetV1, spoil: Callable[[dict[str, NDArray[np.float32]]], object]
) -> None:
    path = copy(folder, tmp_path) / FILE
    tensors = load_file(path)
    spoil(tensors)
    digest = Card.read(folder).digest
    save_file(tensors, path, {"version": VERSION, "digest": digest})
    with pytest.raises(Int8Error, match="does not fit"):
        Int8.read(tmp_path, digest).apply(folded(network.weights()))


def test_it_survives_writing_and_reading(folder: Path, tmp_path: Path, int8: Int8) -> None:
    Int8(int8.digest, int8.most, int8.shift, {"top": 0.999}).write(tmp_path)
    again = Int8.read(tmp_path, int8.digest)
    assert again.figures == {"top": 0.999}
    assert all(np.array_equal(again.most[name], int8.most[name]) for name in int8.most)
    assert again.most["conv_pw_13"].min() == TOP, "the last layer is not stretched: its units are the features'"


@pytest.mark.slow
def test_an_engine_that_disagrees_is_passed_over(folder: Path, tmp_path: Path, int8: Int8) -> None:
    pytest.importorskip("openvino")
    copy(folder, tmp_path)
    shift = {name: value + np.float32(1) for name, value in int8.shift.items()}
    Int8(int8.digest, int8.most, shift).write(tmp_path)
    model = load(tmp_path, device="cpu", threads=1)
    assert model.engine == "openvino"
    assert f"{INT8} disagrees" in model.why


def test_what_is_shipped_answers_in_eight_bits_as_it_must() -> None:
    int8 = Int8.read(shipped_model(), Card.read(shipped_model()).digest)
    assert refusals(dict(int8.figures)) == []
    assert int8.figures["n"] > 3000


@pytest.mark.slow
def test_what_is_no_radiograph_goes_to_no_ai_node_in_eight_bits_either() -> None:
    pytest.importorskip("openvino")
    model = load(None, device="cpu", threads=1)
    assert model.engine == INT8
    for kind, grey in phantoms(1, seed=1):
        picture = prepare(grey, size=model.card.size)[0]
        assert model.predict(picture[None])[0].class_name in ("others", "uncertain"), kind
