"""What a hospital would see: which labelled images reach the right place by the rules of a routing.yaml.

The right place of an image is where the rules send a picture of its class that is beyond doubt, with a header that says
the same. Where they send one of `others`, people look. Headers are simulated in the words of the standard: once without
a body part, and once with it right, absent and wrong in shares that were measured in hospitals.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.config import Settings, load, shipped
from router.decide import decide, header_tags
from router.decide.header_words import CHEST, PARTS
from router.dicom.data_set import open_data_set
from router.dicom.elements import UnparseableError
from router.dicom.uids import DX_FOR_PRESENTATION
from router.flow import CLASSES, Caller, Header, Instance, PictureFacts, Prediction, Seen
from router.pixels.header import values
from router.training.data import Item
from router.training.metrics import share

MODALITY, IMAGE_TYPE, BODY_PART, PATIENT_AGE = 0x00080060, 0x00080008, 0x00180015, 0x00101010
WORDS = {"abdominal": "ABDOMEN", CHEST: "CHEST", "spine": "SPINE", "others": "HAND"}
AGES = {"adult_chest": 45.0, "pediatric_chest": 5.0}
RIGHT, ABSENT = 0.85, 0.10
"""The shares of headers that name the right body part, and none; all others name a wrong one."""
DRAWS = 5
"""Draws of simulated headers, each with its own seed; counts are the mean."""
INSTANCE = Instance("0" * 32, 0.0, Caller("", "", "127.0.0.1"), DX_FOR_PRESENTATION, "", "", 0, 0, "")
Outcome = str
AT_RIGHT, AT_WRONG, TO_PEOPLE = "right", "wrong", "people"


@dataclass(frozen=True, slots=True)
class Routes:
    """The rules under test, and the right place of each class by them."""

    settings: Settings
    places: dict[str, frozenset[str]]

    @classmethod
    def of(cls, config: Path | None) -> Routes:
        """Of a routing.yaml, or of the one that came with the program. Raises ConfigError."""
        settings = load(config or shipped(), {})
        places = {name: _sent(settings, _made(WORDS[part_of(name)], AGES.get(name)), certain(name))
                  for name in CLASSES}  # fmt: skip
        return cls(settings, places)

    def outcome(self, label: str, header: Header, prediction: Prediction) -> Outcome:
        """Whether an image of this class reaches its place. People are never a wrong place."""
        sent = _sent(self.settings, header, prediction)
        if sent == self.places[label]:
            return TO_PEOPLE if label == "others" else AT_RIGHT
        return TO_PEOPLE if sent <= self.places["others"] else AT_WRONG


def part_of(label: str) -> str:
    return CHEST if label in AGES else label


def certain(label: str) -> Prediction:
    chances = tuple(float(name == label) for name in CLASSES)
    return Prediction(chances, label, 1.0, 0.0, False, label, "")


def _sent(settings: Settings, header: Header, prediction: Prediction) -> frozenset[str]:
    seen = Seen("decoded", header, prediction, PictureFacts(frames=1))
    return frozenset(decide(settings.rules, INSTANCE, seen, enabled=settings.enabled).destinations)


def _made(word: str, age: float | None) -> Header:
    header: dict[int, tuple[str, ...]] = {MODALITY: ("DX",), IMAGE_TYPE: ("ORIGINAL", "PRIMARY")}
    if word:
        header[BODY_PART] = (word,)
    if age is not None:
        header[PATIENT_AGE] = (f"{int(age):03d}Y" if age >= 1 else f"{max(1, int(age * 12)):03d}M",)
    return header


def without_part(item: Item) -> Header:
    """A header without a body part; with the age, if the set has it."""
    return _made("", item.age)


def simulated(item: Item, seed: int) -> Header:
    """A header that names the right part, none or another one; the same for an image and a seed on every machine."""
    chance = random.Random(f"{seed}/{item.path.parent.name}/{item.path.name}")  # noqa: S311 - it must repeat
    drawn, part = chance.random(), part_of(item.label)
    if drawn >= RIGHT + ABSENT:
        part = chance.choice([name for name in PARTS if name != part])
    return _made("" if RIGHT <= drawn < RIGHT + ABSENT else WORDS[part], item.age)


def as_it_is(item: Item, tags: frozenset[int]) -> Header | None:
    """The header of a file; None if it is not DICOM."""
    try:
        data_set = open_data_set(item.path)
    except (OSError, UnparseableError):
        return None
    try:
        return values(data_set, tags)
    finally:
        data_set.close()


def who_gets_what(routes: Routes, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """For each kind of header, where the images go: in all, by class, and by source and class."""
    kinds: dict[str, tuple[Callable[[Item, int], Header | None], int]] = {
        "no body part in the header": (lambda item, _: without_part(item), 1),
        "simulated header": (simulated, DRAWS),
    }
    tags = header_tags(routes.settings.rules)
    if any(item.path.suffix.lower() not in (".png", ".jpg", ".jpeg") for item in items):
        kinds["header as it is"] = (lambda item, _: as_it_is(item, tags), 1)
    found = {}
    for kind, (header, draws) in kinds.items():
        counts: Counter[tuple[str, str, Outcome]] = Counter()
        for seed in range(draws):
            for item, prediction in zip(items, predictions, strict=True):
                made = header(item, seed)
                if made is not None:
                    counts[item.source, item.label, routes.outcome(item.label, made, prediction)] += 1
        if counts:
            found[kind] = _table(counts, draws)
    return found


def _table(counts: Counter[tuple[str, str, Outcome]], draws: int) -> dict[str, Any]:
    classes: dict[str, dict[str, Any]] = {}
    for name in CLASSES:
        mine = {outcome: _mean(counts, draws, label=name, outcome=outcome)
                for outcome in (AT_RIGHT, AT_WRONG, TO_PEOPLE)}  # fmt: skip
        n = sum(mine.values())
        if n:
            classes[name] = mine | {
                "n": n,
                "coverage": share(mine[AT_RIGHT], n),
                "wrong_share": share(mine[AT_WRONG], n),
            }
    at_an_ai = sum(row[AT_RIGHT] + row[AT_WRONG] for row in classes.values())
    covered = [row["coverage"]["share"] for name, row in classes.items() if name != "others"]
    wrong = sum(row[AT_WRONG] for row in classes.values())
    sources = [
        {"source": source, "class": label, "n": _mean(counts, draws, source, label)}
        | {outcome: _mean(counts, draws, source, label, outcome) for outcome in (AT_RIGHT, AT_WRONG, TO_PEOPLE)}
        for source, label in sorted({(source, label) for source, label, _ in counts})
    ]
    return {
        "n": sum(row["n"] for row in classes.values()), "at_an_ai": at_an_ai, "wrong": wrong,
        "wrong_at_an_ai": share(wrong, at_an_ai),
        "mean_coverage": round(float(np.mean(covered)), 4) if covered else 0.0,
        "classes": classes, "sources": sources,
    }  # fmt: skip


def _mean(
    counts: Counter[tuple[str, str, Outcome]], draws: int, source: str = "", label: str = "", outcome: Outcome = ""
) -> int:
    """The mean count for each draw of the kind asked for; an empty text asks for all."""
    wanted = (source, label, outcome)
    total = sum(n for key, n in counts.items() if all(w in ("", k) for w, k in zip(wanted, key, strict=True)))
    return round(total / draws)


def _of_all(wrong: dict[str, Any]) -> str:
    return f"{wrong['share']:.2%} of what is at an AI ({wrong['low']:.2%}–{wrong['high']:.2%})"


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lines of cells for people: kind of header, class, n, right, wrong, to people; wrong and right with intervals."""
    lines: list[tuple[str, ...]] = []
    for kind, table in found.items():
        wrong = table["wrong_at_an_ai"]
        lines.append((kind, "all", str(table["n"]), str(table["at_an_ai"] - table["wrong"]), str(table["wrong"]),
                      str(table["n"] - table["at_an_ai"]), f"{table['mean_coverage']:.3f} (mean of classes)",
                      _of_all(wrong)))  # fmt: skip
        for name, row in table["classes"].items():
            cells = (f"{row[key]['share']:.3f} ({row[key]['low']:.3f}–{row[key]['high']:.3f})"
                     for key in ("coverage", "wrong_share"))  # fmt: skip
            right, shares = str(row[AT_RIGHT]), tuple(cells)
            if name == "others":
                right, shares = "–", ("–", shares[1])
            lines.append(("", name, str(row["n"]), right, str(row[AT_WRONG]), str(row[TO_PEOPLE]), *shares))
    return lines


HEAD = ("header", "class", "n", "right", "wrong", "to people", "at the right AI", "at a wrong AI")
