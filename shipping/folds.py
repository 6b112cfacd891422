"""Leave images out in turn: short runs, each judged on what it never saw, whose answers calibrate the shipped model.

`python -m shipping.folds --manifest FILE.csv --by sources --out runs/sources` trains one network a fold, keeps
what each answered about its removed images (`answers.npz`) and the figures (`figures.json`). `--by parts` removes
parts of `others` instead, `--by patients` a fifth of the patients of every class. Images of the test split take part
nowhere. A finished fold is not run again.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from numpy.typing import NDArray

from router.flow import CLASSES, VIEWS
from router.model.mobilenet_v1 import MobileNetV1
from router.training.calibrate import fit_novelty
from router.training.data import DataError, Item, deal, read_manifest
from router.training.metrics import confusion, macro_f1, scores
from router.training.pictures import Outputs, outputs
from router.training.recipe import SHIPPED, Recipe, with_overrides
from router.training.train import train

FOLDS = Path(__file__).with_name("folds.yaml")
Folds = Mapping[str, Sequence[Item]]
"""Names of folds with the images that each removes."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """Answers about images that the answering network never saw, of all folds together; arrays in one order."""

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    novelty: NDArray[np.float32]
    image: NDArray[np.str_]
    source: NDArray[np.str_]
    part: NDArray[np.str_]
    fold: NDArray[np.str_]
    heads: NDArray[np.float32]
    """The outputs of the other heads (n, 0 where there were none)."""
    view: NDArray[np.str_]
    """One of VIEWS; empty where it is not known."""

    @classmethod
    def read(cls, out: Path) -> Withheld:
        """What a run of folds wrote into its folder."""
        with np.load(out / "answers.npz") as stored:
            n = len(stored["truth"])
            absent = {"heads": np.zeros((n, 0), np.float32), "view": np.full(n, "")}  # before there were any
            return cls(**{name: stored[name] if name in stored else absent[name] for name in cls.__slots__})

    def __getitem__(self, kept: NDArray[np.bool_]) -> Withheld:
        return Withheld(**{name: getattr(self, name)[kept] for name in self.__slots__})

    def __add__(self, other: Withheld) -> Withheld:
        return Withheld(**{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__slots__})


def remove_groups(column: str, items: Sequence[Item], path: Path = FOLDS) -> dict[str, list[Item]]:
    """Folds by `parts`, or by sources (`sources`, `stress`), as the file groups them. Raises DataError."""
    groups = yaml.safe_load(path.read_text()).get(column)
    if not isinstance(groups, dict) or not all(isinstance(names, list) for names in groups.values()):
        raise DataError(f"{path}: {column} must map each fold's name to a list")
    by_part = column == "parts"
    strangers = [item for item in items if not by_part or item.label == "others"]
    folds = {
        str(fold): [item for item in strangers if (item.part if by_part else item.source) in set(names)]
        for fold, names in groups.items()
    }
    for fold, removed in folds.items():
        if all(item.is_synthetic for item in removed):
            raise DataError(f"{path}: no image of this set belongs to fold {fold}; write the set's own {column} there")
    return folds


def remove_patients(items: Sequence[Item], count: int = 5, seed: int = 0) -> dict[str, list[Item]]:
    """Folds by patient, dealt evenly within class and source."""
    patients: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for item in items:
        patients[item.label, item.source][item.patient] = None
    fold_of: dict[str, int] = {}
    for group in sorted(patients):
        names = sorted(patients[group])
        random.Random(f"{seed}/{group}").shuffle(names)  # noqa: S311 - a shuffle that must repeat
        for name in names:
            fold_of.setdefault(name, len(fold_of) % count)
    return {f"patients_{k}": [item for item in items if fold_of[item.patient] == k] for k in range(count)}


def run_fold(
    removed: Sequence[Item], items: Sequence[Item], recipe: Recipe, out: Path, weights: Path | None,
    say: Callable[[str], None] = print,
) -> tuple[Outputs, NDArray[np.float32]]:  # fmt: skip
    """Train without these images; what the network then says of them, and how novel they are to it."""
    gone = {item.path for item in removed}
    seen = [item for item in items if item.path not in gone]
    best = train(recipe, deal(seen), out, weights=weights, say=say)
    network = MobileNetV1.read(best / "model.safetensors")
    known = outputs(network, [item for item in seen if item.split == "train"], recipe.size)
    judged = outputs(network, [item for item in removed if not item.is_synthetic], recipe.size)
    novelty = fit_novelty(known.features, known.truth)
    with torch.inference_mode():
        return judged, novelty(torch.from_numpy(judged.features)).numpy()


def run(
    folds: Folds, items: Sequence[Item], recipe: Recipe, out: Path, weights: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Run every fold; writes `answers.npz` and `figures.json` into `out` and returns the figures."""
    pool = [item for item in items if item.split in ("train", "val")]
    parts: list[dict[str, NDArray[Any]]] = []
    for name, removed in folds.items():
        done = out / name / "answers.npz"
        if not done.exists():
            say(f"fold {name}: without {len(removed)} images")
            judged, novelty = run_fold(removed, pool, recipe, out / name, weights, say)
            arrays = {
                "logits": judged.logits[:, :len(CLASSES)], "heads": judged.logits[:, len(CLASSES):],
                "view": np.array([item.projection for item in judged.items]),
                "truth": judged.truth, "novelty": novelty,
                "image": np.array([f"{item.path.parent.name}/{item.path.name}" for item in judged.items]),
                "source": np.array([item.source for item in judged.items]),
                "part": np.array([item.part for item in judged.items]),
                "fold": np.full(len(judged.items), name),
            }  # fmt: skip
            np.savez(done, **arrays)  # type: ignore[arg-type]
        with np.load(done) as stored:
            parts.append({key: stored[key] for key in stored.files})
    np.savez(out / "answers.npz", **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})  # type: ignore[arg-type]
    sizes = {name: len(removed) for name, removed in folds.items()}
    found = {"recipe": asdict(recipe), "folds": sizes} | figures(Withheld.read(out))
    (out / "figures.json").write_text(json.dumps(found, indent=1))
    return found


def figures(foreign: Withheld) -> dict[str, Any]:
    """Macro F1 and recall on sources never seen: all together, by class, and by source and class."""
    predicted = foreign.logits.argmax(axis=1)
    recall, precision, f1 = scores(confusion(foreign.truth, predicted))
    right = predicted == foreign.truth
    rows = [
        {
            "source": str(source),
            "class": CLASSES[label],
            "n": int(mine.sum()),
            "recall": round(float(right[mine].mean()), 4),
        }
        for source in np.unique(foreign.source)
        for label in range(len(CLASSES))
        if (mine := (foreign.source == source) & (foreign.truth == label)).any()
    ]
    return views(foreign) | {
        "n": len(predicted),
        "macro_f1": round(macro_f1(foreign.truth, predicted), 4),
        "classes": {
            name: {"n": int((foreign.truth == i).sum()), "recall": round(float(recall[i]), 4),
                   "precision": round(float(precision[i]), 4), "f1": round(float(f1[i]), 4)}
            for i, name in enumerate(CLASSES)
        },
        "sources": rows,
    }  # fmt: skip


def views(foreign: Withheld) -> dict[str, Any]:
    """How often the view is right, by view and source; empty if the network has no such head."""
    known = foreign.view != ""
    if not known.any() or foreign.heads.shape[1] < len(VIEWS):
        return {}
    right = np.array(VIEWS)[foreign.heads[:, : len(VIEWS)].argmax(axis=1)] == foreign.view
    rows = [
        {"source": str(source), "view": view, "n": int(mine.sum()), "right": int(right[mine].sum())}
        for source in np.unique(foreign.source)
        for view in VIEWS
        if (mine := known & (foreign.source == source) & (foreign.view == view)).any()
    ]
    return {"views": {"n": int(known.sum()), "right": int(right[known].sum()), "sources": rows}}


def main(
    manifest: Annotated[Path, typer.Option()],
    by: Annotated[str, typer.Option(help="sources, parts, patients or stress.")] = "sources",
    root: Annotated[Path | None, typer.Option()] = None,
    out: Annotated[Path, typer.Option()] = Path("runs/sources"),
    weights: Annotated[Path | None, typer.Option()] = None,
    size: Annotated[int, typer.Option(min=32, max=1024)] = 160,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    without: Annotated[list[str] | None, typer.Option(help="Sources that are judged but never trained on.")] = None,
) -> None:
    """Leave images out in turn, and write what the networks say of them."""
    items = deal(read_manifest(manifest, root or manifest.parent))
    pool = [item for item in items if item.split in ("train", "val")]
    folds = remove_patients(pool) if by == "patients" else remove_groups(by, pool)
    allowed = [item for item in pool if item.source not in (without or ())]
    found = run(folds, allowed, with_overrides(SHIPPED, size=size, epochs=epochs), out, weights)
    print(json.dumps({key: found[key] for key in ("n", "macro_f1", "classes", "sources")}, indent=1))


if __name__ == "__main__":
    typer.run(main)
