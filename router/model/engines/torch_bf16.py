"""Plain torch in bfloat16, on processors that compute in it: the convolutions alone, head and novelty in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from router.model.architecture import Weights
from router.model.engines import EngineError, Run
from router.model.engines.folding import in_bfloat16
from router.model.engines.torch_cpu import traced
from router.model.mobilenet_v1 import MobileNetV1


class _InBfloat16(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        network, self.network = MobileNetV1.of(weights), MobileNetV1.of(weights)
        self.head, self.novelty = network.head, network.novelty
        for layer in in_bfloat16(weights):
            convolution: nn.Conv2d = getattr(self.network, layer.name)
            convolution.weight = nn.Parameter(torch.from_numpy(layer.weights))
            convolution.bias = nn.Parameter(torch.from_numpy(layer.bias))
            setattr(self.network, f"{layer.name}_bn", nn.Identity())
        self.network.bfloat16()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(x.bfloat16()).float()
        return self.head(features), self.novelty(features)


def build(weights: Weights, size: int, threads: int) -> Run:
    """`threads` 0: what torch chooses. Raises EngineError where the processor has no bfloat16."""
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if not has_bfloat16():
        raise EngineError("the processor has no bfloat16")
    return traced(_InBfloat16(weights), size, threads)
