"""`dicom-router classify`: what the model sees and the rules would decide, for files and folders. Sends nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.csv_file import CsvFile, run_of
from router.cli.options import VARIABLE, Json, printable, wrong

if TYPE_CHECKING:
    from router.commands.classify_files import Looked
    from router.config import Settings
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
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write CSV to this file. The same command continues an interrupted run."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="With --csv: delete the rows of the file and start again.")
    ] = False,
    body_part: Annotated[bool, typer.Option(help="Add BodyPartExamined from the header.")] = False,
    calling_ae: Annotated[
        str, typer.Option(help="Apply the rules as if this calling AE title had sent the files.")
    ] = "",
    model: Annotated[Path | None, typer.Option(help="Folder of another model.")] = None,
) -> None:
    """Classify files as the node would, and show where it would send them. Exit code 1 if a file could not be read."""
    from dataclasses import replace

    from router.commands.classify_files import files, look
    from router.config import load
    from router.config.settings import ModelSettings
    from router.flow import Caller
    from router.inference import Inference
    from router.model.doubt import read_limits
    from router.model.files import shipped_model
    from router.node.model_store import opened
    from router.observe.logging import set_up

    set_up("console", "warning")
    missing = [path for path in paths if not path.exists()]
    if missing:
        wrong(f"{missing[0]}: no such file or folder")
    if restart and not csv_file:
        wrong("--restart needs --csv")
    settings = load(config) if config else None
    model_settings = ModelSettings()
    if settings:
        serving = opened(settings).serving()
        model_settings = replace(settings.model, path=serving)
    if model:
        model_settings = replace(model_settings, path=model)
    into, written = None, {}
    if csv_file:
        into = CsvFile(csv_file, run_of(settings, model_settings, calling_ae=calling_ae, body_part=body_part))
        if refusal := into.refusal(restart=restart):
            wrong(refusal)
        written = into.begin(restart=restart)
    chosen = list(files(paths))
    todo = [path for path in chosen if str(path) not in written]
    _refuse_to_go_on(settings, written, todo)
    failed = any(written.get(str(path), False) for path in chosen)
    inference = Inference(model_settings)
    inference.start()
    try:
        caller = Caller(calling_ae, settings.node.ae_title if settings else "", "127.0.0.1")
        kept: Counter[tuple[str, str, str]] = Counter()
        seen = _counted(look(todo, inference, settings, caller), kept)
        rows = (_row(looked, body_part=body_part) for looked in seen)
        limits = read_limits(model_settings.path or shipped_model())
        failed |= _write(rows, into, limits, as_json=as_json, rules=settings is not None)
    finally:
        inference.stop(2.0)
    for line in summary(kept):
        typer.echo(line, err=True)
    if failed:
        raise typer.Exit(1)


def _refuse_to_go_on(settings: Settings | None, written: dict[str, bool], todo: list[Path]) -> None:
    """Files that are looked at now may lead those with a row, or follow them; and rows do not say their study."""
    from router.decide.studies import keeps_together

    if settings and written and todo and keeps_together(settings.rules):
        wrong("an interrupted run cannot be continued, because these rules keep studies together: add --restart")


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


def _write(
    rows: Iterator[dict[str, Any]], into: CsvFile | None, limits: Limits | None, *, as_json: bool, rules: bool
) -> bool:
    """Print or write each row as it comes; True if one of them was an error of the file itself."""
    failed = False

    def watched() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for row in rows:
            failed = failed or (row["top"] is None and row["rule"] is None)
            if as_json:
                print(json.dumps(row), flush=True)
            yield row

    if into:
        from rich.console import Console
        from rich.progress import track

        into.write(track(watched(), description="looking", console=Console(stderr=True), total=None))
    elif as_json:
        deque(watched(), maxlen=0)
    else:
        _to_terminal(watched(), limits, rules=rules)
    return failed


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
