"""Leave sources out: short runs, each judged on hospitals that it never saw, whose answers calibrate the shipped model.

`python -m router.training.folds --manifest FILE.csv --out runs/folds` trains one network a fold of `folds.yaml`,
keeps what each answered about its removed sources (`answers.npz`) and the figures (`figures.json`). Images of the
test split take part nowhere. A finished fold is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from numpy.typing import NDArray

from router.flow import CLASSES
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.training.calibrate import fit_novelty
from router.training.data import DataError, Item, deal, read_manifest
from router.training.evaluate import UNREADABLE, picture_of
from router.training.metrics import confusion, macro_f1, scores
from router.training.train import SHIPPED, Recipe, train, with_overrides

FOLDS = Path(__file__).with_name("folds.yaml")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network gave for the images that could be read, in one order."""

    items: list[Item]
    logits: NDArray[np.float32]
    features: NDArray[np.float32]

    @property
    def truth(self) -> NDArray[np.int64]:
        return np.array([item.target for item in self.items], np.int64)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Answers about images of sources that the answering network never saw, of all folds together."""

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    novelty: NDArray[np.float32]
    source: NDArray[np.str_]
    fold: NDArray[np.str_]

    @classmethod
    def read(cls, out: Path) -> Foreign:
        with np.load(out / "answers.npz") as stored:
            return cls(*(stored[name] for name in ("logits", "truth", "novelty", "source", "fold")))


def outputs(network: MobileNetV1, items: Sequence[Item], size: int, batch: int = 32) -> Outputs:
    """Logits and pooled features of a network for every readable image."""
    kept: list[Item] = []
    logits, features = [], []
    for begin in range(0, len(items), batch):
        pictures = []
        for item in items[begin : begin + batch]:
            try:
                pictures.append(picture_of(item.path, size))
                kept.append(item)
            except UNREADABLE:
                continue
        if pictures:
            with torch.inference_mode():
                x = scale(torch.from_numpy(np.stack(pictures))).contiguous(memory_format=torch.channels_last)
                found = network.features(x)
                features.append(found.numpy())
                logits.append(network.head(found).numpy())
    return Outputs(kept, np.concatenate(logits), np.concatenate(features))


def read_folds(path: Path = FOLDS) -> dict[str, list[str]]:
    """Names of folds with the sources that each removes. Raises DataError."""
    folds = yaml.safe_load(path.read_text())
    if not isinstance(folds, dict) or not all(isinstance(sources, list) for sources in folds.values()):
        raise DataError(f"{path}: must map each fold's name to a list of sources")
    return {str(name): [str(source) for source in sources] for name, sources in folds.items()}


def run_fold(
    sources: Sequence[str], items: Sequence[Item], recipe: Recipe, out: Path, weights: Path | None,
    say: Callable[[str], None] = print,
) -> tuple[Outputs, NDArray[np.float32]]:  # fmt: skip
    """Train without these sources; what the network then says of them, and how novel they are to it."""
    seen = [item for item in items if item.source not in sources and item.split in ("train", "val")]
    removed = [item for item in items if item.source in sources and item.split in ("train", "val")]
    if not removed:
        raise DataError(f"no image comes from {', '.join(sources)}; write sources of this set into the folds")
    best = train(recipe, deal(seen), out, weights=weights, say=say)
    network = MobileNetV1.read(best / "model.safetensors")
    known = outputs(network, [item for item in seen if item.split == "train"], recipe.size)
    judged = outputs(network, removed, recipe.size)
    novelty = fit_novelty(known.features, known.truth)
    with torch.inference_mode():
        return judged, novelty(torch.from_numpy(judged.features)).numpy()


def run(
    folds: dict[str, list[str]], items: Sequence[Item], recipe: Recipe, out: Path, weights: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Run every fold; writes `answers.npz` and `figures.json` into `out` and returns the figures."""
    parts: list[dict[str, NDArray[Any]]] = []
    for name, sources in folds.items():
        done = out / name / "answers.npz"
        if not done.exists():
            say(f"fold {name}: without {', '.join(sources)}")
            judged, novelty = run_fold(sources, items, recipe, out / name, weights, say)
            source = np.array([item.source for item in judged.items])
            arrays = {"logits": judged.logits, "truth": judged.truth, "novelty": novelty, "source": source}
            np.savez(done, **arrays, fold=np.full(len(source), name))  # type: ignore[arg-type]
        with np.load(done) as stored:
            parts.append({key: stored[key] for key in stored.files})
    np.savez(out / "answers.npz", **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})  # type: ignore[arg-type]
    found = {"recipe": asdict(recipe), "folds": folds} | figures(Foreign.read(out))
    (out / "figures.json").write_text(json.dumps(found, indent=1))
    return found


def figures(foreign: Foreign) -> dict[str, Any]:
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
    return {
        "n": len(predicted),
        "macro_f1": round(macro_f1(foreign.truth, predicted), 4),
        "classes": {
            name: {"n": int((foreign.truth == i).sum()), "recall": round(float(recall[i]), 4),
                   "precision": round(float(precision[i]), 4), "f1": round(float(f1[i]), 4)}
            for i, name in enumerate(CLASSES)
        },
        "sources": rows,
    }  # fmt: skip


def main(
    manifest: Annotated[Path, typer.Option()],
    root: Annotated[Path | None, typer.Option()] = None,
    out: Annotated[Path, typer.Option()] = Path("runs/folds"),
    weights: Annotated[Path | None, typer.Option()] = None,
    size: Annotated[int, typer.Option(min=32, max=1024)] = 160,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Leave each fold's sources out in turn, and write what the networks say of them."""
    items = deal(read_manifest(manifest, root or manifest.parent))
    found = run(read_folds(), items, with_overrides(SHIPPED, size=size, epochs=epochs), out, weights)
    print(json.dumps({key: found[key] for key in ("n", "macro_f1", "classes", "sources")}, indent=1))


if __name__ == "__main__":
    typer.run(main)
