"""What rules on `class` would do to images that a network never saw: wrong routes and coverage, with intervals.

Everything rests on answers that folds withheld (`shipping.folds`): by source, by patient, by part of `others`.
Whatever is scored took no part in fitting the calibration that scores it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.flow import CLASSES, UNCERTAIN, VIEWS
from router.model.calibration import Calibration
from router.training.calibrate import ROUTED, fit_limit, fit_temperature, fit_thresholds
from router.training.metrics import share
from shipping.folds import Withheld

Names = NDArray[np.str_]
KEPT = 0.99
"""Of images with an AI node, from unseen sources and rightly named, this share stays below the novelty limit."""
FAMILIES = {
    "computed tomography": ("ct",),
    "documents": ("document",),
    "photographs and drawings": ("photo",),
    "hands": ("hand", "wrist", "hand+wrist", "finger", "finger+hand"),
    "skulls": ("skull", "ceph", "sinus"),
}


def fit_calibration(sources: Withheld, patients: Withheld | None) -> tuple[Calibration, list[str]]:
    """From answers about unseen sources and unseen patients; and the classes that borrowed their threshold."""
    both = sources + patients if patients is not None else sources
    temperature = fit_temperature(both.logits, both.truth)
    right = sources.logits.argmax(axis=1) == sources.truth
    limit = fit_limit(sources.novelty[right], sources.truth[right], KEPT)
    chances = Calibration(temperature).probabilities(both.logits)
    chances[both.novelty > limit] = 1 / len(CLASSES)  # whatever it says of these, it is not believed
    thresholds, borrowed = fit_thresholds(chances, both.truth)
    return Calibration(temperature, thresholds, limit), borrowed


def fit_view(answers: Withheld) -> float:
    """The temperature of the view's outputs, from answers about unseen sources; 1 where nothing is known of views."""
    known = answers.view != ""
    if not known.any() or answers.heads.shape[1] < len(VIEWS):
        return 1.0
    truth = np.array([VIEWS.index(name) for name in answers.view[known]])
    return fit_temperature(answers.heads[known, : len(VIEWS)], truth)


def calibrated_without(images: Names, *withheld: Withheld) -> Calibration:
    """Fit on answers about unseen sources (the first) and, if there are any, unseen patients, without these images."""
    kept = [one[~np.isin(one.image, images)] for one in withheld]
    return fit_calibration(kept[0], kept[1] if len(kept) > 1 else None)[0]


def named_by(calibration: Calibration, logits: NDArray[np.floating], novelty: NDArray[np.floating]) -> Names:
    """The class that a rule would see for each answer, `uncertain` among them."""
    return np.array([p.class_name for p in calibration.predictions(logits, novelty, "")])


def named_unseen(answers: Withheld, sources: Withheld, patients: Withheld) -> Names:
    """The class of each answer by a calibration that was fitted without the images of its fold."""
    named = np.full(len(answers.truth), UNCERTAIN, dtype="U32")
    for fold in np.unique(answers.fold):
        mine = answers[answers.fold == fold]
        calibration = calibrated_without(mine.image, sources, patients)
        named[answers.fold == fold] = named_by(calibration, mine.logits, mine.novelty)
    return named


def pooled(sources: Withheld, patients: Withheld) -> dict[str, Any]:
    """Each fold of patients scored by thresholds that were fitted without it."""
    return routes(named_unseen(patients, sources, patients), patients.truth)


def routes(named: Names, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Images at a wrong AI node and coverage, over all and for each route; Clopper–Pearson at 95 %."""
    label = np.array(CLASSES)[truth]
    wrong = np.isin(named, ROUTED) & (named != label)
    table = {}
    for name in ROUTED:
        strangers, own = label != name, label == name
        table[name] = {
            "wrong": share(int((strangers & (named == name)).sum()), int(strangers.sum())),
            "coverage": share(int((own & (named != UNCERTAIN)).sum()), int(own.sum())),
        }
    return {
        "wrong": share(int(wrong.sum()), len(truth)),
        "coverage": share(int((named != UNCERTAIN).sum()), len(truth)),
        "routes": table,
    }


def novelty(sources: Withheld, patients: Withheld, parts: Withheld) -> dict[str, Any]:
    """Parts of `others` that neither the network nor its calibration saw: how many would reach an AI node."""
    wrong = np.isin(named_unseen(parts, sources, patients), ROUTED)
    return {
        "all": share(int(wrong.sum()), len(wrong)),
        "parts": {str(part): share(int(wrong[parts.part == part].sum()), int((parts.part == part).sum()))
                  for part in np.unique(parts.part)},
        "families": {name: share(int(wrong[mine].sum()), int(mine.sum()))
                     for name, members in FAMILIES.items() if (mine := np.isin(parts.part, members)).any()},
    }  # fmt: skip
