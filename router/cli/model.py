"""`dicom-router model`: which model serves; test another, let it shadow, promote it, go back; no restart."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import (
    Config,
    Json,
    fail,
    local_time,
    must_be_file,
    must_be_folder,
    pages,
    printable,
    settings_of,
    spool_of,
    who,
)

if TYPE_CHECKING:
    from router.config import Settings
    from router.node.model_store import ModelStore
    from router.node.orders import ModelOrder
    from router.training.data import Item

app = typer.Typer(no_args_is_help=True, help="The models of the node: show, promote, shadow, compare, roll back.")

FOLLOW_WITHIN = 30.0
"""Seconds for other nodes to start the models that were chosen."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A model's folder: card.json and model.safetensors.")]


@app.command()
def promote(
    folder: Folder,
    config: Config = None,
    pinned: Annotated[
        Path | None, typer.Option(help="A CSV of labelled images, with the columns file and label.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder of the files in the CSV. Default: the folder of the CSV.")
    ] = None,
    allow: Annotated[float, typer.Option(min=0, max=1, help="Largest drop allowed in any figure of the table.")] = 0.01,
    allow_wrong: Annotated[
        int, typer.Option(min=0, help="Largest number of images that may newly reach a wrong AI node.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Test a model against the one that serves. If it is not worse, it serves. Exit code 1: it was refused, or failed.

    The test uses the pinned images (only the split `test`, if the CSV has splits). Without pinned images it is a smoke
    test on phantoms. The node uses the old model until the new one is warm.
    """
    from router.cli.train import failing
    from router.model.card import Card
    from router.node.orders import Promote
    from router.training.candidate import compare
    from router.training.data import digest_of
    from router.training.evaluate import answer, read_model

    settings, store = _store(config)
    must_be_folder("model", folder)
    if pinned is not None:
        must_be_file("--pinned", pinned)
    if root is not None:
        must_be_folder("--root", root)
    with failing():
        name = _keep(store, folder)
        before = _serving(store, settings)
        with _items(pinned, root, Card.read(store.folder / name).trained) as (items, left_out):
            device = settings.model.device
            answers = [answer(read_model(store.folder / one, device), items) for one in (before, name)]
        found = compare(answers[0], answers[1], allow=allow, allow_wrong=allow_wrong)
        tested = f"{found['n']} images {digest_of(items)[:12]}" if pinned else f"{found['n']} phantoms"
        digest = Card.read(store.folder / name).digest
    result = {"model": name, "digest": digest, "before": before, "tested": tested, "left_out": left_out} | found
    if not as_json:
        _show_test(result, phantoms=pinned is None)
    if not found["refused"]:
        _order(settings, Promote(name, before, tested, store.configured))
    if as_json:
        print(json.dumps(result))
    if found["refused"]:
        store.forget_unused()
        raise typer.Exit(1)
    if not as_json:
        print(f"{name} serves")


@app.command()
def rollback(config: Config = None, as_json: Json = False) -> None:
    """Let the previous model serve again. A second rollback undoes the first."""
    from router.node.orders import RollBack

    settings, store = _store(config)
    state = _order(settings, RollBack(store.configured))
    name = state["serving"]["name"]
    print(json.dumps({"model": name}) if as_json else f"{name} serves")


@app.command()
def shadow(
    folder: Annotated[str, typer.Argument(metavar="DIR|off", help="A model's folder; `off` ends the shadow.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let a second model classify everything, and record its answers. It decides nothing, and costs CPU."""
    from router.node.orders import SetShadow

    settings, store = _store(config)
    if folder != "off":
        must_be_folder("model", Path(folder))
    name, old = None if folder == "off" else _keep(store, Path(folder)), store.state().shadow
    _order(settings, SetShadow(name, store.configured))
    ended = f"{old.name} shadows no longer" if old else "there was no shadow"
    print(json.dumps({"shadow": name}) if as_json else f"{name} shadows" if name else ended)


@app.command()
def keep(folder: Folder, config: Config = None, as_json: Json = False) -> None:
    """Copy a model into this node's folder, so that it can serve or shadow here when another node's order says so."""
    settings, store = _store(config)
    must_be_folder("model", folder)
    name = _keep(store, folder)
    print(json.dumps({"model": name, "folder": str(settings.spool.path)}) if as_json else f"{name} is kept")


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Show which model serves, which served before, and which is the shadow; with digest, time, and who ordered it."""
    from router.node.client import NoNodeError, state

    settings, store = _store(config)
    try:
        found: dict[str, Any] = {"running": True} | state(settings.spool.path, "models")
    except NoNodeError:
        found = {"running": False} | store.state().as_dict()
    found["digests"] = {
        role: _digest(settings, store, chosen["name"] if chosen else None)
        for role in ("serving", "previous", "shadow")
        if (chosen := found[role]) or role == "serving"
    }
    if as_json:
        print(json.dumps(found))
        return
    for role, digest in found["digests"].items():
        chosen = found[role]
        since = "from routing.yaml"
        if chosen and chosen["since"]:
            since = f"since {local_time(chosen['since'])} by {chosen['who']}"
        print(f"{role:9s} {chosen['name'] if chosen else digest[:16]:25s}  {since}  ({digest or 'no card'})")
    if not found["running"]:
        print("no node is running")
        return
    if found["shadow"] and not found["shadow_ready"]:
        print("the shadow has not answered yet")
    for one in found.get("behind", ()):
        print(printable(f"not in force at {one['node']}: {one['problem']}"))
    if found["busy"]:
        print("an order is being carried out")
    if found["error"]:
        print(f"the last order failed: {found['error']}")


@app.command("compare")
def compare_(config: Config = None, as_json: Json = False) -> None:
    """Count by class how often the shadow agrees with the model that decided, for each pair of models."""
    from router.spool import SHADOW_PREDICTION
    from router.training.candidate import count_shadow

    with closing(spool_of(config)) as spool:
        pairs = count_shadow(one.detail for one in pages(spool.views.events, kind=SHADOW_PREDICTION))
    for pair in pairs:
        if as_json:
            print(json.dumps(pair))
        else:
            _show_pair(pair)


# -- inside ------------------------------------------------------------------------------------------------------------


def _store(config: Path | None) -> tuple[Settings, ModelStore]:
    from router.node.model_store import opened

    settings = settings_of(config)
    return settings, opened(settings)


def _keep(store: ModelStore, folder: Path) -> str:
    """Copy a sound model into the store. The copy is what is tested, and what serves."""
    from router.model import reference, weights
    from router.model.card import WEIGHTS, Card

    card, network = Card.read(folder), weights.read(folder / WEIGHTS)
    card.must_fit(network)
    # An earlier version wrote no reference answers: without them each start of the node would compute them anew.
    found = reference.read(folder, card.digest, card.size, len(network["head.bias"]))
    content = (found or reference.computed(network, card.size)).content(card.digest, card.size)
    return store.keep(folder, {reference.FILE: content})


def _serving(store: ModelStore, settings: Settings) -> str:
    from router.model.files import shipped_model

    serving = store.state().serving
    return serving.name if serving else _keep(store, settings.model.path or shipped_model())


def _digest(settings: Settings, store: ModelStore, name: str | None) -> str:
    """Of the weights, as the card says; empty where it cannot be read."""
    folder = store.folder / name if name else settings.model.path
    if folder is None:
        from router.model.files import shipped_model

        folder = shipped_model()
    try:
        return str(json.loads((folder / "card.json").read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def _items(pinned: Path | None, root: Path | None, trained: Mapping[str, Any]) -> Iterator[tuple[list[Item], int]]:
    """The images to test on, those of the manifest or the demonstration's phantoms; and how many were left out."""
    from router.training.candidate import pinned_images
    from router.training.data import Item, read_manifest

    if pinned is not None:
        yield pinned_images(read_manifest(pinned, root or pinned.parent, any_split=True), trained)
        return
    from router.demo.phantoms import PARTS, radiograph
    from router.pixels.wrap import wrap_image

    with tempfile.TemporaryDirectory(prefix="dicom-router-") as scratch:
        yield (
            [
                Item(wrap_image(radiograph(part), Path(scratch, f"{n}.dcm")), label, patient=part)
                for n, (part, (_, label)) in enumerate(PARTS.items())
            ],
            0,
        )


def _order(settings: Settings, order: ModelOrder) -> dict[str, Any]:
    """Have an order carried out by the running node, and wait for its end; or write it down where none is running."""
    from router.node.client import NoNodeError, give, state
    from router.node.orders import OrderError
    from router.node.serving_models import store_of, write_down
    from router.spool import open_spool

    folder = settings.spool.path
    try:
        give(folder, order, who())
    except OrderError as error:
        fail(f"nothing has changed: {error}", error.exit_code)
    except NoNodeError:
        spool = open_spool(settings.spool)
        try:
            store = store_of(spool, settings.model.path)
            plan = store.plan(order, who())
            if plan != store.state():
                store.write(plan, who())
                write_down(spool, plan, order, who())
        finally:
            spool.close()
        return plan.as_dict()
    while (answer := state(folder, "models"))["busy"]:
        time.sleep(0.2)
    if answer["error"]:
        fail(f"nothing has changed: {answer['error']}")
    if behind := _behind(folder):
        names = "; ".join(printable(f"{one['node']}: {one['problem']}") for one in behind)
        fail(f"chosen, but not followed by {names}", not_followed=behind)
    return answer


def _behind(folder: Path) -> list[dict[str, str]]:
    """The nodes that have not followed a choice in the time that models need to start, and why."""
    from router.node.client import state

    until = time.monotonic() + FOLLOW_WITHIN
    while (behind := state(folder, "models").get("behind", [])) and time.monotonic() < until:
        time.sleep(0.2)
    return list(behind)


def _show_test(result: dict[str, Any], *, phantoms: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['n']} {'phantoms (a smoke test only)' if phantoms else 'pinned images'}")
    for column in ("class", "n", "reach their destination: old", "new", "wrongly reach its AI node: old", "new"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in result["classes"].items():
        table.add_row(name, str(row["n"]), *map(str, (*row["reached"], *row["wrongly"])))
    table.add_row("macro F1", "", *(f"{value:.4f}" for value in result["f1"]), "", "")
    console = Console()
    console.print(table)
    if result["left_out"]:
        console.print(f"{result['left_out']} images of the splits train and val were left out: models learn from them")
    if result["skipped"]:
        console.print(f"{result['skipped']} unreadable images were skipped")
    for reason in result["refused"]:
        console.print(f"refused: {reason}", highlight=False, markup=False)


def _show_pair(pair: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = sorted({name for row in pair["classes"].values() for name in row})
    table = Table(title="rows: served, columns: shadow")
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left")
    for served, row in sorted(pair["classes"].items()):
        table.add_row(served, *(str(row.get(name, 0)) for name in columns))
    console = Console()
    console.print(f"served {pair['served']}, shadow {pair['shadow']}", highlight=False)
    console.print(table)
    console.print(
        f"{pair['agreed']} of {pair['n']} agree in class; {pair['elsewhere']} would have gone to other destinations",
        highlight=False,
    )
