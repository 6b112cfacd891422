"""The model card: `card.json` beside `model.safetensors`, and the checks that the two belong together.

A card that does not fit its weights, or weights that were trained on pictures prepared in another way, must
never answer: reading fails with one line that says what to do. Only files of a model's folder are touched here.
No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from router.flow import CLASSES, PREPROCESSING
from router.model import files
from router.model.architecture import Weights
from router.model.calibration import HEADS, ONE_HEAD, Calibration
from router.model.errors import CardError as CardError
from router.model.reference import Reference
from router.model.weights import LARGEST

WEIGHTS = "model.safetensors"
CARD = "card.json"
CLASS_ALONE, SEVERAL_HEADS = "mobilenet_v1", "mobilenet_v1_heads"
"""A program that knows one head only must refuse a network with more: it would take all outputs for classes."""
OF_HEADS = ("view_temperature", "view_threshold", "inverted_threshold")
"""What the calibration of a network with several heads holds beside that of the class."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a machine must know of a model.

    `size` is the side of the square picture in pixels; `digest` the SHA-256 of `model.safetensors` in hex;
    `figures` and `trained` are for people and decide nothing.
    """

    digest: str
    size: int
    classes: tuple[str, ...] = CLASSES
    preprocessing: str = PREPROCESSING
    calibration: Calibration = field(default_factory=Calibration)
    figures: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return CLASS_ALONE if self.calibration.heads == ONE_HEAD else SEVERAL_HEADS

    @classmethod
    def read(cls, directory: Path) -> Card:
        """The card of a model's folder, checked: it fits the weights and this program. Raises CardError."""
        card = cls._parse(directory / CARD)
        if card.classes != CLASSES:
            raise CardError(f"{directory / CARD}: the classes must be {', '.join(CLASSES)} in this order; retrain")
        if card.preprocessing != PREPROCESSING:
            raise CardError(
                f"{directory / CARD}: the model was trained on pictures prepared by version {card.preprocessing}, "
                f"this program prepares by version {PREPROCESSING}; retrain it or install the program it came with"
            )
        try:
            files.must_be_regular(directory / WEIGHTS, LARGEST)
            found = files.digest(directory / WEIGHTS)
        except OSError as error:
            raise CardError(f"{directory / WEIGHTS}: {error.strerror}; copy the model's folder again") from error
        if found != card.digest:
            raise CardError(
                f"{directory / WEIGHTS}: the weights are not those of the card (digest {found[:12]}, "
                f"the card says {card.digest[:12]}); copy both files again from one model"
            )
        return card

    def must_fit(self, weights: Weights) -> None:
        """Raises CardError where the network has other outputs than the card says."""
        wanted, found = sum(HEADS[name] for name in self.calibration.heads), len(weights["head.bias"])
        if wanted != found:
            raise CardError(f"the weights have {found} outputs, their card has {wanted}; copy the model's folder again")

    @classmethod
    def _parse(cls, path: Path) -> Card:
        try:
            files.must_be_regular(path, files.CARD_LIMIT)
            raw = json.loads(path.read_bytes())
        except OSError as error:
            raise CardError(f"{path}: {error.strerror}; give a model's folder, one with a card.json") from error
        except (ValueError, RecursionError) as error:
            raise CardError(f"{path}: not a model card ({type(error).__name__}); copy the folder again") from error
        try:
            return _card(raw)
        except ValueError as error:
            raise CardError(f"{path}: not a model card ({error}); copy the folder again") from error

    def write(self, directory: Path) -> None:
        """Write `card.json` whole or not at all."""
        calibration = self.calibration
        files.replace(directory / CARD, json.dumps({
            "architecture": self.architecture,
            "heads": list(calibration.heads),
            "classes": list(self.classes),
            "size": self.size,
            "input": "grey, bone white, uint8 scaled to -1..1, (n, 1, size, size)",
            "preprocessing": self.preprocessing,
            "calibration": {
                "temperature": calibration.temperature,
                "thresholds": dict(calibration.thresholds),
                "novelty_limit": calibration.novelty_limit if math.isfinite(calibration.novelty_limit) else None,
            } | ({} if calibration.heads == ONE_HEAD else {name: getattr(calibration, name) for name in OF_HEADS}),
            "digest": self.digest,
            "figures": dict(self.figures),
            "trained": dict(self.trained),
        }, indent=2).encode() + b"\n")  # fmt: skip


def _card(raw: Any) -> Card:
    """Raises ValueError with what is wrong; it quotes nothing from the card."""
    calibration = _table(raw, "calibration")
    thresholds = _table(calibration, "thresholds")
    classes = _value(raw, "classes", list)
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be words")
    temperature, limit = _number(calibration, "temperature"), _value(calibration, "novelty_limit", int, float, None)
    card = Card(
        digest=_value(raw, "digest", str),
        size=_value(raw, "size", int),
        classes=tuple(classes),
        preprocessing=_value(raw, "preprocessing", str),
        calibration=Calibration(
            temperature=temperature,
            thresholds={name: _number(thresholds, name) for name in classes},
            novelty_limit=math.inf if limit is None else _number(calibration, "novelty_limit"),
            heads=_heads(raw),
            **{name: _number(calibration, name) for name in OF_HEADS if name in calibration},
        ),
        figures=_table(raw, "figures", {}),
        trained=_table(raw, "trained", {}),
    )
    if not (32 <= card.size <= 1024 and _value(raw, "architecture", str) == card.architecture):
        raise ValueError("size or architecture is out of range")
    if not (temperature > 0 and card.calibration.view_temperature > 0) or card.calibration.novelty_limit < 0:
        raise ValueError("a temperature must be above 0, and a novelty_limit not below it")
    if not all(0 < least <= 1 for least in card.calibration.thresholds.values()):
        raise ValueError("each threshold must be above 0 and at most 1")
    return card


def _heads(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Raises ValueError unless they are some of HEADS in order, the class first."""
    found = tuple(_value(raw, "heads", list)) if "heads" in raw else ONE_HEAD
    if found[:1] != ONE_HEAD or found != tuple(name for name in HEADS if name in found):
        raise ValueError("heads must be of those that this program knows, in their order")
    return found


def _value(table: object, name: str, *kinds: type | None) -> Any:
    """A value of a JSON table, of one of these kinds (None: null). A boolean is no number."""
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"{name} is missing")
    value = table[name]
    if value is None and None in kinds:
        return None
    if isinstance(value, bool) or not isinstance(value, tuple(kind for kind in kinds if kind)):
        raise ValueError(f"{name} is of the wrong kind")
    return value


def _table(table: object, name: str, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    if otherwise is not None and isinstance(table, dict) and name not in table:
        return otherwise
    found: dict[str, Any] = _value(table, name, dict)
    return found


def _number(table: object, name: str) -> float:
    try:
        value = float(_value(table, name, int, float))
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name} is not a finite number")
    return value


def save_weights(
    weights: Weights,
    directory: Path,
    *,
    size: int,
    answers: Reference,
    calibration: Calibration | None = None,
    figures: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
) -> Card:
    """Write a network's weights, what it answers, and its card; the card last, so that it is never ahead of them."""
    directory.mkdir(parents=True, exist_ok=True)
    files.replace(directory / WEIGHTS, save(dict(weights)))
    card = Card(
        digest=files.digest(directory / WEIGHTS),
        size=size,
        calibration=calibration or Calibration(),
        figures=figures or {},
        trained=trained or {},
    )
    answers.write(directory, card.digest, size)
    card.write(directory)
    return card
