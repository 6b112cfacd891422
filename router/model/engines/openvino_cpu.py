"""OpenVINO on the CPU: bfloat16 where the processor has it, float32 elsewhere. Needs the `fast` extra.

The graph is written down here and not traced: strided convolutions pad on two sides only without a layer of their
own, pictures go in as bytes, and the eight-bit engine is the same graph with rounded weights and activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from router.model.architecture import Weights
from router.model.engines import Run
from router.model.engines.folding import Layer, folded, in_bfloat16
from router.model.int8 import REACH, STEPS, TOP, rounded

Node = Any


def build(weights: Weights, size: int, threads: int) -> Run:
    """Raises RuntimeError when the network cannot be compiled here."""
    coarse = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    return build_layers(in_bfloat16(weights) if coarse else folded(weights), weights, size, threads)


def build_layers(layers: Sequence[Layer], weights: Weights, size: int, threads: int, *, int8: bool = False) -> Run:
    """The layers, with the network's head and novelty behind them; in `int8`, all layers but the first in integers."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if int8:
        options["INFERENCE_PRECISION_HINT"] = "f32"  # the little that is no integer: bfloat16 is coarser than 8 bits
    compiled = openvino.Core().compile_model(_model(layers, weights, size, int8), "CPU", options)
    request = compiled.create_infer_request()

    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        results = request.infer({0: pictures[:, None]})
        logits, novelty = (np.array(value, np.float32) for value in results.values())
        return logits, novelty

    return run


def _model(layers: Sequence[Layer], weights: Weights, size: int, int8: bool) -> openvino.Model:
    pictures = ops.parameter([-1, 1, size, size], np.uint8)
    x = ops.convert(pictures, np.float32)
    x = ops.subtract(ops.multiply(x, _floats(2 / 255)), _floats(1))
    for number, layer in enumerate(layers):
        x = _convolve(x, layer, int8 and number > 0)
    features = ops.reduce_mean(x, _axes(2, 3), keep_dims=False)
    logits = ops.add(ops.matmul(features, _floats(weights["head.weight"]), False, True), _floats(weights["head.bias"]))
    return openvino.Model([logits, _novelty(features, weights)], [pictures])


def _convolve(x: Node, layer: Layer, int8: bool) -> Node:
    outputs, *rest = layer.weights.shape
    grouped = layer.groups > 1
    shape = [layer.groups, outputs // layer.groups] if grouped else [outputs]
    if int8:
        x = ops.fake_quantize(x, _floats(0), _floats(REACH), _floats(0), _floats(REACH), STEPS + 1)
        integers, step = rounded(layer.weights)
        weights = ops.convert(ops.constant(integers.reshape(*shape, *rest)), np.float32)
        weights = ops.multiply(weights, _floats(step.reshape(*shape, 1, 1, 1)))
    else:
        weights = _floats(layer.weights.reshape(*shape, *rest))
    convolve = ops.group_convolution if grouped else ops.convolution
    before, after = layer.padding
    x = convolve(x, weights, [layer.stride] * 2, [before] * 2, [after] * 2, [1, 1])
    return ops.clamp(ops.add(x, _floats(layer.bias[None, :, None, None])), 0.0, float(TOP))


def _novelty(features: Node, weights: Weights) -> Node:
    """As `mobilenet_v1.Novelty`."""
    project, offset, centres = (_floats(weights[f"novelty.{name}"]) for name in ("project", "offset", "centres"))
    whitened = ops.add(ops.matmul(features, project, False, True), offset)
    apart = ops.subtract(ops.unsqueeze(whitened, _axes(1)), ops.unsqueeze(centres, _axes(0)))
    distances = ops.reduce_mean(ops.multiply(apart, apart), _axes(2), keep_dims=False)
    return ops.reduce_min(distances, _axes(1), keep_dims=False)


def _floats(value: Any) -> Node:
    return ops.constant(np.asarray(value, np.float32))


def _axes(*axes: int) -> Node:
    return ops.constant(np.array(axes, np.int64))
