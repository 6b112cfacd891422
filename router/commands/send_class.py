"""Where the rules in force would send one image if the model were sure of a class."""

from __future__ import annotations

from dataclasses import replace

from router.config import Settings
from router.decide import decide
from router.decide.conditions import Kept
from router.decide.header_facts import asked
from router.decide.replay import Came
from router.flow import CLASSES


def destinations_if(came: Came, label: str, settings: Settings) -> tuple[str, ...]:
    """Its own header, as far as it was kept, and a certain prediction of the class `label`.

    Empty where nothing of the header was kept, where there was no prediction, and where the rules discard it.
    """
    if came.facts is None or came.seen.prediction is None:
        return ()
    chances = tuple(float(name == label) for name in CLASSES)
    certain = replace(
        came.seen.prediction, probabilities=chances, top=label, class_name=label, confidence=1.0, novelty=0.0,
        novel=False,
    )  # fmt: skip
    kept = Kept(came.facts.age, came.facts.missing(asked(settings.rules).tags, came.asked))
    decision = decide(
        settings.rules, came.instance, replace(came.seen, prediction=certain), enabled=settings.enabled,
        dry_run=settings.node.dry_run, kept=kept,
    )  # fmt: skip
    return () if decision.discard else decision.destinations
