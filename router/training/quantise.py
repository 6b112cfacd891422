"""Measure what the eight-bit engine needs, and keep it only where that engine answers as the model does.

`python -m router.training.quantise --manifest SET.csv --model models/mobilenet_v1` measures on training images, then
asks both about every training and validation image. `int8.safetensors` is written where `top` is the same on 99.8 %,
the class on 99.5 %, and no image goes from one AI node to another; else none is left there, and the exit status is 1.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name

from router.flow import Prediction
from router.model.card import WEIGHTS, Card, CardError
from router.model.engines.folding import Floats, Layer, folded, gains
from router.model.int8 import FILE, LEAST_MOST, REACH, STEPS, TOP, Int8, rounded, stretch
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.training.calibrate import ROUTED
from router.training.data import DataError, Item, deal, read_manifest
from router.training.pictures import Pictures, batches

LEAST_TOP, LEAST_CLASS = 0.998, 0.995
ONE_OF_FEW = 1.01
"""An image, with room for the rounding of shares."""
PIXELS = 128 * 224 * 224
"""How much is measured: 128 training images of 224 pixels. All of them are in memory, a layer at a time."""
LEAST_IMAGES = 32
ASLEEP = 0.05
"""A channel that never exceeds this on training images is not stretched."""
ROOM = 1.1
"""How far beyond its greatest activation a channel may go before it is cut."""
BATCH = 16
"""Pictures that both engines are asked about at once."""


def measure(network: MobileNetV1, digest: str, pictures: Pictures) -> Int8:
    """Two networks beside each other, a layer at a time: as it is, and with all layers so far in eight bits."""
    gain = gains(network.weights())
    layers = folded(network.weights(), gain)
    exact = [scale(torch.from_numpy(pictures[n : n + BATCH])) for n in range(0, len(pictures), BATCH)]
    coarse = list(exact)
    most: dict[str, Floats] = {}
    shift: dict[str, Floats] = {}
    before: Floats | None = None
    with torch.inference_mode():
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            exact = [convolve(layer, x) for x in exact]
            found = np.full_like(layer.bias, TOP) if last else _most(exact)
            stretched = stretch(layer, before, found)
            weighed = stretched if number == 0 else _rounded(stretched)
            coarse = [convolve(weighed, x) for x in coarse]
            moved = torch.from_numpy(TOP / found) * _means(exact) - _means(coarse)
            exact = [x.clamp_(0, float(TOP)) for x in exact]
            coarse = [_in_steps(x.add_(moved[:, None, None]).clamp_(0, float(TOP))) for x in coarse]
            most[layer.name], shift[layer.name], before = found, moved.float().numpy(), found
    return Int8(digest, most, shift, gain=gain)


def convolve(layer: Layer, x: Tensor) -> Tensor:
    """What goes into a layer's ReLU6, for inputs (n, inputs, height, width)."""
    before, after = layer.padding
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, torch.from_numpy(layer.weights), torch.from_numpy(layer.bias), layer.stride, groups=layer.groups)


def _most(outputs: Sequence[Tensor]) -> Floats:
    """Each channel's greatest activation, with room."""
    found: Floats = torch.stack([x.amax(dim=(0, 2, 3)) for x in outputs]).amax(dim=0).numpy()
    return np.where(found < ASLEEP, TOP, np.clip(ROOM * found, LEAST_MOST, TOP)).astype(np.float32)


def _means(outputs: Sequence[Tensor]) -> Tensor:
    count = sum(len(x) for x in outputs)
    return torch.stack([x.mean(dim=(2, 3)).double().sum(dim=0) for x in outputs]).sum(dim=0) / count


def _rounded(layer: Layer) -> Layer:
    integers, step = rounded(layer.weights)
    return replace(layer, weights=integers * step)


def _in_steps(x: Tensor) -> Tensor:
    return x.mul_(STEPS / float(REACH)).round_().mul_(float(REACH) / STEPS)


def agreement(pairs: Sequence[tuple[Prediction, Prediction]]) -> dict[str, Any]:
    """Figures of what the model said and what it says in eight bits; `rerouted` is from one AI node to another."""
    changed = [(old, new) for old, new in pairs if old.class_name != new.class_name]
    return {
        "n": len(pairs),
        "top": round(sum(old.top == new.top for old, new in pairs) / len(pairs), 5),
        "class": round(1 - len(changed) / len(pairs), 5),
        "rerouted": sum(old.class_name in ROUTED and new.class_name in ROUTED for old, new in changed),
        "newly_routed": sum(old.class_name not in ROUTED and new.class_name in ROUTED for old, new in changed),
        "no_longer_routed": sum(old.class_name in ROUTED and new.class_name not in ROUTED for old, new in changed),
        "novel": sum(old.novel for old, _ in pairs),
        "newly_novel": sum(new.novel and not old.novel for old, new in pairs),
        "no_longer_novel": sum(old.novel and not new.novel for old, new in pairs),
        "probability_apart": round(max(abs(a - b) for old, new in pairs
                                       for a, b in zip(old.probabilities, new.probabilities, strict=True)), 4),
    }  # fmt: skip


def refusals(figures: dict[str, Any]) -> list[str]:
    """Why the figures are not good enough; empty when they are. One image may always differ: a few show no share."""
    found = [
        f"{name} is the same on {100 * figures[name]:.2f} %, {100 * least:.1f} % is needed"
        for name, least in (("top", LEAST_TOP), ("class", LEAST_CLASS))
        if figures[name] < min(least, 1 - ONE_OF_FEW / figures["n"])
    ]
    if figures["rerouted"]:
        found.append(f"{figures['rerouted']} images go to another AI node")
    return found


def quantise(model: Path, items: Sequence[Item], threads: int = 0) -> tuple[Int8, list[str]]:
    """What was measured, with its figures, and why it must not be used. Raises CardError, DataError, ImportError."""
    card, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    train = [item for item in items if item.split == "train"]
    random.Random(0).shuffle(train)  # noqa: S311 - a choice that must repeat
    count = max(LEAST_IMAGES, PIXELS // card.size**2)
    measured = [pictures for pictures, _ in batches(train[:count], card.size, batch=BATCH)]
    if not measured:
        raise DataError("no training image can be read; see that the root folder is the manifest's")
    int8 = measure(network, card.digest, np.concatenate(measured))
    return agreeing(model, int8, [item for item in items if item.split in ("train", "val")], threads)


def agreeing(model: Path, int8: Int8, items: Sequence[Item], threads: int = 0) -> tuple[Int8, list[str]]:
    """The measurements with figures of how well eight bits agree with the model on these images, and why they must not
    be used. Raises CardError, DataError, ImportError."""
    from router.model.engines import openvino_int8

    card, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    run = openvino_int8.build(network.weights(), card.size, threads, int8)
    pairs: dict[str, list[tuple[Prediction, Prediction]]] = {}
    for pictures, chunk in batches(items, card.size, batch=BATCH):
        with torch.inference_mode():
            logits, novelty = (x.numpy() for x in network(scale(torch.from_numpy(pictures))))
        one = card.calibration.predictions(logits, novelty, card.digest)
        two = card.calibration.predictions(*run(pictures), card.digest)
        for item, old, new in zip(chunk, one, two, strict=True):
            pairs.setdefault(item.split or "all", []).append((old, new))
    if not pairs:
        raise DataError("no image can be read; see that the root folder is the manifest's")
    figures = agreement([pair for split in pairs.values() for pair in split])
    parts = {split: agreement(found) for split, found in pairs.items()} if pairs.keys() != {"all"} else {}
    return replace(int8, figures=figures | parts), refusals(figures)


def main(
    manifest: Annotated[Path, typer.Option(help="The manifest that the model was trained on.")],
    root: Annotated[
        Path | None, typer.Option(help="The folder of its files. Default: the folder of the manifest.")
    ] = None,
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path("models/mobilenet_v1"),
    threads: Annotated[int, typer.Option(help="Threads; 0: as many as there are cores.")] = 0,
) -> None:
    """Measure, compare, and write the file or say why not."""
    if threads:
        torch.set_num_threads(threads)
    try:
        items = deal(read_manifest(manifest, root or manifest.parent))
        int8, why_not = quantise(model, items, threads)
    except (CardError, DataError) as error:
        raise SystemExit(f"quantise: {error}") from error
    except ImportError as error:
        raise SystemExit("quantise: OpenVINO is not installed; pip install openvino") from error
    print(json.dumps(dict(int8.figures), indent=1))
    if why_not:
        (model / FILE).unlink(missing_ok=True)
        raise SystemExit(f"quantise: not used: {'; '.join(why_not)}")
    int8.write(model)
    print(f"{model / FILE} written")


if __name__ == "__main__":
    typer.run(main)
