"""The network as a list of convolutions: each batch norm folded into the weights and bias of what it follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from router.model.mobilenet_v1 import BLOCKS, MobileNetV1

Floats = NDArray[np.float32]


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

    def __call__(self, x: Tensor) -> Tensor:
        """What goes into the ReLU6, for inputs (n, inputs, height, width)."""
        before, after = self.padding
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, torch.from_numpy(self.weights), torch.from_numpy(self.bias), self.stride, groups=self.groups)


def folded(network: MobileNetV1) -> list[Layer]:
    """The layers in the order in which a picture meets them."""
    strides = {"conv1": 2}
    for number, (_, stride) in enumerate(BLOCKS, start=1):
        strides |= {f"conv_dw_{number}": stride, f"conv_pw_{number}": 1}
    return [_fold(network, name, stride) for name, stride in strides.items()]


def _fold(network: MobileNetV1, name: str, stride: int) -> Layer:
    convolution: torch.nn.Conv2d = getattr(network, name)
    norm: torch.nn.BatchNorm2d = getattr(network, f"{name}_bn")
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError(f"{name}: the norm has no running statistics")
    with torch.no_grad():
        gain = norm.weight / torch.sqrt(variance + norm.eps)
        weights = (convolution.weight * gain[:, None, None, None]).float().numpy()
        bias = (norm.bias - mean * gain).float().numpy()
    return Layer(name, weights, bias, stride, convolution.groups)


def in_bfloat16(network: MobileNetV1) -> list[Layer]:
    """The layers with weights as bfloat16 has them (in float32 still), and biases that make up for the rounding.

    Rounded weights move the mean of what they weigh, which is most of the harm. The norms say what the mean of each
    activation is, and so how far (bias absorption without data: Nagel et al., arXiv:1906.04721, section 4.2).
    """
    found: list[Layer] = []
    for layer in folded(network):
        exact = torch.from_numpy(layer.weights)
        weights = exact.bfloat16().float()
        bias = layer.bias
        if found:
            moved = (weights - exact).sum(dim=(2, 3))
            means = _mean_activation(getattr(network, f"{found[-1].name}_bn"))
            bias = bias - (moved[:, 0] * means if layer.groups > 1 else moved @ means).numpy()
        found.append(replace(layer, weights=weights.numpy(), bias=bias))
    return found


def _mean_activation(norm: torch.nn.BatchNorm2d) -> Tensor:
    """Means (channels,) behind norm and ReLU6, if what the norm gives is normally distributed."""
    with torch.no_grad():
        mean, deviation = norm.bias.double(), norm.weight.double().abs() + 1e-9
        low, high = -mean / deviation, (6 - mean) / deviation
        within = (torch.erf(high / math.sqrt(2)) - torch.erf(low / math.sqrt(2))) / 2
        beyond = (1 - torch.erf(high / math.sqrt(2))) / 2
        density = (torch.exp(-(low**2) / 2) - torch.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi)
        return (mean * within + deviation * density + 6 * beyond).float()
