"""`dicom-router adapt`: a model of the hospital's own, from what its node has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.options import asked_for_json, config_file, must_be_file, must_be_folder, wrong


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Your images, or a spool. Default: what the node of --config still keeps."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV of labels by people: file (path below FOLDER, name or instance), label."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The model to adapt. Default: the one that came with it.")] = None,
    old: Annotated[
        Path | None,
        typer.Option(help="The CSV that the model was trained on; needed if its folder has no known.safetensors."),
    ] = None,
    old_root: Annotated[
        Path | None, typer.Option(help="The folder of its files. Default: the folder of --old.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The new model's folder.")] = Path("runs/adapted"),
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The routing.yaml to judge by. Default: the shipped one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", callback=asked_for_json, help="Every figure as JSON, errors too.")
    ] = False,
) -> None:
    """Adapt a model to a hospital's images. Exit code 1: it is no better than it was, or failed; 2: wrong use."""
    from rich.console import Console
    from rich.progress import Progress

    from router.cli.train import failing

    with failing():
        from router.config import load
        from router.model.files import shipped_model
        from router.training.adapt import Old, adapt
        from router.training.routes import Routes

        if folder is None:
            folder = load(config_file(config)).spool.path
            must_be_folder("the spool", folder)
        must_be_folder("FOLDER", folder)
        for option, file in (("--labels", labels), ("--old", old)):
            if file is not None:
                must_be_file(option, file)
        for option, given in (("--model", model), ("--old-root", old_root)):
            if given is not None:
                must_be_folder(option, given)
        base = model or shipped_model()
        if out.resolve() == base.resolve():
            wrong("--out: the folder of the model that is adapted; name another")
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("looking", total=None)
            found = adapt(
                base, folder, out, Routes.of(config), labels=labels, old=Old(old, old_root),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    if as_json:
        print(json.dumps(({"model": str(out)} if not found["refused"] else {}) | found))
    else:
        _show(found, out)
    if found["refused"]:
        raise typer.Exit(1)


def _show(found: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from router.training.adapt import table

    console = Console()
    shown = Table(title="Where images go by the rules, before and after")
    for name in ("images", "n", "right", "after", "wrong", "after", "to people", "after"):
        shown.add_column(name, justify="left" if name == "images" else "right")
    for row in table(found):
        shown.add_row(*row)
    console.print(shown)
    images = found["images"]
    console.print(
        f"{images['labelled_by_people']} images labelled by people, {images['labelled_by_header']} by their header; "
        f"{images['header_and_pixels_disagree']} where header and pixels disagree, "
        f"{images['without_label']} without a label, {images['unreadable']} unreadable",
        highlight=False,
    )
    for reason in found["refused"]:
        console.print(f"nothing is written: {reason}", highlight=False, markup=False)
    if not found["refused"]:
        console.print(f"eight bits: {found['int8']}", highlight=False, markup=False)
        console.print(f"{out}: try it with 'dicom-router model shadow {out}'", highlight=False, markup=False)
