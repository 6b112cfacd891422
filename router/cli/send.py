"""`dicom-router send`: C-STORE files to a destination of routing.yaml, or to any node, as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.archive import Csv, Outputs, Parquet, Restart, Resume, account
from router.cli.options import Config, Json, choose, parsed, printable, settings_of

if TYPE_CHECKING:
    from router.config.settings import DestinationSettings

COLUMNS = {"path": str, "status": str, "error": str}


def command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option("--to", help="A destination of routing.yaml, or AE@HOST:PORT.")],
    config: Config = None,
    calling_ae: Annotated[str, typer.Option(help="The calling AE title to use.")] = "",
    associations: Annotated[int, typer.Option(min=1, max=64, help="Send over this many associations at a time.")] = 1,
    as_json: Json = False,
    resume: Resume = None,
    csv_file: Csv = None,
    parquet: Parquet = None,
    restart: Restart = False,
) -> None:
    """Send files unchanged by C-STORE. Exit code 1 if one of them did not arrive."""
    from router.commands.send_files import send_files

    destination, ours = _destination(to, config, calling_ae)
    outputs = Outputs(resume, csv_file, parquet)

    def run() -> dict[str, str]:
        end = destination.stow or f"{destination.ae_title}@{destination.host}:{destination.port}"
        return {"--to": end, "--calling-ae": ours}

    with account(paths, outputs, COLUMNS, run, restart=restart) as counts:
        for sent in send_files(counts.todo(), destination, ours, associations):
            status = None if sent.status is None else f"0x{sent.status:04X}"
            row = {"path": str(sent.path), "status": status, "error": sent.error or None}
            counts.add(sent.path, row, sent.error, done=sent.arrived)
            if as_json:
                print(json.dumps(row), flush=True)
            elif not (sent.arrived or outputs.tables):
                print(printable(f"{sent.path}: {sent.error}"))
    progress = counts.progress
    total, arrived = progress.skipped + progress.done, progress.skipped + progress.done - progress.failed
    if not as_json:
        before = f" ({progress.skipped:,} of them before)" if progress.skipped else ""
        print(f"{arrived:,} of {total:,} arrived at {to}{before}")
    if progress.failed or not total:
        raise typer.Exit(1)


def _destination(to: str, config: Path | None, calling_ae: str) -> tuple[DestinationSettings, str]:
    from router.commands.new_config import endpoint
    from router.config import values
    from router.config.settings import DestinationSettings, NodeSettings

    ours = parsed(values.ae_title, calling_ae, "--calling-ae") if calling_ae else ""
    if any(mark in to for mark in "@:/"):  # no destination's name has them
        end = parsed(endpoint, to, "--to")
        return DestinationSettings("command line", end.ae_title, end.host, end.port), ours or NodeSettings().ae_title
    settings = settings_of(config)
    choose("--to", to, settings.destinations)
    return settings.destinations[to], ours or settings.calling_ae(settings.destinations[to])
