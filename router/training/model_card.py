"""MODEL_CARD.md: what people must know of a model before they let it route, written from measured figures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.model.card import Card
from router.training.evaluate import Answers

INTENDED = """\
It chooses to which AI node of a hospital's network a plain X-ray is sent: `abdominal`, `adult_chest`,
`pediatric_chest`, `spine`, or `others`. **It is not a medical device**, finds no disease, and must not be used where
a wrong address would harm somebody without a person noticing. An answer below its class's threshold, or for a picture
unlike those it knows, is `uncertain` and meant for people. Where the header holds an age, let rules on `age` choose
between child and adult: pixels cannot tell a teenager's chest from an adult's."""

FAILURES = """\
- School-age children and teenagers: nearly all children in training are five or younger.
- Lumbar spine in AP view against abdomen: with an unhurried eye some are the same picture under two names.
- Whole-spine films, on which lungs are seen, against chest.
- Abdomen is the scarce class; one hospital gave most of it, and its figure rests on few images.
- Sources that were never seen (below) fare worse than the test split, which comes from the same hospitals as training.
- Computed tomography, magnetic resonance, ultrasound and photographs are known as `others` from few examples only:
  let a rule on Modality keep them away."""


def model_card(
    card: Card, found: Mapping[str, Any], answers: Answers, licences: Mapping[str, Mapping[str, int]],
    history: Sequence[Mapping[str, float]], abroad: Mapping[str, Any] | None,
) -> str:  # fmt: skip
    """The page as Markdown; `found` are the test split's figures, `abroad` those of the folds."""
    test = card.figures["test"]
    value, low, high = test["macro"]["f1"]
    parts = [
        "# Model card: MobileNet-V1 for routing radiographs",
        f"Macro F1 **{value:.3f}** (95 % interval {low:.3f}–{high:.3f}) on {test['n']} test images of "
        f"{test['patients']} patients, none of whom is in training; the test split was looked at {test['looks']} "
        f"time{'s' if test['looks'] != 1 else ''}.",
        "## What it is for\n\n" + INTENDED,
        _facts(card, found, history),
        _figures(card, found),
        _mistakes(answers),
        _abroad(card, abroad),
        "## Where it fails\n\n" + FAILURES,
        _set(found, licences),
        "## Again\n\n```\ndicom-router train --recipe shipped --manifest SET.csv --weights IMAGENET.safetensors "
        f"--size {card.size} --epochs {card.trained['recipe']['epochs']} --out runs/shipped\n"
        "python -m router.training.folds --manifest SET.csv --weights IMAGENET.safetensors --out runs/folds\n"
        "python -m router.training.ship runs/shipped --manifest SET.csv --folds runs/folds\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _facts(card: Card, found: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> str:
    recipe, calibration = card.trained["recipe"], card.calibration
    thresholds = ", ".join(f"{name} {value:g}" for name, value in calibration.thresholds.items())
    seconds = sum(entry["seconds"] for entry in history)
    return "## What it is\n\n" + _table(("", ""), [
        ("network", f"MobileNet-V1 1.0, one grey channel, {found['model']['parameters']:,} parameters, in 16 bits"),
        ("picture", f"{card.size} × {card.size}, preprocessing version {card.preprocessing}"),
        ("start", "ImageNet (TensorFlow, Apache-2.0)"),
        ("recipe", ", ".join(f"{k} {v}" for k, v in recipe.items() if v not in (None, 0, 0.0))),
        ("epoch chosen by validation", f"{card.trained['epoch']} of {len(history)}, {seconds / 60:.0f} minutes in all"),
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


def _abroad(card: Card, abroad: Mapping[str, Any] | None) -> str:
    if abroad is None:
        return ""
    recipe, after = abroad["recipe"], card.figures["calibration"]["unseen_sources"]
    wrong = ", ".join(f"{name} {k} of {n}" for name, (k, n) in after["wrong_routes"].items())
    classes = [(name, row["n"], *(f"{row[k]:.3f}" for k in ("recall", "precision", "f1")))
               for name, row in abroad["classes"].items()]  # fmt: skip
    sources = [(row["source"], row["class"], row["n"], f"{row['recall']:.3f}") for row in abroad["sources"]]
    return (
        "## Sources it never saw\n\n"
        f"Short runs ({recipe['size']} px, {recipe['epochs']} epochs), each without some sources, judged on these: "
        f"macro F1 **{abroad['macro_f1']:.3f}** on {abroad['n']} images. Temperature, thresholds and novelty limit of "
        f"the shipped model were fitted on these answers and the validation split; so set, {after['answered']:.1%} are "
        f"answered, and {after['right_of_answered']:.1%} of the answers are right; wrong routes: {wrong}.\n\n"
        + _table(("class", "n", "recall", "precision", "F1"), classes)
        + "\n\n"
        + _table(("source", "class", "n", "recall"), sources)
    )


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
