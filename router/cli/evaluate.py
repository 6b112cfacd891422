"""`dicom-router evaluate`: how good a model is on labelled images, and how far it may be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import asked_for_json

if TYPE_CHECKING:
    from rich.console import Console

    from router.training.data import Item


def command(
    model: Annotated[Path | None, typer.Option(help="A model's folder. Default: the shipped model.")] = None,
    folder: Annotated[Path | None, typer.Option(help="A folder with one folder for each class.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="A CSV with the columns file and label; optional: split, patient, source, age."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder of the files in the CSV. Default: the folder of the CSV.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Score this split. Default: `test` if there are splits, or the model was trained on these; else all."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", callback=asked_for_json, help="Print every figure as JSON, also errors.")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Write a CSV to this file, with a line for each image.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report to this file. Only you can read it.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show pictures of the worst mistakes in the report.")
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Apply the rules of this routing.yaml. Default: the shipped one."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples for the intervals.")] = 10_000,
) -> None:
    """Score a model on labelled images. Exit code 1: scoring failed; 2: wrong use."""
    from rich.console import Console
    from rich.progress import Progress

    from router.cli.options import must_be_folder
    from router.cli.train import check_device, choose_items, failing
    from router.model.load import shipped_model
    from router.training.evaluate import evaluate, read_model, write_predictions
    from router.training.report import write_report
    from router.training.routes import Routes, who_gets_what

    with failing():
        check_device(device)
        if model is not None:
            must_be_folder("--model", model)
        directory = model or shipped_model()
        routes = Routes.of(config)
        everything = _dealt(choose_items(folder, manifest, root, any_split=True), split, directory)
        scored, which = _split(everything, split)
        loaded = read_model(directory, device)
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("looking", total=len(scored))
            found, answers = evaluate(
                loaded, scored, everything=everything, resamples=resamples, progress=lambda n: bar.advance(task, n)
            )
        found = {"split": which, "routes": who_gets_what(routes, answers.items, answers.predictions)} | found
        if predictions:
            write_predictions(answers, predictions)
        if report:
            write_report(found, answers, loaded.size, report, pictures=pictures)
            if pictures:
                Console(stderr=True).print(
                    f"{report}: its pictures can have burnt-in names; protect it as you protect images"
                )
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found, Console())


def _dealt(items: list[Item], wanted: str | None, model: Path) -> list[Item]:
    """Items without splits get those of `train` where one is asked for, or where this model was trained on them."""
    from router.model.card import Card, CardError
    from router.training.data import DataError, deal, deal_as_trained, seed_of

    if wanted == "all" or any(item.split for item in items):
        return items
    try:
        trained = Card.read(model).trained
        return deal(items, seed_of(trained)) if wanted else deal_as_trained(items, trained)
    except (DataError, CardError):  # too few for all splits; a missing card is told when the model is read
        return items


def _split(items: list[Item], wanted: str | None) -> tuple[list[Item], str]:
    """The images to score, and the name of their split."""
    from router.cli.options import choose
    from router.training.data import DataError

    there = {item.split for item in items}
    if wanted is None:
        wanted = "test" if "test" in there else ""
    if not wanted or wanted == "all":
        return items, "all"
    chosen = [item for item in items if item.split == wanted]
    if not chosen and there == {""}:
        raise DataError("the images have no splits, and are too few to be divided; give more images, or --split all")
    choose("--split", wanted, sorted(name for name in there if name))
    return chosen, wanted


def show(found: dict[str, Any], console: Console) -> None:
    """Print who gets what, Table 1, Table 2 and what the model may be trusted with."""
    from rich.table import Table

    from router.training.routes import HEAD, rows

    zeroth = Table(title="Who gets what, by the rules")
    for name in HEAD:
        zeroth.add_column(name, justify="left" if name in ("header", "class") else "right")
    for row in rows(found["routes"]):
        zeroth.add_row(*row)
    console.print(zeroth)

    first = Table(title="Table 1: images by class and split")
    splits = list(found["table1"]["total"]["splits"])
    for name in ("class", *splits, "images", "patients", "sources"):
        first.add_column(name, justify="left" if name in ("class", "sources") else "right")
    for name, row in found["table1"].items():
        sources = ", ".join(f"{source} {n}" for source, n in row["sources"].items()) if name != "total" else ""
        counts = [str(row["splits"][split]) for split in splits]
        first.add_row(name, *counts, str(row["images"]), str(row["patients"]), sources)
    console.print(first)

    second = Table(title=f"Table 2: {found['model']['network']}, split {found['split']}, n = {found['n']}")
    for name in ("macro", "recall", "precision", "F1", "n"):
        second.add_column(name, justify="left" if name == "macro" else "right")
    aged = found["with_age"]["chests_with_age"]
    for key, title in (("pixels", "pixels alone"), ("with_age", f"with header age ({aged} chests have one)")):
        cells = (f"{v['value']:.4f} ({v['low']:.3f}–{v['high']:.3f})" for v in
                 (found[key][name] for name in ("recall", "precision", "f1")))  # fmt: skip
        second.add_row(title, *cells, str(found[key]["n"]))
    for name, row in found["classes"].items():
        second.add_row(
            f"  {name}", f"{row['recall']:.4f}", f"{row['precision']:.4f}", f"{row['f1']:.4f}", str(row["n"])
        )
    console.print(second)

    third = Table(title="By source (pixels alone)")
    for name in ("source", "class", "n", "right", "recall", "uncertain"):
        third.add_column(name, justify="left" if name in ("source", "class") else "right")
    for row in found["sources"]:
        counts = [str(row["n"]), str(row["right"]), f"{row['recall']:.3f}", str(row["uncertain"])]
        third.add_row(row["source"], row["class"], *counts)
    console.print(third)

    fourth = Table(title="Confusion: rows are labels, columns predictions")
    for name in ("", *found["classes"]):
        fourth.add_column(name, justify="right" if name else "left")
    for name, counts in zip(found["classes"], found["confusion"], strict=True):
        fourth.add_row(name, *map(str, counts))
    console.print(fourth)
    _show_rest(found, console)


def _show_rest(found: dict[str, Any], console: Console) -> None:
    from router.training.report import right_of_answered

    routing, took = found["routing"], found["milliseconds"]
    console.print(
        f"answered {routing['coverage']:.1%}, of which right {right_of_answered(routing)}; novel {routing['novel']}; "
        f"calibration error {found['calibration']['error']:.4f}"
    )
    for row in found["views"]:
        named = f"{row['right']} right, {row['wrong']} wrong, {row['uncertain']} uncertain of {row['n']}"
        console.print(f"  view {row['view']}: {named}")
    if found["inverted"]:
        console.print(f"  {found['inverted']} were inverted; they were turned and classified again")
    for name, row in routing["wrong_routes"].items():
        console.print(f"  {name}: {row['taken']} of {row['others']} other images (at most {row['upper_bound']:.2%})")
    console.print(
        f"{found['model']['parameters']:,} parameters; {took['network']:.1f} ms an image on {took['device']}, "
        f"and {took['prepare']:.1f} ms to read and prepare it (mean of {took['n']})"
    )
    if found["skipped"]["n"]:
        console.print(f"skipped {found['skipped']['n']} unreadable images:")
        for path, reason in found["skipped"]["images"][:20]:
            console.print(f"  {path}: {reason}", markup=False)
