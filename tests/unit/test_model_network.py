"""The network means what its published weights meant, and a folder that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812

from router.flow import CLASSES
from router.model.architecture import WIDTH
from router.model.calibration import Calibration
from router.model.card import Card, CardError
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.saving import save_model
from router.model.untrained import save_random_model


def network(seed: int = 0) -> MobileNetV1:
    torch.manual_seed(seed)
    return MobileNetV1().eval()


def test_the_shape_of_the_paper() -> None:
    net = network()
    # MobileNet-V1 1.0 has 3,206,976 trained parameters before its head, with three colours; ours has one.
    assert sum(p.numel() for name, p in net.named_parameters() if "head" not in name) == 3_206_976 - 32 * 2 * 9
    with torch.inference_mode():
        logits, novelty = net(torch.zeros(2, 1, 96, 96))
    assert logits.shape == (2, 5)
    assert novelty.tolist() == [0, 0]
    assert net.features(torch.zeros(1, 1, 64, 64)).shape == (1, WIDTH)


def test_strided_convolutions_pad_at_the_bottom_and_the_right() -> None:
    net = network()
    x = torch.randn(1, 1, 64, 64)
    first = F.relu6(net.conv1_bn(F.conv2d(F.pad(x, (0, 1, 0, 1)), net.conv1.weight, stride=2)))
    seen: list[torch.Tensor] = []
    handle = net.get_submodule("conv_dw_1").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net.features(x)
    handle.remove()
    assert torch.allclose(seen[0], first)


def test_scale_spans_minus_one_to_one() -> None:
    pictures = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert scale(pictures).tolist() == [[[[-1.0, 1.0]]]]


def test_half_precision_on_disk_answers_alike(tmp_path: Path) -> None:
    net = network()
    save_model(net, tmp_path, size=64, half=True)
    assert (tmp_path / "model.safetensors").stat().st_size < 8_000_000
    x = torch.randn(4, 1, 64, 64)
    with torch.inference_mode():
        one, two = net(x)[0].softmax(1), MobileNetV1.read(tmp_path / "model.safetensors")(x)[0].softmax(1)
    assert torch.allclose(one, two, atol=5e-3)


def test_colours_of_imagenet_are_summed_into_grey(tmp_path: Path) -> None:
    published = {name: tensor for name, tensor in network(1).state_dict().items() if name.startswith("conv")}
    published["conv1.weight"] = torch.randn(32, 3, 3, 3)
    del published["conv_pw_13.weight"]
    save_file(published, tmp_path / "w.safetensors")
    net = network(2)
    assert net.start_from_imagenet(tmp_path / "w.safetensors") == ["conv_pw_13.weight", "head.bias", "head.weight"]
    grey = torch.randn(1, 1, 8, 8)
    colour = F.conv2d(grey.expand(-1, 3, -1, -1), published["conv1.weight"])
    assert torch.allclose(F.conv2d(grey, net.conv1.weight), colour, atol=1e-5)


def test_a_finished_model_can_be_the_start_of_another(tmp_path: Path) -> None:
    first = network(3)
    save_model(first, tmp_path, size=64)
    second = network(4)
    assert second.start_from_imagenet(tmp_path / "model.safetensors") == []
    x = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first(x)[0], second(x)[0])


@pytest.mark.shared
def test_the_published_weights_are_taken(shared: Path) -> None:
    net = network()
    left = net.start_from_imagenet(shared / "weights" / "mobilenet_v1_imagenet.safetensors")
    assert left == ["conv_pw_13.weight", "head.bias", "head.weight"]


def test_a_card_survives_writing_and_reading(tmp_path: Path) -> None:
    calibration = Calibration(1.5, dict.fromkeys(CLASSES, 0.7), 9.5)
    card = save_model(network(), tmp_path, size=224, calibration=calibration, figures={"f1": 1}, trained={"epoch": 2})
    assert Card.read(tmp_path) == card
    save_random_model(tmp_path / "random")
    assert Card.read(tmp_path / "random").calibration.novelty_limit == float("inf")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"calibration": 1}', b'{"size": "many"}'])
def test_a_broken_card_is_one_line(tmp_path: Path, content: bytes) -> None:
    save_random_model(tmp_path)
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(CardError, match=r"card\.json: not a model card"):
        Card.read(tmp_path)


def test_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    save_random_model(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"head.bias": state["head.bias"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CardError, match="not those of the card"):
        Card.read(tmp_path)


def test_probabilities_sum_to_one_and_warm_temperatures_doubt() -> None:
    logits = np.array([[4.0, 0, 0, 0, 0], [1000, 0, 0, 0, -1000]])
    cold, warm = Calibration(1).probabilities(logits), Calibration(3).probabilities(logits)
    assert np.allclose(cold.sum(axis=1), 1)
    assert cold[0, 0] > warm[0, 0] > 0.2


@pytest.mark.parametrize(
    ("logits", "novelty", "expected"),
    [
        ([9.0, 0, 0, 0, 0], 0.0, ("abdominal", "abdominal", False)),
        ([1.0, 0.9, 0, 0, 0], 0.0, ("abdominal", "uncertain", False)),
        ([9.0, 0, 0, 0, 0], 8.0, ("abdominal", "uncertain", True)),
        ([np.nan, 0, 9, 0, 0], 0.0, ("abdominal", "uncertain", True)),
        ([0.0, 0, 9, 0, 0], np.inf, ("abdominal", "uncertain", True)),
    ],
)
def test_doubt_is_uncertain(logits: list[float], novelty: float, expected: tuple[str, str, bool]) -> None:
    calibration = Calibration(1.0, dict.fromkeys(CLASSES, 0.5), novelty_limit=5.0)
    prediction = calibration.predictions(np.array([logits]), np.array([novelty]), "m")[0]
    top, named, novel = expected
    assert (prediction.class_name, prediction.novel) == (named, novel)
    if np.isfinite(novelty) and np.isfinite(logits).all():
        assert prediction.top == top
    assert 0 <= prediction.confidence <= 1
