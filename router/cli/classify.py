"""`dicom-router classify`: what the model sees and the rules would decide, for files and folders. Sends nothing."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import printable

if TYPE_CHECKING:
    from router.dryrun import Looked


def command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Try the rules of this routing.yaml; without, only the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write CSV here; an interrupted run goes on where it stopped.")
    ] = None,
    body_part: Annotated[bool, typer.Option(help="Add BodyPartExamined from the header.")] = False,
    calling_ae: Annotated[str, typer.Option(help="Try the rules as if this calling AE title had sent the files.")] = "",
    model: Annotated[Path | None, typer.Option(help="Another model's folder.")] = None,
) -> None:
    """Look at files as the node would, and say what it would do. Exit code 1 if a file could not be looked at."""
    from dataclasses import replace

    from router.config import load
    from router.config.settings import ModelSettings
    from router.dryrun import files, look
    from router.flow import Caller
    from router.inference import Inference
    from router.model.store import ModelStore
    from router.observe.logging import set_up

    set_up("console", "warning")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise typer.BadParameter(f"{missing[0]}: no such file or folder")
    settings = load(config) if config else None
    model_settings = ModelSettings()
    if settings:
        serving = ModelStore(settings.spool.path, settings.model.path).serving()
        model_settings = replace(settings.model, path=serving)
    if model:
        model_settings = replace(model_settings, path=model)
    written = _written(csv_file) if csv_file else frozenset()
    todo = (path for path in files(paths) if str(path) not in written)
    inference = Inference(model_settings)
    inference.start()
    try:
        caller = Caller(calling_ae, settings.node.ae_title if settings else "", "127.0.0.1")
        rows = (_row(looked, body_part=body_part) for looked in look(todo, inference, settings, caller))
        failed = _write(rows, csv_file, as_json=as_json, rules=settings is not None)
    finally:
        inference.stop(2.0)
    if failed:
        raise typer.Exit(1)


def _row(looked: Looked, *, body_part: bool) -> dict[str, Any]:
    from router.flow import CLASSES

    prediction = looked.seen.prediction if looked.seen else None
    decision = looked.decision
    row: dict[str, Any] = {
        "path": str(looked.path),
        "top": prediction.top if prediction else None,
        "class": prediction.class_name if prediction else None,
        "confidence": round(prediction.confidence, 4) if prediction else None,
        "probabilities": {c: round(p, 4) for c, p in zip(CLASSES, prediction.probabilities, strict=True)}
        if prediction
        else None,
        "view": prediction.view or None if prediction else None,
        "view_confidence": round(prediction.view_confidence, 4) if prediction and prediction.view else None,
        "inverted": prediction.inverted if prediction else None,
        "rule": decision.rule if decision else None,
        "destinations": list(decision.destinations) if decision else [],
        "error": looked.error or None,
    }
    if body_part:
        row["body_part_examined"] = looked.body_part
    return row


def _written(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    with path.open(newline="", encoding="utf-8") as lines:
        return frozenset(row["path"] for row in csv.DictReader(lines) if row.get("path"))


def _write(rows: Iterator[dict[str, Any]], csv_file: Path | None, *, as_json: bool, rules: bool) -> bool:
    """Print or write each row as it comes; True if one of them was an error of the file itself."""
    failed = False

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for row in rows:
            failed = failed or (row["top"] is None and row["rule"] is None)
            yield row

    if as_json:
        for row in watched():
            print(json.dumps(row), flush=True)
    elif csv_file:
        _to_csv(watched(), csv_file)
    else:
        _to_terminal(watched(), rules=rules)
    return failed


def _to_csv(rows: Iterable[dict[str, Any]], path: Path) -> None:
    from rich.console import Console
    from rich.progress import track

    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as out:
        writer: csv.DictWriter[str] | None = None
        for row in track(rows, description="looking", console=Console(stderr=True), total=None):
            flat = {k: v for k, v in row.items() if k not in ("probabilities", "destinations")}
            flat["destinations"] = " ".join(row["destinations"])
            flat |= {f"p_{name}": p for name, p in (row["probabilities"] or {}).items()}
            if writer is None:
                from router.flow import CLASSES

                names = [*(k for k in flat if not k.startswith("p_")), *(f"p_{c}" for c in CLASSES)]
                writer = csv.DictWriter(out, fieldnames=names)
                if fresh:
                    writer.writeheader()
            writer.writerow(flat)
            out.flush()


def _to_terminal(rows: Iterable[dict[str, Any]], *, rules: bool) -> None:
    for row in rows:
        chances = " ".join(f"{name} {p:.2f}" for name, p in (row["probabilities"] or {}).items())
        line = f"{row['path']}: {row['class'] or 'no prediction'}"
        if chances:
            line += f"  ({chances})"
        if row["view"]:
            line += f"  view: {row['view']}"
        if row["inverted"]:
            line += "  inverted"
        if rules and row["rule"]:
            line += f"  rule: {row['rule']} -> {', '.join(row['destinations']) or 'nowhere'}"
        if row["error"]:
            line += f"  [{row['error']}]"
        if "body_part_examined" in row:
            line += f"  BodyPartExamined: {row['body_part_examined'] or '-'}"
        print(printable(line), flush=True)
    sys.stdout.flush()
