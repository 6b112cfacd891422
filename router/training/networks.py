"""The seven networks of the comparison behind one face: `features`, `head`, `width`.

Ours is MobileNet-V1; the others come from torchvision, which is imported only when one of them is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from router.errors import RouterError, to_install
from router.flow import CLASSES
from router.model.architecture import WIDTH
from router.model.mobilenet_v1 import MobileNetV1

NAMES = (
    "mobilenet_v1", "mobilenet_v2", "resnet18", "resnet34", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
)  # fmt: skip


class NetworkError(RouterError):
    """The network cannot be built; the message is one line with the fix."""


class Learner(nn.Module):
    """A network with its five-neuron head, and further heads that only help it to learn (`part`, `view`)."""

    def __init__(self, name: str, helpers: dict[str, int] | None = None, weights: Path | None = None) -> None:
        super().__init__()
        self.name = name
        self.net, width = build(name, weights)
        self.helpers = nn.ModuleDict({task: nn.Linear(width, n) for task, n in (helpers or {}).items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.net.dropout(self.net.features(x))
        return {"class": self.net.head(features)} | {task: head(features) for task, head in self.helpers.items()}


class Borrowed(nn.Module):
    """A torchvision network for grey pictures."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.body(x.expand(-1, 3, -1, -1))
        return pooled


def build(name: str, weights: Path | None = None) -> tuple[Any, int]:
    """The network and the width of its features; `weights` is a safetensors of ImageNet. Raises NetworkError."""
    if name == "mobilenet_v1":
        network = MobileNetV1(len(CLASSES))
        if weights is not None:
            network.start_from_imagenet(weights)
        return network, WIDTH
    if name not in NAMES:
        raise NetworkError(f"no network {name!r}; one of {', '.join(NAMES)}")
    body = _torchvision(name)
    if weights is not None:
        from safetensors.torch import load_file

        body.load_state_dict(load_file(weights))
    last = "fc" if name.startswith("resnet") else "classifier"
    layer = getattr(body, last)
    width = (layer if isinstance(layer, nn.Linear) else layer[-1]).in_features
    setattr(body, last, nn.Identity())
    return Borrowed(body, width), width


def must_be_buildable(name: str) -> None:
    """Raises NetworkError where torchvision is needed for it and is not there: before minutes are spent on images."""
    if name != "mobilenet_v1":
        _models(name)


_schemas: list[torch.library.Library] = []


def _torchvision(name: str) -> nn.Module:
    network: nn.Module = getattr(_models(name), name)(weights=None)
    return network


def _models(name: str) -> Any:
    """torchvision's models, also beside a torch built without its compiled operators (they serve detection only)."""
    if not hasattr(torch.ops.torchvision, "nms") and not _schemas:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _schemas.append(library)
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise NetworkError(
            f"{name} needs torchvision that fits torch {torch.__version__}: {to_install('train')} "
            f"({type(error).__name__})"
        ) from error
    return models
