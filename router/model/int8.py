"""What a network needs beside its weights to answer in eight bits, kept in `int8.safetensors` in the model's folder.

ReLU6 bounds every activation, so 0…6 is the range of all of them, and nothing has to be guessed there. They take half
of the 256 codes: a processor without VNNI adds two products of a code and a weight in 16 bits, which 2 × 255 × 127
exceeds. So every processor gives the same answers.

Two things are measured on training images (`router.training.quantise`). `most` is each channel's greatest activation:
the channel is stretched to fill 0…6, and the next layer's weights are shrunk by as much (cross-layer equalisation,
Nagel et al., arXiv:1906.04721). `shift` is added to the bias: rounded weights move the mean of what they weigh, and
in MobileNet-V1 that is nearly all the harm that eight bits do. The first layer, head and novelty stay float32.

`gain` is what the norms multiplied by while this was measured. A square root may differ in its last bit from library
to library, and one bit can move an activation by a step. With the gains kept, the answers stay those that were judged.

The file belongs to one set of weights, and holds the figures that say how well it agrees with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from router.model import files
from router.model.architecture import Weights
from router.model.engines import EngineError
from router.model.engines.folding import Floats, Layer, folded, gains

FILE = "int8.safetensors"
LIMIT = 1 << 20
"""Bytes of the file."""
VERSION = "1"
TOP = np.float32(6)
"""Where ReLU6 ends."""
REACH, STEPS = 2 * TOP, 255
"""An activation is rounded to one of STEPS + 1 codes between 0 and REACH, of which it needs the lower half."""
LEAST_MOST = np.float32(0.2)
"""A channel is stretched thirty times at most."""
RANGES = {"most": (LEAST_MOST, TOP), "shift": (-TOP, TOP), "gain": (np.float32(-1e30), np.float32(1e30))}
"""What the file holds for each layer, and between which values."""


class Int8Error(EngineError):
    """The folder holds nothing that may serve in eight bits; the message says why in a few words."""


@dataclass(frozen=True, slots=True)
class Int8:
    """For each layer by name: `most` (channels,) in 0.2…6, and `shift` (channels,) in units of the stretched layer.

    `gain` (channels,) of each layer, too; empty in a file that an earlier version of this program wrote.
    """

    digest: str
    most: Mapping[str, Floats]
    shift: Mapping[str, Floats]
    figures: Mapping[str, Any] = field(default_factory=dict)
    gain: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, digest: str) -> Int8:
        """What belongs to the weights with this digest; raises Int8Error."""
        path = directory / FILE
        try:
            if not path.is_file():  # nor a pipe, which would be waited for
                raise FileNotFoundError
            if path.stat().st_size > LIMIT:
                raise Int8Error(f"{FILE} is too large")
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                if about.get("version") != VERSION:
                    raise Int8Error(f"{FILE} is of another version of this program")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            figures = dict(json.loads(about.get("figures", "{}")))
        except FileNotFoundError as error:
            raise Int8Error(f"no {FILE}") from error
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
            raise Int8Error(f"{FILE} cannot be read ({type(error).__name__})") from error
        if about.get("digest") != digest:
            raise Int8Error(f"{FILE} belongs to other weights (python -m router.training.quantise)")
        parts: dict[str, dict[str, Floats]] = {kind: {} for kind in RANGES}
        for name, tensor in tensors.items():
            kind, _, layer = name.partition(".")
            low, high = RANGES.get(kind, (0, 0))
            if kind not in parts or tensor.dtype != np.float32 or not ((low <= tensor) & (tensor <= high)).all():
                raise Int8Error(f"{FILE} is damaged")
            parts[kind][layer] = tensor
        return cls(digest, parts["most"], parts["shift"], figures, parts["gain"])

    def write(self, directory: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"{kind}.{name}": value for kind in RANGES for name, value in getattr(self, kind).items()}
        about = {"version": VERSION, "digest": self.digest, "figures": json.dumps(dict(self.figures))}
        files.replace(directory / FILE, save(tensors, about))

    def layers(self, weights: Weights) -> list[Layer]:
        """The network's layers as they were when this was measured. Raises Int8Error where the gains are not its."""
        if not self.gain:
            return folded(weights)
        own = gains(weights)
        same = self.gain.keys() == own.keys() and all(
            one.shape == self.gain[name].shape and np.allclose(one, self.gain[name], 1e-5, 0)
            for name, one in own.items()
        )
        if not same:
            raise Int8Error(f"{FILE} does not fit the network")
        return folded(weights, self.gain)

    def apply(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers stretched and shifted, in float32 still; raises Int8Error where they do not fit."""
        found = []
        before: Floats | None = None
        for layer in layers:
            most, shift = (kind.get(layer.name) for kind in (self.most, self.shift))
            if most is None or shift is None or not most.shape == shift.shape == layer.bias.shape:
                raise Int8Error(f"{FILE} does not fit the network")
            stretched = stretch(layer, before, most)
            found.append(replace(stretched, bias=stretched.bias + shift))
            before = most
        return found


def stretch(layer: Layer, before: Floats | None, most: Floats) -> Layer:
    """The layer for inputs that were stretched to `before`'s, and with outputs that fill 0…TOP.

    What exceeds `most` is cut there; below it nothing changes but the units.
    """
    weights = layer.weights
    if before is not None:
        shrink = before / TOP
        weights = weights * (shrink[:, None, None, None] if layer.groups > 1 else shrink[None, :, None, None])
    gain = TOP / most
    return replace(layer, weights=weights * gain[:, None, None, None], bias=layer.bias * gain)


def rounded(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Weights (outputs, …) as −127…127, and the step (outputs, 1, 1, 1) that makes them weights again."""
    step = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), np.float32(1e-12)) / np.float32(127)
    return np.round(weights / step).astype(np.int8), step
