"""The decision table of the routing.yaml that comes with the program."""

from __future__ import annotations

from typing import Any

import pytest

from router.config import load, shipped
from router.decide import decide
from router.flow import CLASSES, Caller, Instance, PictureFacts, Prediction, Seen

SETTINGS = load(shipped(), {})
ENABLED = frozenset(SETTINGS.destinations)
INSTANCE = Instance("0" * 32, 0.0, Caller("A", "B", "10.0.0.1"), "1.2", "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")
TAGS = {"Modality": 0x00080060, "ImageType": 0x00080008, "Intent": 0x00080068, "Age": 0x00101010,
        "Part": 0x00180015, "Study": 0x00081030}  # fmt: skip
PLAIN = {"Modality": ("DX",), "ImageType": ("ORIGINAL", "PRIMARY"), "Intent": ("FOR PRESENTATION",)}


def says(
    top: str, confidence: float = 0.97, *, uncertain: bool = False, novel: bool = False, chest: float = 0.0
) -> Prediction:
    """A prediction; `chest` goes to the other chest class."""
    second = {"adult_chest": "pediatric_chest", "pediatric_chest": "adult_chest"}.get(top)
    rest = (1 - confidence - chest) / 4
    shares = dict.fromkeys(CLASSES, rest) | ({second: chest} if second else {}) | {top: confidence}
    class_name = "uncertain" if uncertain or novel else top
    return Prediction(tuple(shares[n] for n in CLASSES), top, confidence, 0.0, novel, class_name, "m")


ADULT, CHILD = says("adult_chest"), says("pediatric_chest")
TORN = says("adult_chest", 0.5, uncertain=True, chest=0.48)
FAINT = says("adult_chest", 0.8, chest=0.02)
FAINTEST = says("adult_chest", 0.6, uncertain=True, chest=0.02)
CLEAR = says("adult_chest", 0.6, uncertain=True, chest=0.395)
OPEN = Prediction((0.55, 0.01, 0.01, 0.42, 0.01), "abdominal", 0.55, 0.0, False, "uncertain", "m")
CASES: list[tuple[str, Prediction | None, dict[str, Any], str, str]] = [
    # What the header alone keeps from every AI.
    ("a CT", ADULT, {"Modality": ("CT",)}, "not a plain X-ray", "catch-all"),
    ("a mammogram", ADULT, {"Modality": ("MG",)}, "not a plain X-ray", "catch-all"),
    ("no modality", ADULT, {"Modality": ()}, "not a plain X-ray", "catch-all"),
    ("for processing", ADULT, {"Intent": ("FOR PROCESSING",)}, "raw image", "catch-all"),
    ("secondary", ADULT, {"ImageType": ("DERIVED", "SECONDARY")}, "secondary image", "catch-all"),
    ("derived", ADULT, {"ImageType": ("DERIVED", "PRIMARY")}, "adult chest by pixels", "adult-chest-ai"),
    # Chests: pixels against header.
    ("adult, adult", ADULT, {"Age": ("045Y",)}, "adult by header", "adult-chest-ai"),
    ("adult, child", ADULT, {"Age": ("009Y",)}, "child by header", "pediatric-chest-ai"),
    ("adult, no age", ADULT, {}, "adult chest by pixels", "adult-chest-ai"),
    ("adult, 000Y", ADULT, {"Age": ("000Y",)}, "adult chest by pixels", "adult-chest-ai"),
    ("child, adult", CHILD, {"Age": ("045Y",)}, "adult by header", "adult-chest-ai"),
    ("child, child", CHILD, {"Age": ("009Y",)}, "child by header", "pediatric-chest-ai"),
    ("child, sixteen", CHILD, {"Age": ("016Y",)}, "adult by header", "adult-chest-ai"),
    ("child, fifteen", CHILD, {"Age": ("015Y",)}, "child by header", "pediatric-chest-ai"),
    ("child, no age", CHILD, {}, "pediatric chest by pixels", "pediatric-chest-ai"),
    ("torn, adult", TORN, {"Age": ("045Y",)}, "adult by header", "adult-chest-ai"),
    ("torn, child", TORN, {"Age": ("009Y",)}, "child by header", "pediatric-chest-ai"),
    ("torn, no age", TORN, {}, "otherwise", "catch-all"),
    ("faint, adult", FAINT, {"Age": ("045Y",)}, "adult chest by pixels", "adult-chest-ai"),
    ("faint, child", FAINT, {"Age": ("009Y",)}, "header and pixels disagree on the age", "catch-all"),
    ("faint, no age", FAINT, {}, "adult chest by pixels", "adult-chest-ai"),
    # The header's part decides where the pixels leave it open.
    ("lumbar seen as abdomen", OPEN, {"Part": ("LSPINE",)}, "spine by header", "spine-ai"),
    ("lumbar seen as abdomen, abdomen", OPEN, {"Part": ("ABDOMEN",)}, "abdominal by header", "abdominal-ai"),
    ("open, nothing said", OPEN, {}, "otherwise", "catch-all"),
    ("open, by study", OPEN, {"Study": ("LWS 2 Ebenen",)}, "spine by header", "spine-ai"),
    ("open, another part", OPEN, {"Part": ("CHEST",)}, "header and pixels disagree on the part", "catch-all"),
    (
        "open, contradiction",
        OPEN,
        {"Part": ("LSPINE",), "Study": ("Abdomen",)},
        "header and pixels disagree on the part",
        "catch-all",
    ),
    (
        "chest by header, adult",
        FAINTEST,
        {"Part": ("CHEST",), "Age": ("045Y",)},
        "adult, chest by header",
        "adult-chest-ai",
    ),
    (
        "chest by header, child",
        FAINTEST,
        {"Part": ("CHEST",), "Age": ("009Y",)},
        "child, chest by header",
        "pediatric-chest-ai",
    ),
    ("chest by header, no age", FAINTEST, {"Part": ("CHEST",)}, "adult chest by header and pixels", "adult-chest-ai"),
    (
        "small child by header, no age",
        says("pediatric_chest", 0.6, uncertain=True),
        {"Part": ("CHEST",)},
        "pediatric chest by header and pixels",
        "pediatric-chest-ai",
    ),
    ("torn by header, no age", TORN, {"Part": ("CHEST",)}, "otherwise", "catch-all"),
    # Clear pixels overrule the header, others do not.
    ("clear spine, abdomen", says("spine", 0.99), {"Part": ("ABDOMEN",)}, "spine", "spine-ai"),
    ("spine, chest", says("spine", 0.97), {"Part": ("CHEST",)}, "header and pixels disagree on the part", "catch-all"),
    ("clear spine, hand", says("spine", 0.99), {"Part": ("HAND",)}, "header names a part without an AI", "catch-all"),
    ("clear chest, spine", CLEAR, {"Part": ("SPINE",), "Age": ("045Y",)}, "adult by header", "adult-chest-ai"),
    (
        "adult, spine",
        ADULT,
        {"Part": ("SPINE",), "Age": ("045Y",)},
        "header and pixels disagree on the part",
        "catch-all",
    ),
    (
        "novel, whatever the header",
        says("spine", novel=True),
        {"Part": ("SPINE",)},
        "unlike anything known",
        "catch-all",
    ),
    # The other classes.
    ("spine", says("spine"), {"Age": ("009Y",)}, "spine", "spine-ai"),
    ("abdominal", says("abdominal"), {}, "abdominal", "abdominal-ai"),
    ("others", says("others"), {}, "otherwise", "catch-all"),
    ("uncertain spine", says("spine", 0.6, uncertain=True), {}, "otherwise", "catch-all"),
    ("novel chest", says("adult_chest", novel=True), {"Age": ("045Y",)}, "unlike anything known", "catch-all"),
]


@pytest.mark.parametrize(
    ("prediction", "header", "rule", "destination"), [x[1:] for x in CASES], ids=[x[0] for x in CASES]
)
def test_shipped_rules(prediction: Prediction | None, header: dict[str, Any], rule: str, destination: str) -> None:
    elements = {TAGS[name]: values for name, values in (PLAIN | header).items()}
    seen = Seen("decoded", elements, prediction, PictureFacts(frames=1))
    decision = decide(SETTINGS.rules, INSTANCE, seen, enabled=ENABLED)
    assert (decision.rule, decision.destinations) == (rule, (destination,))


@pytest.mark.parametrize("pixels", ["none", "undecodable", "failed"])
def test_without_pixels_nothing_reaches_an_ai(pixels: Any) -> None:
    seen = Seen(pixels, {TAGS[name]: values for name, values in PLAIN.items()})
    decision = decide(SETTINGS.rules, INSTANCE, seen, enabled=ENABLED)
    assert (decision.rule, decision.destinations) == ("no usable pixels", ("catch-all",))


def test_an_unparseable_data_set_reaches_no_ai() -> None:
    decision = decide(SETTINGS.rules, INSTANCE, Seen("unparseable"), enabled=ENABLED)
    assert (decision.rule, decision.destinations) == ("no usable pixels", ("catch-all",))


def test_several_frames_reach_no_ai() -> None:
    seen = Seen("decoded", {TAGS[n]: v for n, v in PLAIN.items()}, ADULT, PictureFacts(frames=2))
    assert decide(SETTINGS.rules, INSTANCE, seen, enabled=ENABLED).rule == "several frames"


def test_every_class_has_its_destination() -> None:
    names = ["abdominal-ai", "adult-chest-ai", "pediatric-chest-ai", "spine-ai", "catch-all"]
    assert list(SETTINGS.destinations) == names
    assert [warning.partition(": ")[2] for warning in SETTINGS.warnings] == [
        "node.accept is left out: every caller is accepted"
    ]
