"""`dicom-router classify`: what the model sees and the rules would decide, for files and folders. Sends nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.archive import Account, Csv, Outputs, Parquet, Restart, Resume, account
from router.cli.options import VARIABLE, Json, printable, wrong

if TYPE_CHECKING:
    from router.commands.classify_files import Looked
    from router.commands.tables import Columns
    from router.config import Settings
    from router.config.settings import ModelSettings
    from router.model.doubt import Limits


def command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders of them.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar=VARIABLE,
            help="Apply the rules of this routing.yaml. Without it, show only what the model sees.",
        ),
    ] = None,
    as_json: Json = False,
    resume: Resume = None,
    csv_file: Csv = None,
    parquet: Parquet = None,
    restart: Restart = False,
    body_part: Annotated[bool, typer.Option(help="Add BodyPartExamined from the header.")] = False,
    calling_ae: Annotated[
        str, typer.Option(help="Apply the rules as if this calling AE title had sent the files.")
    ] = "",
    model: Annotated[Path | None, typer.Option(help="Folder of another model.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=64, help="Decode this many images at a time; 0: as many as model.workers says.")
    ] = 0,
) -> None:
    """Classify files as the node would, and show where it would send them. Exit code 1 if a file could not be read."""
    from router.cli.runs import run_of
    from router.commands.classify_files import in_order, look
    from router.config import load
    from router.decide.studies import keeps_together
    from router.flow import Caller
    from router.inference import Inference
    from router.model.doubt import read_limits
    from router.model.files import shipped_model
    from router.observe.logging import set_up

    set_up("console", "warning")
    missing = [path for path in paths if not path.exists()]
    if missing:
        wrong(f"{missing[0]}: no such file or folder")
    settings = load(config) if config else None
    model_settings = _model_settings(settings, model, workers)
    outputs = Outputs(resume, csv_file, parquet)
    limits = read_limits(model_settings.path or shipped_model())
    kept: Counter[tuple[str, str, str]] = Counter()

    def run() -> dict[str, str]:
        return run_of(settings, model_settings, calling_ae=calling_ae, body_part=body_part)

    with account(paths, outputs, columns(body_part=body_part), run, restart=restart) as counts:
        inference = Inference(model_settings)
        inference.start()
        try:
            caller = Caller(calling_ae, settings.node.ae_title if settings else "", "127.0.0.1")
            together = settings is not None and keeps_together(settings.rules)
            looks = look(counts.todo(whole=together), inference, settings, caller)
            # What a journal notes, it notes as it comes: nothing that is done waits for what is slow.
            looks = _counted(looks if counts.journal else in_order(looks), kept)
            rows = _noted(looks, counts, body_part=body_part)
            _write(rows, limits, as_json=as_json, quiet=bool(outputs.tables), rules=settings is not None)
        finally:
            inference.stop(2.0)
    for line in summary(kept):
        typer.echo(line, err=True)
    if counts.progress.failed:
        raise typer.Exit(1)


def _model_settings(settings: Settings | None, model: Path | None, workers: int) -> ModelSettings:
    from router.config.settings import ModelSettings
    from router.node.model_store import opened

    chosen = ModelSettings()
    if settings:
        serving = opened(settings).serving()
        chosen = replace(settings.model, path=serving)
    if model:
        chosen = replace(chosen, path=model)
    return replace(chosen, workers=workers) if workers else chosen


def columns(*, body_part: bool) -> Columns:
    """The columns of a table."""
    from router.flow import CLASSES

    part: dict[str, type] = {"body_part_examined": str} if body_part else {}
    return {
        "path": str, "top": str, "class": str, "confidence": float, "view": str, "view_confidence": float,
        "inverted": bool, "rule": str, "error": str, **part, "destinations": list,
        **{f"p_{name}": float for name in CLASSES},
    }  # fmt: skip


def _noted(looks: Iterable[Looked], counts: Account, *, body_part: bool) -> Iterator[dict[str, Any]]:
    """The row of each file, when it is noted."""
    for looked in looks:
        row = _row(looked, body_part=body_part)
        # An error of the file itself; pixels that cannot be decoded are a fact that rules decide with.
        error = looked.error if row["top"] is None and row["rule"] is None else ""
        counts.add(looked.path, flat(row), error, done=not looked.unreadable)
        yield row


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a table has it."""
    cells = {name: value for name, value in row.items() if name not in ("probabilities", "follows")}
    return cells | {f"p_{name}": p for name, p in (row["probabilities"] or {}).items()}


def _counted(looks: Iterable[Looked], kept: Counter[tuple[str, str, str]]) -> Iterator[Looked]:
    """Count in `kept`, by class, AIs and rule, the images that a rule keeps from the AI of their class."""
    for looked in looks:
        if looked.kept_from and looked.decision and looked.seen and looked.seen.prediction:
            kept[looked.seen.prediction.class_name, ", ".join(looked.kept_from), looked.decision.rule] += 1
        yield looked


def summary(kept: Counter[tuple[str, str, str]]) -> list[str]:
    """One line for each class and rule, the most images first."""
    return [
        f"{count} image{'' if count == 1 else 's'} of class {name} {'was' if count == 1 else 'were'} "
        f"kept from {ais} by rule '{rule}'"
        for (name, ais, rule), count in kept.most_common()
    ]


def _row(looked: Looked, *, body_part: bool) -> dict[str, Any]:
    from router.decide.decision import places
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
        "destinations": [*places(decision), *(name for name, _ in looked.follows)] if decision else [],
        "error": looked.error or None,
    }
    if looked.follows:
        row["follows"] = {name: str(path) for name, path in looked.follows}
    if body_part:
        row["body_part_examined"] = looked.body_part
    return row


def _write(rows: Iterable[dict[str, Any]], limits: Limits | None, *, as_json: bool, quiet: bool, rules: bool) -> None:
    """Print each row as it comes; with a table to write, only if it was asked for."""
    if as_json:
        for row in rows:
            print(json.dumps(row), flush=True)
    elif quiet:
        for _ in rows:
            pass
    else:
        _to_terminal(rows, limits, rules=rules)


def _to_terminal(rows: Iterable[dict[str, Any]], limits: Limits | None, *, rules: bool) -> None:
    from router.flow import UNCERTAIN

    for row in rows:
        chances = " ".join(f"{name} {p:.2f}" for name, p in (row["probabilities"] or {}).items())
        line = f"{row['path']}: {row['class'] or 'no prediction'}"
        if row["class"] == UNCERTAIN and limits:
            novel = row["confidence"] >= limits.thresholds[row["top"]]
            line += f" ({limits.why(row['top'], row['confidence'], novel=novel)})"
        if chances:
            line += f"  ({chances})"
        if row["view"]:
            line += f"  view: {row['view']}"
        if row["inverted"]:
            line += "  inverted"
        if rules and row["rule"]:
            line += f"  rule: {row['rule']} -> {', '.join(row['destinations']) or 'nowhere'}"
        for name, path in row.get("follows", {}).items():
            line += f"  {name}: follows {path}"
        if row["error"]:
            line += f"  [{row['error']}]"
        if "body_part_examined" in row:
            line += f"  BodyPartExamined: {row['body_part_examined'] or '-'}"
        print(printable(line), flush=True)
    sys.stdout.flush()
