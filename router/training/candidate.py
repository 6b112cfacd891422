"""Whether a new model may take the place of the one that serves: both on one pinned set, and both on real traffic.

Numbers only. What "reached" and "wrong" mean is what a rule on `class` would do with the prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from router.flow import CLASSES, UNCERTAIN
from router.training import metrics
from router.training.data import DataError, Item, deal_as_trained

if TYPE_CHECKING:  # it needs torch, and `model compare` does not
    from router.training.evaluate import Answers

NO_AI = ("others", UNCERTAIN)
"""Classes that go to people (the catch-all)."""


def pinned_images(items: Sequence[Item], trained: Mapping[str, Any]) -> tuple[list[Item], int]:
    """The images to judge a model by, and how many are left out because it learned from them, or chose by them.

    Those of the split `test`, where there is one; never those of `train` and `val`, as they are written or as the
    run that made the model dealt them. `trained` is what its card says of that run. Raises DataError if none is left.
    """
    dealt = deal_as_trained(items, trained)
    unseen = [item for item in dealt if item.split not in ("train", "val")]
    if not unseen:
        raise DataError(f"all {len(items)} pinned images are of the splits train and val; give those of other patients")
    return [item for item in unseen if item.split == "test"] or unseen, len(items) - len(unseen)


def compare(old: Answers, new: Answers, *, allow: float, allow_wrong: int) -> dict[str, Any]:
    """Two models' answers about the same images, as figures of [old, new], and why the new one is refused, if it is.

    `allow` is how far a share (0…1) may fall; `allow_wrong` how many images may newly reach a wrong AI node.
    Raises DataError where they did not look at the same images.
    """
    if [item.path for item in old.items] != [item.path for item in new.items]:
        raise DataError("the two models could not read the same images; give the command again")
    both = list(zip(old.items, old.predictions, new.predictions, strict=True))
    rows: dict[str, Any] = {}
    for name in CLASSES:
        mine = [(a.class_name, b.class_name) for item, a, b in both if item.label == name]
        strangers = [(a.class_name, b.class_name) for item, a, b in both if item.label != name]
        wrongly = [sum(pair[at] == name for pair in strangers) for at in (0, 1)]
        rows[name] = {
            "n": len(mine),
            "reached": [sum(_reaches(pair[at], name) for pair in mine) for at in (0, 1)],
            "wrongly": [0, 0] if name in NO_AI else wrongly,
        }
    newly = sum(b.class_name not in (item.label, *NO_AI, a.class_name) for item, a, b in both)
    f1 = [metrics.macro_f1(one.truth, one.predicted) for one in (old, new)]
    found = {"n": len(both), "skipped": len(old.skipped), "f1": f1, "classes": rows, "newly_wrong": newly}
    return found | {"refused": _refusals(found, allow, allow_wrong)}


def _reaches(class_name: str, label: str) -> bool:
    """Whether an instance of this label goes where it should; what is `others` should go to people."""
    return class_name == label or (label in NO_AI and class_name in NO_AI)


def _refusals(found: Mapping[str, Any], allow: float, allow_wrong: int) -> list[str]:
    shares = [("macro F1", *found["f1"])]
    for name, row in found["classes"].items():
        if row["n"]:
            shares.append((f"share of {name} that reaches its place", *(hits / row["n"] for hits in row["reached"])))
    why = [f"{what} falls from {old:.4f} to {new:.4f}" for what, old, new in shares if new < old - allow - 1e-9]
    if found["newly_wrong"] > allow_wrong:
        why.append(f"{found['newly_wrong']} images newly reach a wrong AI node")
    return why


def count_shadow(details: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The details of shadow predictions' events, counted for each pair of models in the order of their first event.

    `classes` counts by served, then shadow class; `elsewhere` those that would have gone to other destinations.
    """
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for detail in details:
        served, shadow = detail["served"], detail["shadow"]
        models = {"served": served["model"], "shadow": shadow["model"]}
        fresh = models | {"n": 0, "agreed": 0, "elsewhere": 0, "classes": {}}
        pair = pairs.setdefault((served["model"], shadow["model"]), fresh)
        pair["n"] += 1
        pair["agreed"] += served["class"] == shadow["class"]
        pair["elsewhere"] += sorted(served["destinations"]) != sorted(shadow["destinations"])
        pair["classes"].setdefault(served["class"], Counter())[shadow["class"]] += 1
    return list(pairs.values())
