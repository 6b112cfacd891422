"""Sets of labelled images: from a folder for each class or a manifest, split by patient, read once.

A wrong set is an error with the fix (`DataError`); a single image that cannot be read is named, skipped and
counted. Knows nothing of networks.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from router.errors import RouterError
from router.flow import CLASSES, VIEWS

SYNTHETIC = "synthetic"
"""A `view` with this word marks a generated picture: for training, never for a figure."""
NO_RADIOGRAPHS = frozenset(
    {"ct", "mr", "ct/mr", "us", "photo", "document", "histology", "blank", "dxa_spine", "dxa_hip", "dxa_body"}
)
"""Parts of `others` that have neither a view nor a polarity as a radiograph has."""
FRONTAL, LATERAL, OTHER = VIEWS
VIEW_WORDS = {
    "ap": FRONTAL, "pa": FRONTAL, "ap/pa": FRONTAL, "pa/ap": FRONTAL, "frontal": FRONTAL,
    "lat": LATERAL, "ll": LATERAL, "rl": LATERAL, "lateral": LATERAL,
    "other": OTHER, "oblique": OTHER, "decubitus": OTHER, "mlo": OTHER, "cc": OTHER, "panoramic": OTHER,
    "axial": OTHER, "tangential": OTHER,
}  # fmt: skip
SPLITS = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".ima", ""})
PICTURES = (".png", ".jpg", ".jpeg")
OLDEST = 120.0


class DataError(RouterError):
    """The set cannot be used; the message is one line with the fix."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image. `split` is empty until it has been dealt; `age` is in years where it is known."""

    path: Path
    label: str
    patient: str
    split: str = ""
    source: str = ""
    part: str = ""
    view: str = ""
    age: float | None = None

    @property
    def target(self) -> int:
        return CLASSES.index(self.label)

    @property
    def is_radiograph(self) -> bool:
        return self.part not in NO_RADIOGRAPHS

    @property
    def is_synthetic(self) -> bool:
        return SYNTHETIC in self.view

    @property
    def projection(self) -> str:
        """One of VIEWS, from the first word of `view`; empty where it is not known."""
        return VIEW_WORDS.get(self.view.split(";")[0].strip().casefold(), "") if self.is_radiograph else ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that could not be read, and why in a few words of our own."""

    path: Path
    reason: str


def read_folders(root: Path) -> list[Item]:
    """A folder for each class under `root`; each image is a patient of its own unless it lies in a subfolder.

    Subfolders of one name are one patient, whichever class they lie in: `names_in_two_classes` counts them.
    """
    items: list[Item] = []
    for label in CLASSES:
        folder = root / label
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; one for each of {', '.join(CLASSES)} is needed")
        found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.lower() in SUFFIXES]
        if not found:
            raise DataError(f"{folder}: an empty class; put images there (PNG, JPEG or DICOM)")
        for path in found:
            inside = path.relative_to(folder)
            items.append(Item(path, label, patient=inside.parts[0] if len(inside.parts) > 1 else f"{label}/{inside}"))
    return items


def names_in_two_classes(items: Iterable[Item]) -> int:
    """How many patients have images of more than one class: meant, or the names of subfolders are not names of his."""
    classes: dict[str, set[str]] = defaultdict(set)
    for item in items:
        classes[item.patient].add(item.label)
    return sum(len(found) > 1 for found in classes.values())


def read_manifest(manifest: Path, root: Path, *, any_split: bool = False) -> list[Item]:
    """A CSV with `file` and `label`, and optionally `split, patient, source, part, view, age`; others are ignored.

    `any_split` takes splits of any name: to score a set, not to train on it. Raises DataError.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"file", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{manifest}:1: no column {' and '.join(sorted(missing))}; the header line must name it"
                )
            items = [_item(row, manifest, line, root, any_split) for line, row in enumerate(reader, start=2)]
    except OSError as error:
        raise DataError(f"{manifest}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest}: not readable as CSV ({type(error).__name__}); save it as UTF-8 CSV") from error
    if not items:
        raise DataError(f"{manifest}: no images; add one line for each")
    return items


def _item(row: dict[str, Any], manifest: Path, line: int, root: Path, any_split: bool) -> Item:
    def text(name: str) -> str:
        return (row.get(name) or "").strip()

    if text("label") not in CLASSES:
        raise DataError(f"{manifest}:{line}: label {text('label')[:40]!r} is none of {', '.join(CLASSES)}")
    if not any_split and text("split") not in ("", *SPLITS):
        raise DataError(f"{manifest}:{line}: split {text('split')[:40]!r} is none of {', '.join(SPLITS)}")
    if not text("file"):
        raise DataError(f"{manifest}:{line}: no file")
    return Item(
        path=root / text("file"),
        label=text("label"),
        patient=text("patient") or f"{text('label')}/{text('file')}",
        split=text("split"),
        source=text("source"),
        part=text("part"),
        view=text("view"),
        age=_age(text("age")),
    )


def with_header_age(item: Item) -> Item:
    """The item, with the age from its DICOM header if the manifest has none."""
    from router.decide.age import TAGS, age_at_study
    from router.dicom.data_set import open_data_set
    from router.pixels.header import values

    if item.age is not None or item.path.suffix.lower() in PICTURES:
        return item
    try:
        with closing(open_data_set(item.path, max(TAGS))) as data_set:
            age = age_at_study(values(data_set, TAGS))
    except Exception:  # any reader's error on a broken file: its age is not known
        return item
    if age is None:
        return item
    fewest, most = age.completed("Y")
    return replace(item, age=age.least) if fewest == most else item


def _age(text: str) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 <= age <= OLDEST else None


def deal(items: Sequence[Item], seed: int = 0) -> list[Item]:
    """Give every item a split: as written where all have one, else 70/15/15 by patient within class and source.

    Raises DataError where a patient is in two splits, or a class is missing from training.
    """
    written = sum(bool(item.split) for item in items)
    if written == len(items):
        dealt = list(items)
    elif written:
        raise DataError(f"{len(items) - written} of {len(items)} images have no split; give it to all or to none")
    else:
        dealt = _deal_patients(items, seed)
    check_patients(dealt)
    absent = set(CLASSES) - {item.label for item in dealt if item.split == "train"}
    if absent:
        raise DataError(f"no training image of {', '.join(sorted(absent))}; add images of more patients")
    return dealt


def deal_as_trained(items: Sequence[Item], trained: Mapping[str, Any]) -> list[Item]:
    """Items without splits get those of the run that made a model, if it was trained on just these; else as they are.

    `trained` is what the model's card says of that run.
    """
    if any(item.split for item in items):
        return list(items)
    try:
        dealt = deal(items, seed_of(trained))
    except DataError:  # too few for all splits
        return list(items)
    return dealt if digest_of(dealt) == trained.get("set") else list(items)


def seed_of(trained: Mapping[str, Any]) -> int:
    return int(trained.get("recipe", {}).get("seed", 0))


def check_patients(items: Iterable[Item]) -> None:
    """Raises DataError when a patient is in two splits (the patient is not named)."""
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[item.patient].add(item.split)
    torn = [found for found in splits.values() if len(found) > 1]
    if torn:
        raise DataError(
            f"{len(torn)} patients are in two splits ({', '.join(sorted(torn[0]))}): figures would be too good; "
            "put all images of a patient in one split"
        )


def _deal_patients(items: Sequence[Item], seed: int) -> list[Item]:
    groups: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    first: dict[str, tuple[str, str]] = {}
    for item in items:
        group = first.setdefault(item.patient, (item.label, item.source))
        groups[group][item.patient] = groups[group].get(item.patient, 0) + 1
    split_of: dict[str, str] = {}
    for group in sorted(groups):
        patients = sorted(groups[group])
        random.Random(f"{seed}/{group}").shuffle(patients)  # noqa: S311 - a shuffle that must repeat
        total, done = sum(groups[group].values()), Counter[str]()
        for patient in patients:
            lacks = [share * total - done[name] for name, share in zip(SPLITS, SHARES, strict=True)]
            split = SPLITS[max(range(3), key=lacks.__getitem__)]
            split_of[patient] = split
            done[split] += groups[group][patient]
    return [replace(item, split=split_of[item.patient]) for item in items]


def digest_of(items: Iterable[Item]) -> str:
    """One hex digest of which images with which labels in which split: what a run was trained on."""
    lines = sorted(f"{item.path.name}\t{item.label}\t{item.split}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_grey(path: Path) -> NDArray[np.uint8]:
    """A PNG, JPEG or DICOM as grey (height, width), bone white. Raises ValueError or OSError."""
    if path.suffix.lower() in PICTURES:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I") or image.mode == "F":
                values = np.asarray(image, np.float32)
                low, high = np.percentile(values, (0.5, 99.5))
                image = Image.fromarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255)
            return np.asarray(image.convert("L"), np.uint8)
    from router.pixels import grey_of

    return grey_of(path)


def read_all(
    items: Sequence[Item], longest: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[list[Item], list[Image.Image], list[Skipped]]:
    """Read every image, at most `longest` pixels on its long side, into memory; what fails is skipped and named."""
    kept: list[Item] = []
    images: list[Image.Image] = []
    skipped: list[Skipped] = []
    for item in items:
        try:
            image = Image.fromarray(read_grey(item.path))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            skipped.append(Skipped(item.path, type(error).__name__))
            continue
        finally:
            progress(1)
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR, reducing_gap=2.0)
        kept.append(with_header_age(item))
        images.append(image)
    return kept, images, skipped
