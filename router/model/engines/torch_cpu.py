"""Plain torch on the CPU: batch norm folded into the convolutions, channels last, traced and frozen."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from router.model.architecture import Weights
from router.model.engines import Run
from router.model.mobilenet_v1 import MobileNetV1, scale


def build(weights: Weights, size: int, threads: int) -> Run:
    """`threads` 0: what torch chooses."""
    return traced(MobileNetV1.of(weights), size, threads, fused=True)


def traced(network: nn.Module, size: int, threads: int, *, fused: bool = False) -> Run:
    """A network that gives logits and novelty. `fused`: let torch pack it for oneDNN, which in float32 pays."""
    if threads:
        torch.set_num_threads(threads)
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.zeros(2, 1, size, size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), warnings.catch_warnings():
        # TorchScript is announced to go; as long as it is there, it is the fastest that torch has without a compiler.
        warnings.simplefilter("ignore")
        compiled = torch.jit.freeze(torch.jit.trace(network, example))  # type: ignore[no-untyped-call]
        if fused:
            compiled = torch.jit.optimize_for_inference(compiled)

    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            x = scale(torch.from_numpy(pictures)).contiguous(memory_format=torch.channels_last)
            logits, novelty = compiled(x)
        return logits.numpy(), novelty.numpy()

    return run
