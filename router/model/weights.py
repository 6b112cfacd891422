"""Reads the weights of a model's folder, and says in words how they are damaged. No torch.

A digest that fits the card only says that the file has not changed since the card was written, not that it is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from router.model import files
from router.model.architecture import COUNTER, WIDTH, Weights, shapes
from router.model.errors import CardError

LARGEST = 256 * 1024**2
"""Bytes; a MobileNet-V1 in float32 has 17 MB."""
MOST_ROWS = 65_536
"""Dimensions and centres of the novelty; their number differs from model to model."""
FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
"""The kinds of floating numbers as safetensors names them, and as numpy reads them (it has no bfloat16)."""
INTEGERS = {"I64": "<i8"}
FREE = ("novelty.project", "novelty.offset", "novelty.centres")
HEAD = ("head.weight", "head.bias")
"""Tensors whose rows are the network's outputs; the card says how many there must be."""
MOST_OUTPUTS = 64
"""Outputs of the network."""


class _WrongError(Exception):
    """What is wrong with the tensors, in words. It names tensors of the network, never of the file."""


def read(path: Path) -> Weights:
    """The tensors of a file, with the names, shapes and kinds of this network's. Raises CardError."""
    try:
        files.must_be_regular(path, LARGEST)
        found: dict[str, dict[str, Any]] = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise _damaged(path, error.strerror or "cannot be read") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise _damaged(path, f"is no safetensors file ({type(error).__name__})") from error
    try:
        return _checked(found)
    except _WrongError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> CardError:
    return CardError(f"{path}: {what}; copy the model's folder again, or train the model again")


def _checked(found: Mapping[str, Mapping[str, Any]]) -> Weights:
    wanted = shapes()
    if missing := sorted(wanted.keys() - found.keys()):
        raise _WrongError(f"{len(missing)} of {len(wanted)} tensors are missing, {missing[0]} among them")
    if more := len(found.keys() - wanted.keys()):
        raise _WrongError(f"{more} tensors too many: these are not the weights of this network")
    tensors = {}
    for name, like in wanted.items():
        tensor = tensors[name] = _tensor(name, found[name])
        shape = (*tensor.shape[:1], *like[1:]) if name in HEAD else like
        if name not in FREE and tensor.shape != shape:
            raise _WrongError(f"{name} has the shape {tensor.shape} and not {shape}")
        if not np.isfinite(tensor).all():
            raise _WrongError(f"{name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise _WrongError(f"{name} holds a variance below 0")
    outputs = [len(tensors[name]) if tensors[name].ndim else 0 for name in HEAD]
    if outputs[0] != outputs[1] or not 0 < outputs[0] <= MOST_OUTPUTS:
        raise _WrongError("the head's weight and bias do not fit each other")
    _check_novelty(*(tensors[name].shape for name in FREE))
    return tensors


def _tensor(name: str, raw: Mapping[str, Any]) -> NDArray[Any]:
    """A tensor of the file, in float32 if it holds floating numbers."""
    kinds = INTEGERS if name.endswith(COUNTER) else FLOATS
    if raw["dtype"] not in kinds:
        raise _WrongError(f"{name} has the wrong type of numbers")
    tensor = np.frombuffer(raw["data"], kinds[raw["dtype"]]).reshape(raw["shape"])
    if raw["dtype"] == "BF16":  # the upper half of a float32
        return (tensor.astype(np.uint32) << 16).view(np.float32)
    return tensor.astype(np.int64 if kinds is INTEGERS else np.float32)


def _check_novelty(project: tuple[int, ...], offset: tuple[int, ...], centres: tuple[int, ...]) -> None:
    dimensions = offset[0] if len(offset) == 1 else 0
    fits = project == (dimensions, WIDTH) and len(centres) == 2 and centres[1] == dimensions
    if not fits or not 0 < dimensions <= MOST_ROWS or not 0 < centres[0] <= MOST_ROWS:
        raise _WrongError("the parts of the novelty do not fit each other")
