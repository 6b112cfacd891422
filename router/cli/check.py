"""`dicom-router check`: will it run? Configuration, model, spool, destinations; nothing is changed, nothing is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Json

if TYPE_CHECKING:
    from router.config import Settings


def command(
    config: Annotated[Path, typer.Argument(help="The routing.yaml.")] = Path("routing.yaml"),
    as_json: Json = False,
    offline: Annotated[bool, typer.Option(help="Leave the destinations alone.")] = False,
) -> None:
    """Check everything that `serve` needs. Exit code 2: a mistake in the file; 1: something else is not ready."""
    from router.config import load

    settings = load(config)
    results = [("configuration", "ok", f"{len(settings.rules.rules)} rules, {len(settings.destinations)} destinations")]
    results += [("configuration", "warning", warning) for warning in settings.warnings]
    results += [*_model(settings), *_spool(settings), *([] if offline else _destinations(settings))]
    for what, state, text in results:
        if as_json:
            print(json.dumps({"check": what, "state": state, "text": text}))
        else:
            print(f"{state:8s} {what}: {text}")
    if any(state == "failed" for _, state, _ in results):
        raise typer.Exit(1)


def _model(settings: Settings) -> Iterator[tuple[str, str, str]]:
    from router.model.card import Card, CardError
    from router.model.load import load, shipped_model
    from router.model.store import ModelStore, StoreError

    chosen, store = settings.model, ModelStore(settings.spool.path, settings.model.path)
    try:
        state, path = store.state(), store.serving() or shipped_model()
        model = load(path, device=chosen.device, engine=chosen.engine, threads=chosen.threads)
    except (CardError, StoreError) as error:
        yield "model", "failed", str(error)
        return
    name = "promoted" if state.serving else path.name
    yield "model", "ok", f"{name} {model.card.digest[:12]}, {model.engine} ({model.why}), warm in {model.warm_s:.1f} s"
    if state.shadow:
        try:
            yield "shadow model", "ok", Card.read(store.folder / state.shadow.name).digest[:12]
        except CardError as error:
            yield "shadow model", "failed", str(error)


def _spool(settings: Settings) -> Iterator[tuple[str, str, str]]:
    from router.spool.inspect import inspect

    for state, text in inspect(settings.spool):
        yield "spool", state, text
    if settings.spool.database != "sqlite":
        from router.spool.postgresql import examine

        for state, text in examine(settings.spool.database):
            yield "spool's database", state, text


def _destinations(settings: Settings) -> Iterator[tuple[str, str, str]]:
    from concurrent.futures import ThreadPoolExecutor

    from router.association.requestor import AssociationLostError, ConnectError, connect

    def echo(name: str) -> tuple[str, str, str]:
        destination = settings.destinations[name]
        about = f"destination {name}"
        if not destination.enabled:
            return about, "ok", "disabled"
        try:
            association = connect(destination, settings.calling_ae(destination), (), echo=True)
            status = association.echo()
            association.release()
        except ConnectError as error:
            return about, "failed", f"{destination.host}:{destination.port}: {error.reason}"
        except AssociationLostError as error:
            return about, "failed", f"{destination.host}:{destination.port}: no C-ECHO ({error})"
        if status:
            return about, "failed", f"{destination.host}:{destination.port}: C-ECHO answered 0x{status:04X}"
        return about, "ok", f"{destination.host}:{destination.port} answers"

    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(echo, settings.destinations)
