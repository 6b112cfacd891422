"""From a finished run to the model that is shipped: calibrate, score the test split once, write the folder.

`python -m shipping.ship RUN --manifest FILE.csv --folds runs/folds --out models/mobilenet_v1`, after folds by
sources, patients and parts; for the model of this repository with `--failures shipping/model_failures.md
--licence shipping/model_licence.txt`. Every number in `card.json` and `MODEL_CARD.md` comes from here; none is
typed. Each look at the test split is noted in the run.
"""

from __future__ import annotations

import csv
import json
import re
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from router.flow import CLASSES
from router.model.calibration import Calibration
from router.model.card import Card
from router.model.mobilenet_v1 import MobileNetV1
from router.model.saving import save_model
from router.pixels.prepare import prepare
from router.training.calibrate import ROUTED, fit_limit, fit_novelty, fit_temperature, fit_thresholds
from router.training.data import DataError, Item, deal, digest_of, read_manifest
from router.training.evaluate import Model, evaluate, read_model
from router.training.known_images import KnownImages
from router.training.metrics import share
from router.training.pictures import Outputs, outputs
from router.training.routes import Routes, who_gets_what
from shipping.audit import fit_calibration, fit_view, named_by, novelty, pooled, routes
from shipping.folds import Withheld
from shipping.model_card import model_card
from shipping.routes import of_folds
from shipping.shortcuts import shortcuts
from shipping.strangers import phantoms

RESTRICTED = re.compile(
    r"\bN[CD]\b|non-commercial|research|authorized|competition|unknown|without licence|states n|^\W|^not stated",
    re.IGNORECASE,
)
"""Words in a licence that forbid or restrict a use, or say that nobody stated one."""
AT_HOME = 0.995
"""Of the validation images with an AI node, this share stays below a novelty limit that is fitted on them alone."""
KINDS = ("sources", "patients", "parts")


@dataclass(frozen=True, slots=True)
class Folds:
    """What networks said of images that they never saw, by what was withheld, and the figures of each kind."""

    answers: dict[str, Withheld]
    figures: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, directory: Path) -> Folds:
        """The folder of `shipping.folds`; raises DataError where a kind is missing."""
        for kind in KINDS:
            if not (directory / kind / "figures.json").exists():
                raise DataError(f"{directory / kind}: not there; run python -m shipping.folds --by {kind}")
        return cls(
            {kind: Withheld.read(directory / kind) for kind in KINDS},
            {kind: json.loads((directory / kind / "figures.json").read_text()) for kind in KINDS},
        )


def fit_at_home(val: Outputs, novelty: NDArray[np.float32]) -> Calibration:
    """From the validation split alone, where no folds were run: less is known, so no confidence is added."""
    temperature = max(1.0, fit_temperature(val.logits[:, : len(CLASSES)], val.truth))
    thresholds, _ = fit_thresholds(Calibration(temperature).probabilities(val.logits), val.truth)
    return Calibration(temperature, thresholds, fit_limit(novelty, val.truth, AT_HOME))


def halve(network: MobileNetV1) -> None:
    """Round the weights to what the shipped file will hold, so that everything is fitted to that."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())


def note_look(run: Path) -> int:
    """Write down that the test split is looked at once more; how often that is."""
    with (run / "looks.txt").open("a", encoding="utf-8") as file:
        file.write(time.strftime("%Y-%m-%d %H:%M:%S ship\n", time.gmtime()))
    return len((run / "looks.txt").read_text(encoding="utf-8").splitlines())


def licences(manifest: Path) -> dict[str, dict[str, int]]:
    """For each source, its licences as the manifest states them, with counts."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if row.get("split") in ("train", "val"):
                found[row.get("source") or "unknown"][row.get("license") or "not stated"] += 1
    return {source: dict(counts.most_common()) for source, counts in sorted(found.items())}


def licence_text(template: str, found: Mapping[str, Mapping[str, int]]) -> str:
    """The template with `{restricted}` replaced by every source of which some images may not be used freely."""
    lines = []
    for source, counts in found.items():
        bound = {text: n for text, n in counts.items() if RESTRICTED.search(text)}
        if bound:
            terms = "; ".join(f"{' '.join(text.split())} ({n})" for text, n in bound.items())
            lines.append(textwrap.fill(f"- {source}: {terms}", 120, subsequent_indent="  "))
    return template.replace("{restricted}", "\n".join(lines) or "None.")


def ship(
    run: Path, manifest: Path, root: Path, folds: Path | None, out: Path, *, failures: str = "", licence: str = ""
) -> Card:
    """Write the model's folder from a run on this manifest. Raises DataError where the run had another set.

    `failures` goes into the model card, `licence` into LICENSE: both are words of those who ship it.
    """
    items = deal(read_manifest(manifest, root))
    trained = Card.read(run / "best").trained
    if trained.get("set") != digest_of(items):
        raise DataError(f"{run}: was not trained on {manifest}; give the manifest of that run")
    withheld = Folds.read(folds) if folds else None
    size = Card.read(run / "best").size
    network = MobileNetV1.read(run / "best" / "model.safetensors")
    halve(network)
    known = outputs(network, [item for item in items if item.split == "train"], size)
    network.novelty = fit_novelty(known.features, known.truth)
    calibration, borrowed = _calibrate(network, [i for i in items if i.split == "val"], size, withheld)
    calibration = replace(calibration, heads=Card.read(run / "best").calibration.heads)
    if withheld:
        calibration = replace(calibration, view_temperature=fit_view(withheld.answers["sources"]))
    save_model(network, out, size=size, half=True, calibration=calibration, trained=trained)

    model = read_model(out, "cpu")
    test = [item for item in items if item.split == "test"]
    found, answers = evaluate(model, test, everything=items)
    figures = {"test": _test(found, note_look(run)), "borrowed_thresholds": borrowed,
               "shortcuts": shortcuts(model, test), "phantoms": at_an_ai_node(model)}  # fmt: skip
    rules = Routes.of(None)
    who = {"test split": who_gets_what(rules, answers.items, answers.predictions)}
    if withheld and folds:
        figures |= _unseen(withheld, calibration)
        who = {"sources it never saw": of_folds(folds, items, rules)} | who
    figures["routes"] = who
    card = save_model(network, out, size=size, half=True, calibration=calibration, trained=trained, figures=figures)
    history = json.loads(file.read_text()) if (file := run / "history.json").exists() else []
    terms = licences(manifest)
    text = model_card(card, found, answers, terms, history, failures)
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    KnownImages.of(network, items, size).write(out, card.digest)
    if licence:
        (out / "LICENSE").write_text(licence_text(licence, terms), encoding="utf-8")
    return card


def _calibrate(
    network: MobileNetV1, val: list[Item], size: int, withheld: Folds | None
) -> tuple[Calibration, list[str]]:
    if withheld:
        return fit_calibration(withheld.answers["sources"], withheld.answers["patients"])
    judged = outputs(network, val, size)
    with torch.inference_mode():
        return fit_at_home(judged, network.novelty(torch.from_numpy(judged.features)).numpy()), []


def _unseen(withheld: Folds, calibration: Calibration) -> dict[str, Any]:
    """Figures on images that no answering network saw, by what was withheld."""
    sources, patients, parts = (withheld.answers[kind] for kind in KINDS)
    by_sources = withheld.figures["sources"]
    return {
        "folds": {kind: {key: withheld.figures[kind]["recipe"][key] for key in ("size", "epochs")} for kind in KINDS},
        "sources": {key: by_sources[key] for key in ("n", "macro_f1", "classes", "sources")}
        | {key: by_sources[key] for key in ("views",) if key in by_sources}
        | {"shipped_calibration": routes(named_by(calibration, sources.logits, sources.novelty), sources.truth)},
        "patients": pooled(sources, patients),
        "parts": novelty(sources, patients, parts),
    }


def at_an_ai_node(model: Model) -> dict[str, Any]:
    """How many generated pictures, none of which took part in anything, would reach an AI node."""
    pictures = np.stack([prepare(grey, size=model.size)[0] for _, grey in phantoms()])
    named = named_by(model.calibration, *model.look(pictures)[:2])
    return share(int(np.isin(named, ROUTED).sum()), len(named))


def _test(found: dict[str, Any], looks: int) -> dict[str, Any]:
    """The figures of the test split that go into card.json."""

    def rounded(macro: dict[str, Any]) -> dict[str, Any]:
        return {
            name: [round(macro[name][key], 4) for key in ("value", "low", "high")]
            for name in ("recall", "precision", "f1")
        }

    routing = found["routing"]
    return {
        "n": found["n"], "patients": found["patients"], "looks": looks, "macro": rounded(found["pixels"]),
        "macro_with_age": rounded(found["with_age"]), "chests_with_age": found["with_age"]["chests_with_age"],
        "classes": {name: {k: round(v, 4) for k, v in row.items() if k != "recall_interval"}
                    for name, row in found["classes"].items()},
        "calibration_error": round(found["calibration"]["error"], 4),
        "answered": round(routing["coverage"], 4), "right_of_answered": round(routing["precision"], 4),
    }  # fmt: skip


def main(
    run: Annotated[Path, typer.Argument(help="The folder that `dicom-router train --out` wrote.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that it was trained on.")],
    root: Annotated[
        Path | None, typer.Option(help="The folder of its files. Default: the folder of the manifest.")
    ] = None,
    folds: Annotated[Path | None, typer.Option(help="What `python -m shipping.folds` wrote.")] = None,
    out: Annotated[Path, typer.Option(help="The model's folder.")] = Path("models/mobilenet_v1"),
    failures: Annotated[Path | None, typer.Option(help="Where you know it to fail, Markdown for the card.")] = None,
    licence: Annotated[Path | None, typer.Option(help="Its licence; {restricted} lists bound sources.")] = None,
) -> None:
    """Calibrate a run, score the test split once, and write the model's folder."""
    words = [file.read_text(encoding="utf-8") if file else "" for file in (failures, licence)]
    card = ship(run, manifest, root or manifest.parent, folds, out, failures=words[0], licence=words[1])
    print(json.dumps(dict(card.figures), indent=1))


if __name__ == "__main__":
    typer.run(main)
