"""From raw outputs of the network to predictions: temperature, thresholds, the novelty limit.

Pure numpy over what an engine returned; knows no engine and reads no file. Fitting lives in `router.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router.flow import CLASSES, UNCERTAIN, Prediction

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far an answer may be believed.

    `temperature` divides the logits; `thresholds` is the least confidence with which each class is named;
    a novelty beyond `novelty_limit` makes a picture novel whatever its confidence.
    """

    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0.5))
    novelty_limit: float = float("inf")

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Logits (n, classes) to calibrated probabilities (n, classes) that sum to 1."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        exponentials = np.exp(scaled)
        total: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return total

    def predictions(self, logits: Floats, novelty: Floats, model: str) -> list[Prediction]:
        """One prediction for each row. An output that is not finite is novel, and so `uncertain`."""
        finite = np.isfinite(logits).all(axis=1) & np.isfinite(novelty)
        clean = np.where(finite[:, None], logits, 0.0)
        return [
            self._predict(tuple(map(float, row)), float(score), bool(ok), model)
            for row, score, ok in zip(self.probabilities(clean), novelty, finite, strict=True)
        ]

    def _predict(self, probabilities: tuple[float, ...], novelty: float, finite: bool, model: str) -> Prediction:
        best = max(range(len(CLASSES)), key=probabilities.__getitem__)
        top, confidence = CLASSES[best], probabilities[best]
        novel = not finite or novelty > self.novelty_limit
        trusted = not novel and confidence >= self.thresholds[top]
        return Prediction(
            probabilities=probabilities,
            top=top,
            confidence=confidence,
            novelty=novelty if finite else float("inf"),
            novel=novel,
            class_name=top if trusted else UNCERTAIN,
            model=model,
        )
