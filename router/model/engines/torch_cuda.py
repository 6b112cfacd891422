"""torch on a GPU: half precision, channels last, and a CUDA graph for each batch size, so that a launch costs once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from router.model.architecture import Weights
from router.model.engines import Run
from router.model.mobilenet_v1 import MobileNetV1, scale

BATCHES = (1, 2, 4, 8, 16, 32)
"""Smaller batches are padded to the next of these."""


def build(weights: Weights, size: int, threads: int) -> Run:
    """Raises RuntimeError when there is no usable GPU."""
    del threads
    device = torch.device("cuda")
    network = MobileNetV1.of(weights).half().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.novelty.float()
    graphs = {batch: _Graph(network, batch, size, device) for batch in BATCHES}

    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [graphs_run(pictures[n : n + BATCHES[-1]]) for n in range(0, len(pictures), BATCHES[-1])]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def graphs_run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        batch = next(b for b in BATCHES if b >= len(pictures))
        return graphs[batch].run(pictures)

    return run


class _Graph:
    """One captured batch size: pinned input, graph, output."""

    def __init__(self, network: MobileNetV1, batch: int, size: int, device: torch.device) -> None:
        self._host = torch.zeros((batch, size, size), dtype=torch.uint8, pin_memory=True)
        self._input = torch.zeros((batch, size, size), dtype=torch.uint8, device=device)
        self._network = network
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(3):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), torch.inference_mode():
            self._logits, self._novelty = self._forward()

    def _forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = scale(self._input).half().contiguous(memory_format=torch.channels_last)
        features = self._network.features(x)
        return self._network.head(features).float(), self._network.novelty(features.float())

    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(pictures)
        self._host[:count].copy_(torch.from_numpy(pictures))
        self._input.copy_(self._host, non_blocking=True)
        self._graph.replay()
        return self._logits[:count].cpu().numpy(), self._novelty[:count].cpu().numpy()
