"""`dicom-router demo`: the whole way on one machine, with phantoms or with your own files."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from router.demo.run import Outcome

PHANTOMS = (
    "These are phantoms: computed projections of simple bodies. The model was not trained on them. They show that the "
    "node routes; they do not show how well the model classifies patients. The demonstration turns the novelty limit "
    "off, because phantoms are novel. With your own files the limit is on: dicom-router demo PATH…"
)

LONGEST_SHIPPED = len("pediatric-chest-ai")
"""Of the names of destinations in the shipped file."""


def command(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Your DICOM, PNG or JPEG files, or folders of them. Default: phantoms.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A routing.yaml. Default: the shipped one.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything running until Ctrl-C.")] = False,
) -> None:
    """Start the node and its downstream nodes on loopback, send X-rays, and show what arrived where. Then stop.

    Exit code 0 only if each instance arrived, byte for byte, at every destination of its decision and nowhere else.
    """
    from rich.console import Console

    from router.config import load, shipped
    from router.demo import run
    from router.observe.logging import set_up

    console = Console()
    set_up("console", "warning")
    settings = load(config or shipped())
    with run.scratch() as name:
        folder = Path(name)
        with console.status("preparing pictures"):
            if paths:
                pictures, refused = run.own_files(paths, folder)
            else:
                pictures, refused = run.phantoms(folder), []
                settings = run.without_limit(settings, folder)
        for line in refused:
            console.print(f"not sent: {line}", markup=False)
        if not pictures:
            wrong("nothing to send")
        with ExitStack() as running:
            with console.status("starting the node (the model warms up) and its downstream nodes"):
                on = running.enter_context(run.stage(settings, folder))
            outcomes = list(run.show(pictures, on))
            console.print(_table(outcomes, drawn=not paths))
            right = sum(outcome.right for outcome in outcomes)
            console.print(
                f"{right} of {len(outcomes)} instances arrived unchanged at every destination of their decision "
                "and nowhere else.",
                highlight=False,
            )
            if not paths:
                console.print(PHANTOMS, style="dim", highlight=False)
            if stay:
                print(f"The node is {on.ae_title} at 127.0.0.1:{on.port}. Its page: http://127.0.0.1:{on.web_port}/")
                print("Ctrl-C ends it.")
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
    if right < len(outcomes) or refused:
        raise typer.Exit(1)


def _table(outcomes: Sequence[Outcome], *, drawn: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    # Names stay whole on a terminal of 80 columns; what the rule is called may take several lines.
    table.add_column("drawn" if drawn else "sent", overflow="fold", max_width=16, min_width=5)
    table.add_column("seen", no_wrap=True)
    table.add_column("p", no_wrap=True)
    table.add_column("rule", overflow="fold", max_width=14)
    table.add_column("arrived at", overflow="fold", min_width=LONGEST_SHIPPED)
    table.add_column("same", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(*(Text("".join(c if c.isprintable() else "?" for c in cell)) for cell in _cells(outcome)))
    return table


def _cells(outcome: Outcome) -> list[str]:
    name = outcome.picture.drawn or outcome.picture.name
    if outcome.status != 0:
        told = "no answer" if outcome.status is None else f"0x{outcome.status:04X}"
        return [name, f"refused ({told})", "", "", "", "", ""]
    missing = sorted(set(outcome.owed) - set(outcome.arrived))
    arrived = ", ".join(outcome.arrived) + (f" (missing: {', '.join(missing)})" if missing else "")
    return [
        name,
        outcome.seen,
        "" if outcome.confidence is None else f"{outcome.confidence:.2f}",
        outcome.rule,
        arrived or "nowhere",
        "yes" if outcome.identical else "NO",
        f"{outcome.milliseconds or 0:.0f}",
    ]
