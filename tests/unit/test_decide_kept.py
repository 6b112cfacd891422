"""A rule that keeps images of a class from their AI is named, with a count."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from router.cli.classify import _counted, summary
from router.commands.classify_files import Looked
from router.config import load, shipped
from router.decide import decide, kept_from
from router.flow import Decision, PictureFacts, Seen
from tests.unit.test_decide_shipped import ADULT, CHILD, ENABLED, INSTANCE, PLAIN, SETTINGS, TAGS, TORN, says

AGE = TAGS["Age"]


def seen(prediction: object, **header: tuple[str, ...]) -> Seen:
    elements = {TAGS[name]: values for name, values in (PLAIN | header).items()}
    return Seen("decoded", elements, prediction, PictureFacts(frames=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("looked", "kept"),
    [
        (seen(ADULT), ()),
        (seen(ADULT, ImageType=("DERIVED", "SECONDARY")), ("adult-chest-ai",)),
        (seen(CHILD, Intent=("FOR PROCESSING",)), ("pediatric-chest-ai",)),
        (seen(says("spine"), Modality=("RF",)), ("spine-ai",)),
        # Another AI by the header's age is no AI kept from its images.
        (seen(ADULT, Age=("009Y",)), ()),
        (seen(TORN), ()),
        (seen(says("others"), Modality=("RF",)), ()),
        (Seen("undecodable"), ()),
    ],
)
def test_who_was_kept_from_what(looked: Seen, kept: tuple[str, ...]) -> None:
    decision = decide(SETTINGS.rules, INSTANCE, looked, enabled=ENABLED)
    assert kept_from(SETTINGS.rules, looked, decision) == kept


def test_what_is_sent_nowhere_on_purpose_is_not_kept() -> None:
    assert kept_from(SETTINGS.rules, seen(ADULT), Decision("no", (), "", discard=True)) == ()


def test_classify_ends_with_the_counts_by_class_and_rule() -> None:
    rules = load(shipped(), {}).rules
    copies = [seen(ADULT, ImageType=("DERIVED", "SECONDARY"))] * 3
    images = [*copies, seen(says("spine"), Modality=("RF",)), seen(ADULT)]
    looks = []
    for image in images:
        decision = decide(rules, INSTANCE, image, enabled=ENABLED)
        looks.append(Looked(Path("a"), image, decision, kept_from=kept_from(rules, image, decision)))
    kept: Counter[tuple[str, str, str]] = Counter()
    assert list(_counted(looks, kept)) == looks
    assert summary(kept) == [
        "3 images of class adult_chest were kept from adult-chest-ai by rule 'secondary image'",
        "1 image of class spine was kept from spine-ai by rule 'not a plain X-ray'",
    ]
