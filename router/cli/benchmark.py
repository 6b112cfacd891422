"""`dicom-router benchmark`: what this machine would sustain, with phantoms of full size; ends by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Json


def command(
    count: Annotated[int, typer.Option(min=5, max=1000, help="Number of radiographs to send (10 MB each).")] = 40,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A routing.yaml. Default: the shipped one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine classifies, and how fast it routes. Sender, node and downstream nodes share it."""
    from rich.console import Console

    from router.config import load, shipped
    from router.demo import measure, run
    from router.model.load import load as load_model
    from router.observe.logging import set_up

    set_up("console", "warning")
    console = Console(stderr=True)
    settings = load(config or shipped())
    chosen = settings.model
    with console.status("the model alone"):
        model = load_model(chosen.path, device=chosen.device, engine=chosen.engine, threads=chosen.threads)
        times = measure.classify(model)
    with run.scratch() as name:
        folder = Path(name)
        with console.status(f"making {count} radiographs"):
            paths = measure.radiographs(folder, count)
        with console.status("starting the node"), run.stage(settings, folder) as on:
            measure.route(paths[:3], on)
            console.log(f"sending {count} radiographs of 10 MB")
            sustained = measure.route(paths, on)
    if as_json:
        print(json.dumps({
            "engine": model.engine, "ms_per_picture": {str(b): round(t, 2) for b, t in times.items()},
            "instances_per_s": round(sustained.per_second, 2), "delivered": sustained.delivered, "sent": sustained.sent,
        }))  # fmt: skip
    else:
        print(f"engine {model.engine} ({model.why}), {model.card.size} px")
        for batch, milliseconds in times.items():
            print(f"  batch {batch:2d}: {milliseconds:.1f} ms a picture")
        print(
            f"received durably, classified and forwarded: {sustained.per_second:.1f} radiographs a second "
            f"({sustained.megabytes_per_second:.0f} MB/s), {sustained.per_second * 3600:,.0f} an hour; "
            f"{sustained.delivered} of {sustained.sent} delivered"
        )
    if sustained.delivered < sustained.sent:
        raise typer.Exit(1)
