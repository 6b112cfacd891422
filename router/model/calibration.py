"""From raw outputs of the network to predictions: temperature, thresholds, the novelty limit.

Pure numpy over what an engine returned; knows no engine and reads no file. Fitting lives in `router.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from router.flow import CLASSES, UNCERTAIN, VIEWS, Prediction

Floats = NDArray[np.floating]
HEADS: Mapping[str, int] = {"class": len(CLASSES), "view": len(VIEWS), "inverted": 2}
"""What a network can answer, with the number of outputs, in their order. `inverted`: normal, inverted."""
ONE_HEAD = ("class",)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far an answer may be believed.

    `temperature` divides the logits; `thresholds` is the least confidence with which each class is named;
    a novelty beyond `novelty_limit` makes a picture novel, even if its confidence is high.
    """

    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0.5))
    novelty_limit: float = float("inf")
    heads: tuple[str, ...] = ONE_HEAD
    """Names of HEADS, in their order: what the network's outputs are."""
    view_temperature: float = 1.0
    view_threshold: float = 0.9
    """The least confidence with which a view is named."""
    inverted_threshold: float = 0.9
    """A picture at least this likely to be inverted is turned and looked at again; then both looks decide."""

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Outputs (n, all heads) to calibrated probabilities of the classes (n, classes) that sum to 1."""
        return _softmax(logits[:, : len(CLASSES)], self.temperature)

    def inverted(self, logits: Floats) -> NDArray[np.float64]:
        """How likely each picture (n,) has the wrong polarity; 0 if the network has no such head."""
        found = self._outputs(logits, "inverted")
        return np.zeros(len(logits)) if found is None else _softmax(found, 1.0)[:, 1]

    def _outputs(self, logits: Floats, head: str) -> Floats | None:
        if head not in self.heads:
            return None
        begin = sum(HEADS[name] for name in self.heads[: self.heads.index(head)])
        return logits[:, begin : begin + HEADS[head]]

    def predictions(
        self, logits: Floats, novelty: Floats, model: str, inverted: NDArray[np.bool_] | None = None
    ) -> list[Prediction]:
        """One prediction for each row. An output that is not finite is novel, and so `uncertain`.

        `inverted` (n,): which were looked at in the other polarity than they came with.
        """
        finite = np.isfinite(logits).all(axis=1) & np.isfinite(novelty)
        clean = np.where(finite[:, None], logits, 0.0)
        views = self._outputs(clean, "view")
        chances = [None] * len(clean) if views is None else _softmax(views, self.view_temperature)
        turned = np.zeros(len(clean), bool) if inverted is None else inverted
        return [
            self._seen(self._predict(tuple(map(float, row)), float(score), bool(ok), model), chance, bool(flag))
            for row, score, ok, chance, flag in zip(
                self.probabilities(clean), novelty, finite, chances, turned, strict=True
            )
        ]

    def _seen(self, prediction: Prediction, views: NDArray[np.float64] | None, inverted: bool) -> Prediction:
        """The prediction with what the other heads say."""
        if views is None:
            return replace(prediction, inverted=inverted)
        best = int(views.argmax())
        confidence = float(views[best])
        trusted = not prediction.novel and confidence >= self.view_threshold
        view = VIEWS[best] if trusted else UNCERTAIN
        return replace(prediction, view=view, view_confidence=confidence, inverted=inverted)

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


def _softmax(logits: Floats, temperature: float) -> NDArray[np.float64]:
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponentials = np.exp(scaled)
    total: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return total
