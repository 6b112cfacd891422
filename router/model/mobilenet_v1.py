"""MobileNet-V1 1.0 (Howard et al., arXiv:1704.04861) as TensorFlow published it, for one grey channel, in torch.

Batch norm epsilon 1e-3, ReLU6, and strided convolutions padded at the bottom and the right only, so that the
published ImageNet weights mean here what they meant there. `architecture` lists the layers. Beside the five logits the
network gives its novelty: how far its pooled features lie from everything that it was calibrated on. Nothing here reads
a card or an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from router.flow import CLASSES
from router.model import weights
from router.model.architecture import BLOCKS, EPSILON, WIDTH, Weights


def _convolve(x: Tensor, convolution: nn.Module, norm: nn.Module, stride: int = 1) -> Tensor:
    if stride == 2:
        x = F.pad(x, (0, 1, 0, 1))
    return F.relu6(norm(convolution(x)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=0.05)


class Novelty(nn.Module):
    """Squared distance, for each dimension, from whitened features to the nearest of some known centres."""

    def __init__(self, dimensions: int = 1, centres: int = 1) -> None:
        super().__init__()
        self.register_buffer("project", torch.zeros(dimensions, WIDTH))
        self.register_buffer("offset", torch.zeros(dimensions))
        self.register_buffer("centres", torch.zeros(centres, dimensions))
        self.project: Tensor
        self.offset: Tensor
        self.centres: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, 1024) to scores (n,); 0 everywhere until it has been fitted."""
        whitened = F.linear(features, self.project, self.offset)
        distances = (whitened[:, None, :] - self.centres[None]).square().mean(dim=2)
        return distances.amin(dim=1)


class Head(nn.Linear):
    """All outputs, those for the class first. These have the same bits, whatever other heads stand behind them."""

    def forward(self, features: Tensor) -> Tensor:
        parts = zip(self.weight.tensor_split([len(CLASSES)]), self.bias.tensor_split([len(CLASSES)]), strict=True)
        return torch.cat([F.linear(features, weight, bias) for weight, bias in parts if len(bias)], dim=1)


class MobileNetV1(nn.Module):
    """Input (n, 1, height, width) in −1…1, bone white; output logits (n, classes) and novelty (n,)."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = _conv(1, 32, 3, stride=2)
        self.conv1_bn = _norm(32)
        channels = 32
        for number, (outputs, stride) in enumerate(BLOCKS, start=1):
            setattr(self, f"conv_dw_{number}", _conv(channels, channels, 3, stride, groups=channels))
            setattr(self, f"conv_dw_{number}_bn", _norm(channels))
            setattr(self, f"conv_pw_{number}", _conv(channels, outputs, 1))
            setattr(self, f"conv_pw_{number}_bn", _norm(outputs))
            channels = outputs
        self.dropout = nn.Dropout(0.2)
        self.head = Head(WIDTH, classes)
        self.novelty = Novelty()

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (n, 1024) of pictures (n, 1, height, width) in −1…1."""
        x = _convolve(x, self.conv1, self.conv1_bn, stride=2)
        for number, (_, stride) in enumerate(BLOCKS, start=1):
            x = _convolve(x, getattr(self, f"conv_dw_{number}"), getattr(self, f"conv_dw_{number}_bn"), stride)
            x = _convolve(x, getattr(self, f"conv_pw_{number}"), getattr(self, f"conv_pw_{number}_bn"))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.head(self.dropout(features)), self.novelty(features)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a whole state, in any floating type; raises RuntimeError naming what is missing or too much."""
        if "novelty.centres" in state:
            centres, dimensions = state["novelty.centres"].shape
            self.novelty = Novelty(dimensions, centres)
        self.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )

    @classmethod
    def read(cls, path: Path) -> MobileNetV1:
        """The network of a `model.safetensors`, in float32 and ready to answer (eval mode). Raises CardError."""
        return cls.of(weights.read(path))

    @classmethod
    def of(cls, state: Weights) -> MobileNetV1:
        """The network with these weights, of which it has a copy, ready to answer."""
        network = cls(classes=len(state["head.weight"]))
        network.load({name: torch.from_numpy(values) for name, values in state.items()})
        return network.eval()

    def weights(self) -> Weights:
        """What `of` makes this network of again."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    def start_from_imagenet(self, path: Path) -> list[str]:
        """Take what an ImageNet state offers (three colours summed into grey); names that keep their random start."""
        published = load_file(path)
        published["conv1.weight"] = published["conv1.weight"].float().sum(dim=1, keepdim=True)
        own = self.state_dict()
        taken = {n: t.float() for n, t in published.items() if n in own and own[n].shape == t.shape}
        self.load_state_dict(taken, strict=False)
        return sorted(name for name, _ in self.named_parameters() if name not in taken)


def scale(pictures: Tensor) -> Tensor:
    """Pictures (n, size, size) uint8 to the network's input (n, 1, size, size) float32 in −1…1."""
    return pictures.unsqueeze(1).float().mul_(2 / 255).sub_(1)
