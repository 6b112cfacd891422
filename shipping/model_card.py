"""MODEL_CARD.md: what people must know of a model before they let it route, written from measured figures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.model.card import Card
from router.training.evaluate import Answers
from router.training.routes import HEAD, rows

INTENDED = """\
It chooses to which AI node of a hospital's network a plain X-ray is sent: `abdominal`, `adult_chest`,
`pediatric_chest`, `spine`, or `others`. **It is not a medical device**, finds no disease, and must not be used where
a wrong address would harm somebody without a person noticing. An answer below its class's threshold, or for a picture
unlike those it knows, is `uncertain` and meant for people. Where the header holds an age, let rules on `age` choose
between child and adult: pixels cannot tell a teenager's chest from an adult's."""


def model_card(
    card: Card, found: Mapping[str, Any], answers: Answers, licences: Mapping[str, Mapping[str, int]],
    history: Sequence[Mapping[str, float]], failures: str = "",
) -> str:  # fmt: skip
    """The page as Markdown; `found` are the test split's figures, all others are the card's.

    `failures` is what people know of where it fails, in their words.
    """
    test = card.figures["test"]
    value, low, high = test["macro"]["f1"]
    parts = [
        "# Model card: MobileNet-V1 for routing radiographs",
        f"Macro F1 **{value:.3f}** (95 % interval {low:.3f}–{high:.3f}) on {test['n']} test images of "
        f"{test['patients']} patients, none of whom is in training; the test split was looked at {test['looks']} "
        f"time{'s' if test['looks'] != 1 else ''}.",
        _routes(card),
        "## What it is for\n\n" + INTENDED,
        _facts(card, found, history),
        _figures(card, found),
        _mistakes(answers),
        _sources(card),
        _views(card),
        _patients(card),
        _parts(card),
        _phantoms(card),
        _shortcuts(card),
        failures and "## Where it fails\n\n" + failures.rstrip(),
        _set(found, licences),
        _again(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _routes(card: Card) -> str:
    """What a hospital would see; it comes before any F1."""
    if "routes" not in card.figures:
        return ""
    text = (
        "## Who gets what\n\nBy the rules of the shipped `routing.yaml`, for headers that say nothing of the body "
        "part, and for simulated ones that name the right part in 85 %, none in 10 % and another in 5 % of the images "
        "(five draws)."
    )
    return "\n\n".join([
        text, *(f"{name}:\n\n" + _table(HEAD, rows(found)) for name, found in card.figures["routes"].items())
    ])  # fmt: skip


def _views(card: Card) -> str:
    found = card.figures.get("sources", {}).get("views")
    if not found:
        return ""
    lines = [(row["source"], row["view"], row["n"], row["right"]) for row in found["sources"]]
    return (
        f"## Views of sources it never saw\n\nNamed rightly, sure or not: {found['right']} of {found['n']} whose "
        "view is known.\n\n" + _table(("source", "view", "n", "right"), lines)
    )


def _again(card: Card) -> str:
    images = "--manifest SET.csv --weights IMAGENET.safetensors"
    lines = [
        f"dicom-router train --recipe shipped {images} --size {card.size} --epochs {card.trained['recipe']['epochs']} "
        "--out runs/shipped",
        *(
            f"python -m shipping.folds --by {kind} {images} --size {run['size']} --epochs {run['epochs']} "
            f"--out runs/folds/{kind}"
            for kind, run in card.figures.get("folds", {}).items()
        ),
        "python -m shipping.ship runs/shipped --manifest SET.csv --folds runs/folds --failures FAILURES.md "
        "--licence LICENCE.txt",
        "python -m router.training.quantise --model models/mobilenet_v1 --manifest SET.csv",
    ]
    return "## Again\n\n```\n" + "\n".join(lines) + "\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _facts(card: Card, found: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> str:
    recipe, calibration = card.trained["recipe"], card.calibration
    thresholds = ", ".join(f"{name} {value:g}" for name, value in calibration.thresholds.items())
    took = f", {sum(entry['seconds'] for entry in history) / 60:.0f} minutes in all" if history else ""
    return "## What it is\n\n" + _table(("", ""), [
        ("network", f"MobileNet-V1 1.0, one grey channel, {found['model']['parameters']:,} parameters, in 16 bits"),
        ("picture", f"{card.size} × {card.size}, preprocessing version {card.preprocessing}"),
        ("start", "ImageNet (TensorFlow, Apache-2.0)"),
        ("recipe", ", ".join(f"{k} {v}" for k, v in recipe.items() if v not in (None, 0, 0.0))),
        ("epoch chosen by validation", f"{card.trained['epoch']} of {recipe['epochs']}{took}"),
        ("temperature, thresholds", f"{calibration.temperature:.3f}; {thresholds}"),
        ("novelty limit", f"{calibration.novelty_limit:.3f}"),
        ("weights (SHA-256)", f"`{card.digest}`"),
    ])  # fmt: skip


def _figures(card: Card, found: Mapping[str, Any]) -> str:
    test = card.figures["test"]
    rows: list[Sequence[Any]] = []
    aged = f"with header age ({test['chests_with_age']} chests have one)"
    for key, title in (("macro", "macro, pixels alone"), ("macro_with_age", f"macro, {aged}")):
        rows.append((title, *(f"{v:.4f} ({low:.3f}–{high:.3f})" for v, low, high in test[key].values()), test["n"]))
    for name, row in test["classes"].items():
        rows.append((name, *(f"{row[k]:.4f}" for k in ("recall", "precision", "f1")), row["n"]))
    sources = [(r["source"], r["class"], r["n"], r["right"], r["uncertain"]) for r in found["sources"]]
    return (
        "## Test split\n\n"
        + _table(("", "recall", "precision", "F1", "n"), rows)
        + f"\n\nAnswered {test['answered']:.1%}, of which {test['right_of_answered']:.2%} rightly; expected "
        f"calibration error {test['calibration_error']:.4f}.\n\n"
        + _table(("source", "class", "n", "right", "uncertain"), sources)
    )


def _mistakes(answers: Answers) -> str:
    pairs = Counter(
        (item.source, item.label, p.top, "uncertain" if p.class_name == "uncertain" else "confident")
        for item, p in zip(answers.items, answers.predictions, strict=True)
        if item.label != p.top
    )
    if not pairs:
        return "## Its mistakes on the test split\n\nNone."
    rows = [(*key, n) for key, n in pairs.most_common()]
    return "## Its mistakes on the test split\n\n" + _table(("source", "label", "prediction", "and was", "n"), rows)


def _sources(card: Card) -> str:
    if "sources" not in card.figures:
        return ""
    found, run = card.figures["sources"], card.figures["folds"]["sources"]
    after = found["shipped_calibration"]
    classes = [(name, row["n"], *(f"{row[k]:.3f}" for k in ("recall", "precision", "f1")))
               for name, row in found["classes"].items()]  # fmt: skip
    recall = sum(row["recall"] for row in found["classes"].values()) / len(found["classes"])
    sources = [(row["source"], row["class"], row["n"], f"{row['recall']:.3f}") for row in found["sources"]]
    return (
        "## Sources it never saw\n\n"
        f"The recipe at {run['size']} px and {run['epochs']} epochs, each time without some sources, judged on these: "
        f"mean recall **{recall:.3f}**, macro F1 {found['macro_f1']:.3f} on {found['n']} images. With the shipped "
        f"calibration, which was fitted on these answers and on those for unseen patients, "
        f"{_percent(after['coverage'])} are answered and {_percent(after['wrong'])} reach a wrong AI node.\n\n"
        + _table(("class", "n", "recall", "precision", "F1"), classes)
        + "\n\n"
        + _table(("source", "class", "n", "recall"), sources)
    )


def _patients(card: Card) -> str:
    if "patients" not in card.figures:
        return ""
    found, run = card.figures["patients"], card.figures["folds"]["patients"]
    rows = [(name, _of(row["wrong"]), _of(row["coverage"])) for name, row in found["routes"].items()]
    return (
        "## Patients it never saw\n\n"
        f"Five folds by patient ({run['size']} px, {run['epochs']} epochs), each scored by thresholds that were fitted "
        f"without it. Images at a wrong AI node: **{_of(found['wrong'])}**, one-sided 95 % bound "
        f"{found['wrong']['upper_95']:.2%}; answered: {_of(found['coverage'])}.\n\n"
        + _table(("route", "wrong, of other classes", "answered, of its class"), rows)
    )


def _parts(card: Card) -> str:
    if "parts" not in card.figures:
        return ""
    found, run = card.figures["parts"], card.figures["folds"]["parts"]
    rows = [(name, _of(row)) for group in ("families", "parts") for name, row in found[group].items()]
    return (
        "## Pictures of a kind it never saw\n\n"
        f"Each part of `others` left out of training and of fitting ({run['size']} px, {run['epochs']} epochs), then "
        f"asked about: at an AI node would be **{_of(found['all'])}**. Families first, then every part.\n\n"
        + _table(("left out", "at an AI node"), rows)
    )


def _phantoms(card: Card) -> str:
    return (
        "## Pictures of nobody\n\nGenerated test patterns, sheets, slices of cylinders and noise "
        "(`shipping/strangers.py`), which took part in nothing: at an AI node would be "
        f"**{_of(card.figures['phantoms'])}**."
    )


def _shortcuts(card: Card) -> str:
    rows = [(name, row["changed"], row["n"], f"{row['share']:.1%} ({row['low']:.1%}–{row['high']:.1%})",
             row["right_before"], row["right_after"])
            for name, row in card.figures["shortcuts"].items()]  # fmt: skip
    head = ("change", "top changed", "n", "share", "right before", "right after")
    return (
        "## What must not matter\n\nTest images changed in what told their sources apart "
        "(`shipping/shortcuts.py`): how often the top class changed.\n\n" + _table(head, rows)
    )


def _of(share: Mapping[str, Any]) -> str:
    return f"{share['k']} of {share['n']}, {_percent(share)}"


def _percent(share: Mapping[str, Any]) -> str:
    return f"{share['share']:.2%} ({share['low']:.2%}–{share['high']:.2%})"


def _set(found: Mapping[str, Any], licences: Mapping[str, Mapping[str, int]]) -> str:
    rows = [
        (name, *row["splits"].values(), row["patients"], ", ".join(f"{s} {n}" for s, n in row["sources"].items()))
        for name, row in found["table1"].items()
        if name != "total"
    ]
    head = ("class", *found["table1"]["total"]["splits"], "patients", "sources")
    terms = [(source, "; ".join(f"{text.replace('|', '/')} ({n})" for text, n in counts.items()))
             for source, counts in licences.items()]  # fmt: skip
    return (
        "## Images\n\nSplit by patient within source and class. No image is part of this folder.\n\n"
        + _table(head, rows)
        + "\n\nLicences as stated by those who published the images (training and validation):\n\n"
        + _table(("source", "licence (images)"), terms)
    )
