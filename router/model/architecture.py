"""What MobileNet-V1 1.0 is made of: its convolutions, and the names and shapes of its weights. No torch.

`mobilenet_v1` is the same network for torch, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from router.flow import CLASSES

WIDTH = 1024
"""Pooled features of the last block."""
EPSILON = 1e-3
"""Of every batch norm."""
COUNTER = "num_batches_tracked"
"""The one tensor of a batch norm that holds no floating numbers: a count that only training needs."""

# Output channels and stride of the thirteen depthwise-separable blocks (table 1 of the paper).
BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

Weights = Mapping[str, NDArray[Any]]
"""Every tensor of a network by its name, in float32; the counters in int64."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution without a bias; its batch norm is called `<name>_bn`."""

    name: str
    shape: tuple[int, int, int, int]
    """Of its weights: outputs, inputs of a group, rows, columns."""
    stride: int
    groups: int


def convolutions() -> Iterator[Convolution]:
    """In the order in which a picture meets them."""
    yield Convolution("conv1", (32, 1, 3, 3), 2, 1)
    channels = 32
    for number, (outputs, stride) in enumerate(BLOCKS, start=1):
        yield Convolution(f"conv_dw_{number}", (channels, 1, 3, 3), stride, channels)
        yield Convolution(f"conv_pw_{number}", (outputs, channels, 1, 1), 1, 1)
        channels = outputs


def shapes(outputs: int = len(CLASSES)) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, for a head with so many outputs and a novelty that was never fitted."""
    found: dict[str, tuple[int, ...]] = {}
    for one in convolutions():
        found[f"{one.name}.weight"] = one.shape
        parts = ("weight", "bias", "running_mean", "running_var")
        found |= {f"{one.name}_bn.{part}": one.shape[:1] for part in parts} | {f"{one.name}_bn.{COUNTER}": ()}
    found |= {"head.weight": (outputs, WIDTH), "head.bias": (outputs,)}
    return found | {"novelty.project": (1, WIDTH), "novelty.offset": (1,), "novelty.centres": (1, 1)}
