"""What a rule can ask of the prediction and the pixels. Unknown where there is no prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.decide.conditions.base import Comparison, Facts, NoTags
from router.flow import CLASSES, Prediction

CHESTS = frozenset({"adult_chest", "pediatric_chest"})


@dataclass(frozen=True, slots=True)
class ClassIs(NoTags):
    """The prediction's class: one of the five, or `uncertain`."""

    names: frozenset[str]
    subject: str = "class"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.class_name in self.names


@dataclass(frozen=True, slots=True)
class TopIs(NoTags):
    """The most probable class, whether or not the card trusts it."""

    names: frozenset[str]
    subject: str = "top"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.top in self.names


@dataclass(frozen=True, slots=True)
class ViewIs(NoTags):
    """The view that the model sees: one of three, or `uncertain`. Unknown if the model has no views."""

    names: frozenset[str]
    subject: str = "view"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None or not prediction.view else prediction.view in self.names


@dataclass(frozen=True, slots=True)
class Inverted(NoTags):
    """Whether the picture came with the wrong polarity."""

    expected: bool
    subject: str = "inverted"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.inverted is self.expected


@dataclass(frozen=True, slots=True)
class Confidence(NoTags):
    """The probability of `top`."""

    comparison: Comparison
    subject: str = "confidence"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else self.comparison.holds(prediction.confidence)


@dataclass(frozen=True, slots=True)
class Probability(NoTags):
    """The summed probability of some classes; `probability.chest` is that of both chests."""

    classes: frozenset[str]
    comparison: Comparison

    @property
    def subject(self) -> str:
        return "probability." + ("chest" if self.classes == CHESTS else "+".join(sorted(self.classes)))

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else self.comparison.holds(summed(prediction, self.classes))


@dataclass(frozen=True, slots=True)
class PartConfidence(NoTags):
    """The probability of the body part that `top` shows: both chests are one part."""

    comparison: Comparison
    subject: str = "part_confidence"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        if prediction is None:
            return None
        classes = CHESTS if prediction.top in CHESTS else frozenset({prediction.top})
        return self.comparison.holds(summed(prediction, classes))


def summed(prediction: Prediction, classes: frozenset[str]) -> float:
    """NaN if the prediction has other classes than CLASSES."""
    if len(prediction.probabilities) != len(CLASSES):
        return math.nan
    pairs = zip(CLASSES, prediction.probabilities, strict=True)
    return sum(chance for name, chance in pairs if name in classes)


@dataclass(frozen=True, slots=True)
class Novel(NoTags):
    """Whether the picture is beyond the card's limit of novelty."""

    expected: bool
    subject: str = "novel"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.novel is self.expected


@dataclass(frozen=True, slots=True)
class PixelsAre(NoTags):
    """Whether there are pixels that could be looked at; never unknown."""

    states: frozenset[str]
    subject: str = "pixels"

    def holds(self, facts: Facts) -> bool | None:
        return facts.seen.pixels in self.states
