"""Why a prediction is `uncertain`, in words: from the limits on a model's card. Reads no weights and needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.model.files import CARD_LIMIT


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a card names a class: the least confidence of each, and the largest novelty (None: any)."""

    digest: str
    thresholds: Mapping[str, float]
    novelty_limit: float | None

    def why(self, top: str, confidence: float, *, novel: bool) -> str:
        """Why a prediction with these values is uncertain."""
        if novel:
            return "unlike what the model was trained on"
        return f"{top} {confidence:.2f} is below its threshold {self.thresholds[top]:.2f}"


def read_limits(folder: Path) -> Limits | None:
    """The limits of a model's folder; None where there is no readable card."""
    try:
        with (folder / "card.json").open("rb") as file:
            card = json.loads(file.read(CARD_LIMIT))
        calibration = card["calibration"]
        thresholds = {str(name): float(value) for name, value in calibration["thresholds"].items()}
        limit = calibration["novelty_limit"]
        return Limits(str(card["digest"]), thresholds, None if limit is None else float(limit))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def limits_of(digest: str, folders: Iterable[Path]) -> Limits | None:
    """The limits of the model with these weights, where one of the folders holds it."""
    found = (read_limits(folder) for folder in folders)
    return next((limits for limits in found if limits is not None and limits.digest == digest), None)
