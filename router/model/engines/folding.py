"""The network as a list of convolutions: each batch norm folded into the weights and bias of what it follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.model.architecture import EPSILON, Convolution, Weights, convolutions

Floats = NDArray[np.float32]
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution and its ReLU6: weights (outputs, inputs of a group, k, k) and bias (outputs,), both float32."""

    name: str
    weights: Floats
    bias: Floats
    stride: int
    groups: int

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after rows and columns: strided layers are padded at the bottom and the right only."""
        if self.weights.shape[2] == 1:
            return 0, 0
        return (0, 1) if self.stride == 2 else (1, 1)


def folded(weights: Weights, gain: Mapping[str, Floats] | None = None) -> list[Layer]:
    """The layers in the order in which a picture meets them; `gain`: what `gains` gave when something was measured."""
    gain = gain or gains(weights)
    return [_fold(weights, one, gain[one.name]) for one in convolutions()]


def gains(weights: Weights) -> dict[str, Floats]:
    """What each norm multiplies its channels by, by the name of the convolution before it."""
    found: dict[str, Floats] = {}
    for one in convolutions():
        deviation = np.sqrt(weights[f"{one.name}_bn.running_var"] + np.float32(EPSILON))
        found[one.name] = (weights[f"{one.name}_bn.weight"] / deviation).astype(np.float32)
    return found


def _fold(weights: Weights, one: Convolution, gain: Floats) -> Layer:
    kernels = weights[f"{one.name}.weight"] * gain[:, None, None, None]
    bias = weights[f"{one.name}_bn.bias"] - weights[f"{one.name}_bn.running_mean"] * gain
    return Layer(one.name, kernels, bias, one.stride, one.groups)


def in_bfloat16(weights: Weights) -> list[Layer]:
    """The layers with weights as bfloat16 has them (in float32 still), and biases that make up for the rounding.

    Rounded weights move the mean of what they weigh, which is most of the harm. The norms say what the mean of each
    activation is, and so how far (bias absorption without data: Nagel et al., arXiv:1906.04721, section 4.2).
    """
    found: list[Layer] = []
    for layer in folded(weights):
        rounded, bias = _bfloat16(layer.weights), layer.bias
        if found:
            moved = (rounded - layer.weights).sum(axis=(2, 3))
            means = _mean_activation(weights, found[-1].name)
            bias = bias - (moved[:, 0] * means if layer.groups > 1 else moved @ means)
        found.append(replace(layer, weights=rounded, bias=bias))
    return found


def _bfloat16(values: Floats) -> Floats:
    """The nearest numbers that bfloat16 has, of two the even one, for finite numbers."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _mean_activation(weights: Weights, name: str) -> Floats:
    """Means (channels,) behind norm and ReLU6, if what the norm gives is normally distributed."""
    mean = weights[f"{name}_bn.bias"].astype(np.float64)
    deviation = np.abs(weights[f"{name}_bn.weight"].astype(np.float64)) + 1e-9
    low, high = -mean / deviation, (6 - mean) / deviation
    within = (_erf(high / math.sqrt(2)) - _erf(low / math.sqrt(2))) / 2
    beyond = (1 - _erf(high / math.sqrt(2))) / 2
    density = (np.exp(-(low**2) / 2) - np.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi)
    found: Floats = (mean * within + deviation * density + 6 * beyond).astype(np.float32)
    return found
