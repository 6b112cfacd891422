"""Reads the weights of a model's folder, and says in words how they are damaged.

A digest that fits the card only says that the file has not changed since the card was written, not that it is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from router.model import files
from router.model.errors import CardError

LARGEST = 256 * 1024**2
"""Bytes; a MobileNet-V1 in float32 has 17 MB."""
MOST_ROWS = 65_536
"""Dimensions and centres of the novelty; their number differs from model to model."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
FREE = ("novelty.project", "novelty.offset", "novelty.centres")
HEAD = ("head.weight", "head.bias")
"""Tensors whose rows are the network's outputs; the card says how many there must be."""
MOST_OUTPUTS = 64
"""Outputs of the network."""


def read(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, with the names, shapes and kinds of `wanted`. Raises CardError."""
    try:
        files.must_be_regular(path, LARGEST)
        found = load_file(path)
    except OSError as error:
        raise _damaged(path, error.strerror or "cannot be read") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise _damaged(path, f"is no safetensors file ({type(error).__name__})") from error
    if problem := _problem(found, wanted):
        raise _damaged(path, problem)
    return found


def _damaged(path: Path, what: str) -> CardError:
    return CardError(f"{path}: {what}; copy the model's folder again, or train the model again")


def _problem(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What is wrong with the tensors; empty if nothing is. It names tensors of the network, never of the file."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"{len(missing)} of {len(wanted)} tensors are missing, {missing[0]} among them"
    if found.keys() - wanted.keys():
        return f"{len(found.keys() - wanted.keys())} tensors too many: these are not the weights of this network"
    for name, like in wanted.items():
        tensor = found[name]
        if tensor.dtype not in FLOATS if like.is_floating_point() else tensor.dtype != like.dtype:
            return f"{name} has the wrong type of numbers"
        wanted_shape = (*tensor.shape[:1], *like.shape[1:]) if name in HEAD else tuple(like.shape)
        if name not in FREE and tuple(tensor.shape) != wanted_shape:
            return f"{name} has the shape {tuple(tensor.shape)} and not {wanted_shape}"
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} holds numbers that are not finite"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} holds a variance below 0"
    outputs = [len(found[name]) if found[name].ndim else 0 for name in HEAD]
    if outputs[0] != outputs[1] or not 0 < outputs[0] <= MOST_OUTPUTS:
        return "the head's weight and bias do not fit each other"
    return _novelty_problem([tuple(found[name].shape) for name in FREE], width=wanted[FREE[0]].shape[1])


def _novelty_problem(shapes: list[tuple[int, ...]], width: int) -> str:
    project, offset, centres = shapes
    dimensions = offset[0] if len(offset) == 1 else 0
    fits = project == (dimensions, width) and len(centres) == 2 and centres[1] == dimensions
    if not fits or not 0 < dimensions <= MOST_ROWS or not 0 < centres[0] <= MOST_ROWS:
        return "the parts of the novelty do not fit each other"
    return ""
