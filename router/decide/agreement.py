"""Whether the header names the body part that the pixels show, for whoever watches how often it does not."""

from __future__ import annotations

from router.decide.conditions import Facts, HeaderAgrees
from router.decide.header_words import Vocabulary
from router.flow import Instance, Seen


def agreement(vocabulary: Vocabulary, instance: Instance, seen: Seen) -> bool | None:
    """None where the header names no part, or was not read for one: then no rule asks for it."""
    return HeaderAgrees(True, vocabulary).holds(Facts(instance, seen))
