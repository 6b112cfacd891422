"""A hospital's own images for `adapt`: labelled by people, or by the header where the pixels agree with it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from router.commands.walking import files
from router.decide.header_words import CHEST, PART_TAGS, PARTS, Vocabulary
from router.flow import UNCERTAIN, Header, Prediction
from router.model.calibration import Calibration
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.polarity import SURE, by_both_looks, negative
from router.training.adapting import WEAK, Labelled
from router.training.data import SUFFIXES, DataError, Item, read_manifest, with_header_age
from router.training.evaluate import ADULT, CHESTS
from router.training.pictures import Outputs, outputs, picture_of
from router.training.routes import MODALITY, as_it_is, part_of

PATIENT_ID = 0x00100020
RADIOGRAPHS = ("CR", "DX")
"""Modalities of which a header may label an image."""
MOST = 2000
"""Images without a person's label that are looked at; of more, as many are drawn. They take some minutes."""
BLOBS = "blobs"
"""Where the images lie in a spool's folder."""


@dataclass(frozen=True, slots=True)
class OwnImages:
    """Images in one order: what is known of them, their features, and what the present model says."""

    items: Sequence[Item]
    headers: Sequence[Header | None]
    """None if the file is not DICOM."""
    known: Labelled

    def __getitem__(self, kept: NDArray[np.bool_]) -> OwnImages:
        places = np.flatnonzero(kept).tolist()
        return OwnImages([self.items[n] for n in places], [self.headers[n] for n in places], self.known[kept])

    @property
    def by_people(self) -> NDArray[np.bool_]:
        return np.asarray(self.known.counts == 1)


def find(folder: Path, labels: Path | None) -> tuple[list[Item], list[Path]]:
    """The images that people labelled, and the other files below the folder. Raises DataError.

    A `file` of the labels is a path below the folder, or the name of a file there, with or without its ending: a spool
    names its images by the instance.
    """
    inside = folder / BLOBS if (folder / BLOBS).is_dir() else folder
    found = [path for path in files([inside]) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{inside}: no images; give a folder of DICOM files, or that of a spool")
    if labels is None:
        return [], found
    names: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        for name in {str(path.relative_to(inside)), path.name, path.stem}:
            names[name].append(path)
    labelled: dict[Path, Item] = {}
    lost = 0
    for item in read_manifest(labels, Path(), any_split=True):
        paths = names.get(str(item.path), [])
        if len(paths) > 1:
            raise DataError(f"{labels}: a file name stands for {len(paths)} files; write the path below {inside}")
        if not paths:
            lost += 1
            continue
        own = "" if item.patient.startswith(f"{item.label}/") else item.patient
        labelled[paths[0]] = replace(item, path=paths[0], patient=own)
    if not labelled:
        raise DataError(f"{labels}: none of its {lost} files is below {inside}; see the column file")
    return list(labelled.values()), [path for path in found if path not in labelled]


def look(
    network: MobileNetV1,
    calibration: Calibration,
    size: int,
    labelled: Sequence[Item],
    others: Sequence[Path],
    tags: frozenset[int],
    vocabulary: Vocabulary,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[OwnImages, dict[str, int]]:
    """Look at the images, label what headers can label, and count. Raises DataError if no image can be used."""
    wanted = tags | PART_TAGS | {MODALITY, PATIENT_ID}
    chosen = list(others)
    random.Random(0).shuffle(chosen)  # noqa: S311 - a choice that must repeat
    headers: dict[Path, Header | None] = {}
    unlabelled: list[Item] = []
    for path in chosen:
        item = Item(path, "others", "")
        header = as_it_is(item, wanted)
        if header and (header.get(MODALITY) or ("",))[0] in RADIOGRAPHS and vocabulary.part(header) in PARTS:
            headers[path] = header
            unlabelled.append(item)
        if len(unlabelled) == MOST:
            break
    headers |= {item.path: as_it_is(item, wanted) for item in labelled}
    everything = [*labelled, *unlabelled]
    done = 0

    def on(n: int) -> None:
        nonlocal done
        done += n
        progress(done, len(everything))

    found = outputs(network, everything, size, on)
    novelty = np.zeros(len(found.items), np.float32)
    predictions = calibration.predictions(found.logits, novelty, "")
    people = {item.path for item in labelled}
    items: list[Item] = []
    places: list[int] = []
    inverted = _inverted(network, calibration, size, found)
    for place, (item, prediction) in enumerate(zip(found.items, predictions, strict=True)):
        header = headers[item.path]
        if inverted[place]:  # in service it is turned first
            continue
        known = with_header_age(item)
        if item.path not in people:
            assert header is not None
            label = label_of(vocabulary.part(header), known.age, prediction)
            if not label:
                continue
            known = replace(known, label=label)
        items.append(replace(known, patient=known.patient or _patient(header) or str(item.path)))
        places.append(place)
    if not items:
        raise DataError("no image can be used: no header names a body part as the pixels do; give labels in a CSV")
    counts = np.array([1.0 if item.path in people else WEAK for item in items], np.float32)
    truth = np.array([item.target for item in items], np.int64)
    own = OwnImages(items, [headers[item.path] for item in items], Labelled(found.features[places], truth, counts))
    n = int(own.by_people.sum())
    return own, {
        "labelled_by_people": n,
        "labelled_by_header": len(items) - n,
        "inverted": int(inverted.sum()),
        "header_and_pixels_disagree": len(found.items) - len(items) - int(inverted.sum()),
        "unreadable": len(everything) - len(found.items),
        "without_label": len(others) - len(unlabelled),
    }


def _inverted(network: MobileNetV1, calibration: Calibration, size: int, found: Outputs) -> NDArray[np.bool_]:
    """Which images (n,) would be turned in service."""
    chances = calibration.inverted(found.logits)
    inverted = chances >= calibration.inverted_threshold
    for place in np.flatnonzero(inverted):
        turned = negative(picture_of(found.items[place].path, size))
        with torch.inference_mode():
            again = network(scale(torch.from_numpy(turned[None])))[0].numpy()
        inverted[place] = by_both_looks(chances[[place]], calibration.inverted(again))[0] >= SURE
    return inverted


def label_of(part: str, age: float | None, prediction: Prediction) -> str:
    """The class of an image where header and pixels agree on its part; empty where they do not, or leave it open.

    Between the chests the age in the header decides; without one, the model if it is sure.
    """
    if part_of(prediction.top) != part:
        return ""
    if part != CHEST:
        return part
    if age is None:
        return "" if prediction.class_name == UNCERTAIN else prediction.class_name
    return CHESTS[0] if age >= ADULT else CHESTS[1]


def held_out(own: OwnImages, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which images (n,) are kept to judge by: about this share of the patients of each class, chosen by chance."""
    rng = random.Random(seed)  # noqa: S311 - a choice that must repeat
    first: dict[str, tuple[str, bool]] = {}
    for item, sure in zip(own.items, own.by_people, strict=True):
        first.setdefault(item.patient, (item.label, bool(sure)))
    groups: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for patient, group in sorted(first.items()):
        groups[group].append(patient)
    kept: set[str] = set()
    for group in sorted(groups):
        kept.update(rng.sample(groups[group], round(share * len(groups[group]))))
    return np.array([item.patient in kept for item in own.items])


def _patient(header: Header | None) -> str:
    return ((header or {}).get(PATIENT_ID) or ("",))[0]
