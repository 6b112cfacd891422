"""OpenVINO on the CPU in eight bits, for a model's folder that holds what that needs. Needs the `fast` extra."""

from __future__ import annotations

from router.model.architecture import Weights
from router.model.engines import Run
from router.model.engines.openvino_cpu import build_layers
from router.model.int8 import Int8


def build(weights: Weights, size: int, threads: int, int8: Int8) -> Run:
    """Raises Int8Error when `int8` is of another network, and RuntimeError when it cannot be compiled here."""
    return build_layers(int8.apply(int8.layers(weights)), weights, size, threads, int8=True)
