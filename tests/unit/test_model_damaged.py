"""A model's folder that was tampered with or damaged, with a card that fits its weights: words, and never an answer."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import Tensor
from typer.testing import CliRunner

from router.cli import app
from router.config.settings import ModelSettings
from router.errors import explain
from router.inference import Inference, InferenceError
from router.model import files
from router.model.card import CARD, WEIGHTS, Card, CardError
from router.model.load import load
from router.model.mobilenet_v1 import MobileNetV1
from router.model.saving import save_model
from tests.peers import free_port

NOVELTY = ("novelty.project", "novelty.offset", "novelty.centres")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(MobileNetV1(), folder, size=32, half=True)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Iterator[Path]:
    damaged = tmp_path / "model"
    shutil.copytree(whole, damaged)
    yield damaged
    shutil.rmtree(damaged)


def sign(folder: Path) -> None:
    """Write the weights' digest into the card: whoever tampers can do that as well."""
    card = json.loads((folder / CARD).read_bytes()) | {"digest": files.digest(folder / WEIGHTS)}
    (folder / CARD).write_text(json.dumps(card))


def read(folder: Path) -> MobileNetV1:
    Card.read(folder)
    return MobileNetV1.read(folder / WEIGHTS)


def refused(folder: Path) -> str:
    with pytest.raises(CardError) as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    assert "; copy " in message or "; give a model's folder" in message
    return message


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def put(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: value(state[name])})


def with_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("conv1.weight"), "1 of 167 tensors are missing, conv1.weight"),
        (without("novelty.centres"), "novelty.centres"),
        (without("conv1_bn.num_batches_tracked"), "num_batches_tracked"),
        (lambda state: state.clear(), "167 of 167"),
        (lambda state: state.update({"PATIENT^NAME": torch.zeros(1)}), "1 tensors too many"),
        (put("head.weight", lambda t: t[:4].clone()), "the head's weight and bias do not fit each other"),
        (put("head.weight", lambda t: t[0, 0].clone()), "head.weight has the shape ()"),
        (put("conv1.weight", lambda t: t.flatten()), "conv1.weight has the shape (288,)"),
        (put("head.bias", lambda t: t.to(torch.int32)), "head.bias has the wrong type"),
        (put("head.bias", lambda t: t.to(torch.float64)), "head.bias has the wrong type"),
        (put("head.bias", lambda t: t.to(torch.bool)), "head.bias has the wrong type"),
        (put("conv1_bn.num_batches_tracked", lambda t: t.float()), "wrong type"),
        *((put("conv_dw_7.weight", with_first(value)), "conv_dw_7.weight holds numbers that are not finite")
          for value in (float("nan"), float("inf"), float("-inf"))),
        (put("novelty.project", with_first(float("nan"))), "not finite"),
        (put("conv1_bn.running_var", with_first(-1.0)), "below 0"),
        (put("novelty.project", lambda t: t[:, :7].clone()), "novelty do not fit"),
        (put("novelty.offset", lambda _: torch.zeros(3)), "novelty do not fit"),
        (put("novelty.centres", lambda _: torch.zeros(0, 1)), "novelty do not fit"),
        (put("novelty.centres", lambda _: torch.zeros(70_000, 1)), "novelty do not fit"),
        (lambda state: state.update({name: torch.zeros(()) for name in NOVELTY}), "novelty do not fit"),
    ],
)  # fmt: skip
def test_each_damage_of_the_weights_is_said(
    folder: Path, damage: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    state = load_file(folder / WEIGHTS)
    damage(state)
    (folder / WEIGHTS).write_bytes(save(state))
    sign(folder)
    message = refused(folder)
    assert words in message
    assert "PATIENT" not in message


def test_other_floating_types_are_none(folder: Path) -> None:
    state = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).write_bytes(save(state))
    sign(folder)
    assert read(folder).head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "content",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
        lambda data: (1 << 63).to_bytes(8, "little") + data[8:],
        lambda data: (2).to_bytes(8, "little") + b"{}" + data[8:],
        lambda data: (9).to_bytes(8, "little") + b'{"a":[[[[',
        lambda data: (100_000).to_bytes(8, "little") + b'{"a":' + b"[" * 99_995,
        lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        lambda data: data.replace(b'"shape":[32,1,3,3]', b'"shape":[-2,1,3,3]', 1),
        lambda data: data.replace(b'"shape":[32,1,3,3]', b'"shape":[9999999999999999999]', 1),
        lambda data: data.replace(b'"F16"', b'"F99"', 1),
    ],
)
def test_what_is_no_safetensors_file_is_said(folder: Path, content: Callable[[bytes], bytes]) -> None:
    path = folder / WEIGHTS
    before = path.read_bytes()
    path.write_bytes(content(before))
    assert path.read_bytes() != before
    sign(folder)
    assert "safetensors" in refused(folder) or "missing" in refused(folder)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_bytes_exchanged_in_the_header_give_a_network_or_words(whole: Path, data: st.DataObject) -> None:
    content = bytearray((whole / WEIGHTS).read_bytes())
    length = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length + 7))] = data.draw(st.integers(0, 255))
    path = whole / "fuzzed.safetensors"
    path.write_bytes(content)
    with suppress(CardError):
        network = MobileNetV1.read(path)
        assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_what_is_no_file_is_said_and_not_waited_for(folder: Path, name: str) -> None:
    path = folder / name
    ways: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: os.mkfifo(path), "is not a file"),
        (path.mkdir, "is not a file"),
        (lambda: path.symlink_to("/dev/zero"), "is not a file"),
        (lambda: path.symlink_to(path), "symbolic links"),
        (lambda: path.symlink_to(folder / "nothing"), "No such file"),
    )
    for make, words in ways:
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        assert words in refused(folder)


def test_links_to_files_are_followed(folder: Path, whole: Path) -> None:
    """As Kubernetes mounts a configuration."""
    for name in (WEIGHTS, CARD):
        (folder / name).unlink()
        (folder / name).symlink_to(whole / name)
    read(folder)


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**400, float("nan"), float("inf"), "", "a word", [], [1], {}, {"a": 1},
)  # fmt: skip


def _places(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield from [place] if place else []
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, (*place, name))


def test_whatever_stands_in_a_card_is_a_card_or_words(folder: Path) -> None:
    """Each field left out, and exchanged for what it is not."""
    right = json.loads((folder / CARD).read_bytes())
    for place in _places(right):
        for wrong in (*WRONG, ...):
            card = copy.deepcopy(right)
            table = card
            for name in place[:-1]:
                table = table[name]
            if wrong is ...:
                del table[place[-1]]
            else:
                table[place[-1]] = wrong
            (folder / CARD).write_text(json.dumps(card))
            with suppress(CardError):
                found = Card.read(folder)
                assert 32 <= found.size <= 1024
                assert 0 < found.calibration.temperature < float("inf")
                assert all(0 < least <= 1 for least in found.calibration.thresholds.values())
                assert found.calibration.novelty_limit >= 0


def test_a_card_that_nests_without_end_or_is_huge_is_one_line(folder: Path) -> None:
    for content in (b"[" * 200_000, b'{"figures":' * 100_000, b" " * (1 << 21)):
        (folder / CARD).write_bytes(content)
        assert "card.json" in refused(folder)


def overflowing(folder: Path) -> Path:
    """Finite weights whose answers are not."""
    state = load_file(folder / WEIGHTS)
    state["head.weight"] = torch.full((5, 1024), 3e38)
    state["conv_pw_13_bn.bias"] = torch.full((1024,), 6.0)
    (folder / WEIGHTS).write_bytes(save(state))
    sign(folder)
    return folder


def with_nan(folder: Path) -> Path:
    state = load_file(folder / WEIGHTS)
    state["conv1.weight"].view(-1)[5] = float("nan")
    (folder / WEIGHTS).write_bytes(save(state))
    sign(folder)
    return folder


@pytest.mark.slow
def test_answers_that_are_not_finite_are_refused_at_the_start(folder: Path) -> None:
    with pytest.raises(CardError, match="what it answers is not finite"):
        load(overflowing(folder), device="cpu", engine="torch", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "promote", "shadow", "serve"])
def test_each_command_says_file_and_fix(folder: Path, tmp_path: Path, command: str) -> None:
    with_nan(folder)
    config = tmp_path / "routing.yaml"
    model = f"model: {{path: {folder}, device: cpu, engine: torch}}\n" if command in ("check", "serve") else ""
    config.write_text(
        f"node: {{address: 127.0.0.1, port: {free_port()}}}\nweb: {{address: 127.0.0.1, port: {free_port()}}}\n{model}"
        "spool: {path: spool}\nrules: []\ndestinations:\n  a: {ae_title: A, host: 127.0.0.1, port: 104}\n"
        "otherwise: {send: a}\n"
    )
    words = {
        "check": ["check", str(config), "--offline"], "serve": ["serve", "--config", str(config)],
        "promote": ["model", "promote", str(folder), "--config", str(config)],
        "shadow": ["model", "shadow", str(folder), "--config", str(config)],
    }[command]  # fmt: skip
    result = CliRunner().invoke(app, words)
    code, text = result.exit_code, result.output
    if result.exception and not isinstance(result.exception, SystemExit):
        code, text, _ = explain(result.exception)  # type: ignore[arg-type]
    assert code == 1
    assert "conv1.weight holds numbers that are not finite; copy the model's folder again" in text


@pytest.mark.slow
def test_inference_says_it_in_one_line(folder: Path) -> None:
    with_nan(folder)
    with pytest.raises(InferenceError, match="not finite") as caught:
        Inference(ModelSettings(path=folder, device="cpu", engine="torch", threads=1, workers=1)).start()
    assert "\n" not in str(caught.value)
