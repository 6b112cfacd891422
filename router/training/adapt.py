"""A hospital's own model: the present one with a new head, judged on images that took no part, and written if no worse.

Learned from: the hospital's images (`own_images`) and features of old ones (`known_images`). Judged on: a part of the
hospital's patients that is held out, and the pinned old images. The layers below the head stay as they are.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from router.config.header_words import shipped_vocabulary
from router.decide import header_tags
from router.flow import CLASSES, Header, Prediction
from router.model.calibration import Calibration
from router.model.card import WEIGHTS, Card
from router.model.engines import EngineError
from router.model.int8 import FILE as INT8_FILE
from router.model.int8 import Int8
from router.model.mobilenet_v1 import MobileNetV1
from router.model.saving import save_model
from router.training.adapting import Labelled, adapted
from router.training.data import DataError, Item, deal, digest_of, read_manifest
from router.training.evaluate import private
from router.training.known_images import KnownImages
from router.training.metrics import share
from router.training.own_images import OwnImages, find, held_out, look
from router.training.quantise import agreeing
from router.training.routes import AT_RIGHT, AT_WRONG, TO_PEOPLE, Routes, without_part

HELD_OUT = 0.3
"""The share (0…1) of the hospital's patients that judge the new model."""
FEWEST = 20
"""Images to learn from; fewer say nothing."""
MAY_FALL = 0.01
"""The share (0…1) of pinned images with an AI that may reach it no longer."""
PINNED = "pinned.csv"


@dataclass(frozen=True, slots=True)
class Old:
    """Where images of other hospitals come from: a manifest, or None for what lies in the model's folder."""

    manifest: Path | None = None
    root: Path | None = None

    def read(self, base: Path, network: MobileNetV1, card: Card) -> KnownImages:
        if self.manifest is not None:
            items = deal(read_manifest(self.manifest, self.root or self.manifest.parent))
            return KnownImages.of(network, items, card.size)
        known = KnownImages.read(base, card.digest)
        if known is None:
            raise DataError(
                f"{base}: holds no known.safetensors; give the set that it was trained on with --old SET.csv"
            )
        return known


def adapt(
    base: Path,
    folder: Path,
    out: Path,
    routes: Routes,
    *,
    labels: Path | None = None,
    old: Old | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Adapt the model in `base` to the images below `folder`, and write it into `out` unless it is worse.

    Returns figures, and under `refused` why nothing was written (empty: it was). Raises CardError, DataError.
    """
    card, network = Card.read(base), MobileNetV1.read(base / WEIGHTS)
    card.must_fit(network.weights())
    known = (old or Old()).read(base, network, card)
    labelled, others = find(folder, labels)
    words = routes.settings.header_words or shipped_vocabulary()
    tags = header_tags(routes.settings.rules)
    own, counts = look(network, card.calibration, card.size, labelled, others, tags, words, progress=progress)
    judged = held_out(own, HELD_OUT)
    if (~judged).sum() < FEWEST:
        raise DataError(
            f"{int((~judged).sum())} images to learn from, {FEWEST} are needed; let the node see more, or label more"
        )
    fresh = adapted(network, known.learned, own[~judged].known)
    found = {
        "base": card.digest,
        "images": counts | {"learned": int((~judged).sum()), "held_out": int(judged.sum())},
        "own": {
            name: [judge(routes, one, card.calibration, part) for one in (network, fresh)]
            for name, mine in (("people", own.by_people), ("header", ~own.by_people))
            if (part := own[judged & mine]).items
        },
        "pinned": [judge(routes, one, card.calibration, _without_headers(known.pinned)) for one in (network, fresh)],
    }
    found["refused"] = refusals(found)
    if not found["refused"]:
        _write(base, out, card, fresh, known, own, judged, found)
    return found


def judge(routes: Routes, network: MobileNetV1, calibration: Calibration, own: OwnImages) -> dict[str, Any]:
    """Where a network's answers send images, as `count` says."""
    with torch.inference_mode():
        features = torch.from_numpy(own.known.features)
        logits, novelty = network.head(features).numpy(), network.novelty(features).numpy()
    return count(routes, own.items, own.headers, calibration.predictions(logits, novelty, ""))


def count(
    routes: Routes, items: Sequence[Item], headers: Sequence[Header | None], predictions: Sequence[Prediction]
) -> dict[str, Any]:
    """By the rules: `right` and `people` of the images with an AI, `wrong` of all; with the shares' intervals."""
    counts: Counter[str] = Counter()
    for item, header, prediction in zip(items, headers, predictions, strict=True):
        outcome = routes.outcome(item.label, without_part(item) if header is None else header, prediction)
        if item.label != "others" or outcome == AT_WRONG:
            counts[outcome] += 1
    with_ai = sum(item.label != "others" for item in items)
    return {
        "n": len(items), "with_ai": with_ai, **{name: counts[name] for name in (AT_RIGHT, AT_WRONG, TO_PEOPLE)},
        "wrong_share": share(counts[AT_WRONG], len(items)), "right_share": share(counts[AT_RIGHT], with_ai),
    }  # fmt: skip


def refusals(found: dict[str, Any]) -> list[str]:
    """Why the new model must not be used; empty when it is no worse."""
    why = []
    for name, (before, after) in found["own"].items():
        whose = f"held-out images labelled by {name}"
        if after[AT_WRONG] > before[AT_WRONG]:
            why.append(f"{after[AT_WRONG]} of the {whose} reach a wrong AI, before {before[AT_WRONG]}")
        if after[AT_RIGHT] < before[AT_RIGHT]:
            why.append(f"{after[AT_RIGHT]} of the {whose} reach their AI, before {before[AT_RIGHT]}")
    before, after = found["pinned"]
    if after[AT_WRONG] > before[AT_WRONG]:
        why.append(f"{after[AT_WRONG]} pinned images reach a wrong AI, before {before[AT_WRONG]}")
    if after[AT_RIGHT] < before[AT_RIGHT] - MAY_FALL * before["with_ai"]:
        why.append(f"{after[AT_RIGHT]} pinned images reach their AI, before {before[AT_RIGHT]}")
    return why


def _without_headers(pinned: Labelled) -> OwnImages:
    items = [Item(Path(str(n)), CLASSES[label], str(n)) for n, label in enumerate(pinned.truth)]
    return OwnImages(items, [None] * len(items), pinned)


def _write(
    base: Path,
    out: Path,
    card: Card,
    fresh: MobileNetV1,
    known: KnownImages,
    own: OwnImages,
    judged: NDArray[np.bool_],
    found: dict[str, Any],
) -> None:
    """The model's folder: weights, card, card for people, known images, and eight bits where they still hold."""
    items = [replace(item, split="test" if mine else "train") for item, mine in zip(own.items, judged, strict=True)]
    trained = {
        "adapted_from": card.digest,
        "set": digest_of(items),
        "base": dict(card.trained.get("base", card.trained)),
    }
    # In the kind of numbers that the weights have had: the layers below the head stay as they are, bit for bit.
    half = _is_half(base)
    new = save_model(fresh, out, size=card.size, half=half, calibration=card.calibration, trained=trained)
    (out / INT8_FILE).unlink(missing_ok=True)
    found["int8"] = _eight_bits(base, out, card, new, items)
    new = replace(new, figures={"adapted": found})
    new.write(out)
    known.write(out, new.digest)
    with private(out / PINNED) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split", "patient"])
        numbers = {name: n for n, name in enumerate(dict.fromkeys(item.patient for item in items))}
        writer.writerows([str(i.path.resolve()), i.label, i.split, numbers[i.patient]] for i in items)
    (out / "MODEL_CARD.md").write_text(card_text(new, found), encoding="utf-8")
    if (base / "LICENSE").is_file():
        shutil.copyfile(base / "LICENSE", out / "LICENSE")


def _is_half(base: Path) -> bool:
    from safetensors import safe_open

    with safe_open(base / WEIGHTS, "pt") as file:
        return bool(file.get_tensor("conv_pw_1.weight").dtype == torch.float16)


def _eight_bits(base: Path, out: Path, old: Card, new: Card, items: Sequence[Item]) -> str:
    """Measure whether eight bits still agree, now that the head is another; what became of them, in words."""
    try:
        int8 = replace(Int8.read(base, old.digest), digest=new.digest)
        fresh, why_not = agreeing(out, int8, items)
    except ImportError:
        return "left out: OpenVINO is not installed, so that the agreement could not be measured"
    except EngineError as error:
        return f"left out: {error}"
    if why_not:
        return f"left out: {'; '.join(why_not)}"
    fresh.write(out)
    return f"measured again on {fresh.figures['n']} of the hospital's images"


TEXT = """\
# Model card: adapted to a hospital

Made by `dicom-router adapt` from the model with the weights `{base}`. It has that model's layers, thresholds and
limit of novelty. Its head was fitted again on {learned} images of the hospital and on features of images that the old
model was trained on. Its novelty knows the hospital's images as well. **It is not a medical device.**

Labels: {by_people} images by people, {by_header} by the header where the pixels agreed with it. Judging by labels of
headers is mild: where header and pixels are wrong in the same way, nothing shows it.

## Where images go by the rules

{rows}

Held out: images of patients of the hospital that took no part. Pinned: images of other hospitals, without headers. The
old model was not trained on them, but its epoch was chosen by them.

Eight bits: {int8}.

The figures on the old model's card do not hold for this one. `{pinned}` lists the hospital's images and their splits.
Judge later models on those of the split test:
`dicom-router model promote DIR --pinned DIR/{pinned} --root /`.
"""


def card_text(card: Card, found: dict[str, Any]) -> str:
    """The card for people."""
    lines = ["| images | n | right AI, before | after | wrong AI, before | after | to people, before | after |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    lines += [f"| {' | '.join(row)} |" for row in table(found)]
    images = found["images"]
    return TEXT.format(
        base=card.trained["adapted_from"], learned=images["learned"], by_people=images["labelled_by_people"],
        by_header=images["labelled_by_header"], rows="\n".join(lines), int8=found["int8"], pinned=PINNED,
    )  # fmt: skip


def table(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lines of cells for people: images, n, then right, wrong and to people, each before and after."""
    pairs = [(f"held out, labelled by {name}", pair) for name, pair in found["own"].items()]
    return [
        (name, str(pair[0]["n"]), *(str(one[key]) for key in (AT_RIGHT, AT_WRONG, TO_PEOPLE) for one in pair))
        for name, pair in [*pairs, ("pinned", found["pinned"])]
    ]
