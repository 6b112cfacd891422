"""`dicom-router send`: C-STORE files to a destination of routing.yaml, or to any node, as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Config, Json, choose, parsed, printable, settings_of

if TYPE_CHECKING:
    from router.config.settings import DestinationSettings


def command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option("--to", help="A destination of routing.yaml, or AE@HOST:PORT.")],
    config: Config = None,
    calling_ae: Annotated[str, typer.Option(help="The calling AE title to use.")] = "",
    as_json: Json = False,
) -> None:
    """Send files unchanged by C-STORE. Exit code 1 if one of them did not arrive."""
    from rich.console import Console
    from rich.progress import Progress

    from router.commands.classify_files import files
    from router.commands.send_files import send_files

    destination, ours = _destination(to, config, calling_ae)
    chosen = list(files(paths))
    failed = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=len(chosen))
        for sent in send_files(chosen, destination, ours):
            progress.advance(task)
            failed += not sent.arrived
            if as_json:
                status = None if sent.status is None else f"0x{sent.status:04X}"
                print(json.dumps({"path": str(sent.path), "status": status, "error": sent.error or None}), flush=True)
            elif not sent.arrived:
                print(printable(f"{sent.path}: {sent.error}"))
    if not as_json:
        print(f"{len(chosen) - failed} of {len(chosen)} arrived at {to}")
    if failed or not chosen:
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
