"""OpenVINO on the CPU: bfloat16 where the processor has it, float32 elsewhere. Needs the `fast` extra."""

from __future__ import annotations

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from router.model.engines import Run
from router.model.mobilenet_v1 import MobileNetV1


class _FromPixels(torch.nn.Module):
    """Scaling and network in one graph: pictures (n, 1, size, size) as float32 of 0…255 in."""

    def __init__(self, network: MobileNetV1) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, novelty = self.network(pictures * (2 / 255) - 1)
        return logits, novelty


def build(network: MobileNetV1, size: int, threads: int) -> Run:
    """Raises RuntimeError when the network cannot be compiled here."""
    example = torch.zeros(1, 1, size, size)
    with torch.no_grad():
        model = openvino.convert_model(_FromPixels(network.eval()), example_input=example)
    model.reshape([-1, 1, size, size])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options if threads else {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()

    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        results = request.infer({0: pictures[:, None].astype(np.float32)})
        logits, novelty = (np.array(value, np.float32) for value in results.values())
        return logits, novelty

    return run
