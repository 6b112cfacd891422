"""`dicom-router train`: a network from labelled images, by the paper's recipe or by that of the shipped model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import choose, fail, must_be_file, must_be_folder, wrong

if TYPE_CHECKING:
    from router.training.data import Item


def command(
    folder: Annotated[Path | None, typer.Option(help="A folder with one folder for each class.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="A CSV with the columns file and label; optional: split, patient, source, age."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder of the files in the CSV. Default: the folder of the CSV.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="mobilenet_v1, or a network of the paper's comparison.")] = None,
    recipe: Annotated[str, typer.Option(help="Training recipe: paper or shipped.")] = "paper",
    size: Annotated[int | None, typer.Option(min=32, max=1024, help="Width and height of a picture in pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from: those of ImageNet, or model.safetensors of a model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run. The same command continues an interrupted run.")] = Path(
        "runs/latest"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all random choices.")] = None,
) -> None:
    """Train a network; the best epoch is written to OUT/best. Exit code 1: training failed; 2: wrong use."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    with failing():
        from router.errors import to_install
        from router.training.data import DataError, deal
        from router.training.networks import NAMES, must_be_buildable
        from router.training.recipe import RECIPES, with_overrides
        from router.training.train import train

        choose("--recipe", recipe, RECIPES)
        choose("--network", network or NAMES[0], NAMES)
        must_be_buildable(network or NAMES[0])
        check_device(device)
        if weights:
            must_be_file("--weights", weights)
        chosen = with_overrides(RECIPES[recipe], network=network, size=size, epochs=epochs, seed=seed)
        items = deal(choose_items(folder, manifest, root), seed=chosen.seed)
        if not any(item.split == "val" for item in items):
            raise DataError("there is no validation image to choose the best epoch by; give more patients, or a split")
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("training", total=None)
            best = train(
                chosen, items, out, weights=weights, device=device,
                say=lambda line: bar.console.print(line, markup=False),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        if not curves(out):
            console.print(f"no curves: matplotlib is missing ({to_install('train')})", markup=False)
    print(best)


@contextmanager
def failing() -> Iterator[None]:
    """End the command in one line where an error is one that a person can mend; torch has some of these, too."""
    from safetensors import SafetensorError

    from router.errors import explain

    more: dict[str, Any] = {}
    try:
        yield
    except (typer.Exit, typer.Abort):  # RuntimeErrors, too
        raise
    except (RuntimeError, SafetensorError) as error:
        code, line = 1, next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    except Exception as error:
        code, line, more = explain(error)
    else:
        return
    fail(line, code, **more)


def check_device(device: str) -> None:
    """End the command with code 2 where there is no such device here."""
    choose("--device", device, ("auto", "cpu", "cuda"))
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        wrong("--device cuda: torch finds no CUDA device here; use auto or cpu")


def choose_items(
    folder: Path | None, manifest: Path | None, root: Path | None, *, any_split: bool = False
) -> list[Item]:
    """The images that the options name: exactly one of a folder and a manifest."""
    from router.training.data import names_in_two_classes, read_folders, read_manifest

    if (folder is None) == (manifest is None):
        wrong("give either --folder DIR or --manifest FILE.csv")
    if folder is not None:
        if root is not None:
            wrong("--root needs --manifest")
        must_be_folder("--folder", folder)
        items = read_folders(folder)
        if shared := names_in_two_classes(items):
            line = f"{shared} subfolder names occur in several classes; each name counts as one patient"
            typer.echo(line, err=True)
        return items
    assert manifest is not None
    must_be_file("--manifest", manifest)
    if root is not None:
        must_be_folder("--root", root)
    return read_manifest(manifest, root or manifest.parent, any_split=any_split)


def curves(out: Path) -> bool:
    """Draw `history.json` of a run as `curves.png`; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    history = json.loads((out / "history.json").read_text())
    epochs = [entry["epoch"] for entry in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [entry["loss"] for entry in history], label="training (augmented)")
    left.plot(epochs, [entry["val_loss"] for entry in history], label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epochs, [entry["val_f1"] for entry in history], color="tab:green")
    right.set(xlabel="epoch", ylabel="validation macro F1")
    figure.savefig(out / "curves.png", dpi=120)
    return True
