"""MODEL_CARD.md: what people must know of a model before they let it route, written from measured figures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.model.card import Card
from router.templates import fill
from router.training.evaluate import Answers
from router.training.routes import HEAD, rows

TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def model_card(
    card: Card, found: Mapping[str, Any], answers: Answers, licences: Mapping[str, Mapping[str, int]],
    history: Sequence[Mapping[str, float]], failures: str = "",
) -> str:  # fmt: skip
    """The page as Markdown; `found` are the test split's figures, all others are the card's.

    `failures` is what people know of where it fails, in their words.
    """
    mistakes = Counter(
        (item.source, item.label, p.top, "uncertain" if p.class_name == "uncertain" else "confident")
        for item, p in zip(answers.items, answers.predictions, strict=True)
        if item.label != p.top
    )
    return fill(
        TEMPLATE, card=card, found=found, licences=licences, failures=failures, mistakes=mistakes.most_common(),
        recipe=[(name, value) for name, value in card.trained["recipe"].items() if value not in (None, 0, 0.0)],
        seconds=sum(entry["seconds"] for entry in history) if history else None, route_head=HEAD, route_rows=rows,
    )  # fmt: skip
