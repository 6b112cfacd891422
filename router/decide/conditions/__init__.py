"""What a rule can ask of an instance: small frozen values with three answers.

`holds(facts)` is True, False, or None for unknown. Only True makes a rule fire. Nothing here raises on received values,
and `subject` names what is asked, never the value that was found.
"""

from router.decide.conditions.base import OPERATORS, Comparison, Condition, Facts, Kept
from router.decide.conditions.header import AgeIs, Exists, Frames, HeaderAgrees, HeaderPart, HeaderView, Text
from router.decide.conditions.logic import AllOf, AnyOf, Not, parts
from router.decide.conditions.matchers import Equal, Matcher, Regex, glob
from router.decide.conditions.prediction import (
    CHESTS,
    ClassIs,
    Confidence,
    Inverted,
    Novel,
    PartConfidence,
    PixelsAre,
    Probability,
    TopIs,
    ViewIs,
)
from router.decide.conditions.private import Private, PrivateExists, PrivateText
from router.decide.conditions.results import ANY, ResultOf
from router.decide.conditions.sender import FromAe, PeerIn, ReceivedAt, SopClass

__all__ = [
    "ANY",
    "CHESTS",
    "OPERATORS",
    "AgeIs",
    "AllOf",
    "AnyOf",
    "ClassIs",
    "Comparison",
    "Condition",
    "Confidence",
    "Equal",
    "Exists",
    "Facts",
    "Frames",
    "FromAe",
    "HeaderAgrees",
    "HeaderPart",
    "HeaderView",
    "Inverted",
    "Kept",
    "Matcher",
    "Not",
    "Novel",
    "PartConfidence",
    "PeerIn",
    "PixelsAre",
    "Private",
    "PrivateExists",
    "PrivateText",
    "Probability",
    "ReceivedAt",
    "Regex",
    "ResultOf",
    "SopClass",
    "Text",
    "TopIs",
    "ViewIs",
    "glob",
    "parts",
]
