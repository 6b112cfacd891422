"""Ways to run the network: each module has `build(weights, size, threads) -> Run`, or raises why it cannot.

A new engine: a module here, and its line in `ENGINES`. `model.load` tries them in that order.

A `Run` takes pictures (n, size, size) uint8 and gives logits (n, 5) and novelty (n,), both float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from router.errors import RouterError

# `import openvino` would report itself to its maker, with an identity of this machine, through this module; without it,
# it takes a stand-in of its own that does nothing. No engine is imported before this line.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

INT8, REFERENCE, ON_GPU = "openvino int8", "torch", "torch cuda"
ENGINES = {INT8: "openvino_int8", "openvino": "openvino_cpu", "torch bf16": "torch_bf16", REFERENCE: "torch_cpu"}
"""Engines for the CPU, fastest first for `auto`: the engine's name to its module here. The GPU's is `torch_cuda`."""

Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class EngineError(RouterError):
    """The engine cannot run here; the message says why in a few words."""
