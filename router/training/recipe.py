"""How a network is trained, in figures: the paper's recipe, and that of the shipped model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained. The defaults are the paper's recipe."""

    network: str = "mobilenet_v1"
    size: int = 512
    """Side of the picture in pixels."""
    epochs: int = 100
    batch: int = 32
    """Images a step."""
    optimizer: Literal["adam", "adamw"] = "adam"
    schedule: Literal["warm_restarts", "one_cycle"] = "warm_restarts"
    rate: float = 1e-4
    weight_decay: float = 0.0
    restart: int = 10
    """Epochs until the first warm restart; each later stretch is longer by `restart_factor`."""
    restart_factor: int = 2
    augmentation: Literal["paper", "robust", "none"] = "paper"
    class_shares: tuple[float, ...] | None = None
    """How often each class is drawn; None: as it comes."""
    source_power: float = 1.0
    """Sources within a class are drawn by size to this power: 1 as they come, 0 all alike."""
    draws: int | None = None
    """Images an epoch; None: as many as there are."""
    smoothing: float = 0.0
    helpers: float = 0.0
    """Weight of the losses for view, polarity and `part`; 0: the model gives no view and knows no polarity."""
    inverted: float = 0.1
    """The share of pictures that a `robust` augmentation shows with the wrong polarity."""
    average: float = 0.0
    """Decay of the moving average of the weights, for each step; 0: none."""
    frozen_blocks: int = 0
    """MobileNet-V1 only: the stem and this many first blocks keep the weights that they start with."""
    seed: int = 0


PAPER = Recipe()
SHIPPED = Recipe(
    size=160,
    epochs=4,
    optimizer="adamw",
    schedule="one_cycle",
    rate=1e-3,
    weight_decay=0.02,
    augmentation="robust",
    class_shares=(0.16, 0.22, 0.20, 0.22, 0.20),
    source_power=0.4,
    smoothing=0.05,
    helpers=0.3,
    average=0.995,
    frozen_blocks=5,
)
RECIPES = {"paper": PAPER, "shipped": SHIPPED}


def rate_at(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a fractional epoch: cosine with warm restarts, or one cycle with a fifth of warming."""
    if recipe.schedule == "one_cycle":
        done = min(epoch / recipe.epochs, 1.0)
        if done < 0.2:
            return recipe.rate * (0.04 + 0.96 * done / 0.2)
        return recipe.rate * (0.001 + 0.999 * (1 + math.cos(math.pi * (done - 0.2) / 0.8)) / 2)
    length = float(recipe.restart)
    while epoch >= length:
        epoch, length = epoch - length, length * recipe.restart_factor
    return recipe.rate * (1 + math.cos(math.pi * epoch / length)) / 2


def with_overrides(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with every change that is not None."""
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})
