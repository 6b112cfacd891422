"""`dicom-router check`: will it run? File, model, spool, ports, certificates, destinations; changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Config, ConfigArgument, Json, Role, config_file, local_time, take_roles

if TYPE_CHECKING:
    from router.config import Settings

DAY = 86400.0
SOON = 30 * DAY
"""Seconds. A certificate that expires within this time is a warning."""


def command(
    file: ConfigArgument = None,
    config: Config = None,
    as_json: Json = False,
    offline: Annotated[bool, typer.Option(help="Do not connect to the destinations.")] = False,
    role: Role = None,
) -> None:
    """Check everything that `serve` needs. Exit code 2: the file has a mistake; 1: something else is not ready."""
    from router.config import load

    take_roles(role)
    settings = load(config_file(file, config))
    results = [("configuration", "ok", f"{len(settings.rules.rules)} rules, {len(settings.destinations)} destinations")]
    results += [("configuration", "warning", warning) for warning in settings.warnings]
    results += [("configuration", "failed", str(one)) for one in settings.unusable]
    results += _model(settings) if "classify" in settings.node.roles else []
    results += [*_spool(settings), *_shared(settings), *_ports(settings), *_certificates(settings), *_notify(settings)]
    results += _destinations(settings) if "forward" in settings.node.roles and not offline else []
    for what, state, text in results:
        if as_json:
            print(json.dumps({"check": what, "state": state, "text": text}))
        else:
            print(f"{state:8s} {what}: {text}")
    failed = [f"{what}: {text}" for what, state, text in results if state == "failed"]
    if failed and as_json:
        print(json.dumps({"error": "; ".join(failed), "exit_code": 1}))
    if failed:
        raise typer.Exit(1)


def _model(settings: Settings) -> Iterator[tuple[str, str, str]]:
    from router.model.card import Card, CardError
    from router.model.load import load, shipped_model
    from router.node.model_store import StoreError, opened
    from router.spool import SpoolError

    chosen = settings.model
    try:
        store = opened(settings)
        state, path = store.state(), store.serving() or shipped_model()
        model = load(path, device=chosen.device, engine=chosen.engine, threads=chosen.threads)
    except (CardError, StoreError, SpoolError) as error:
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
    from router.commands.check_folder import inspect

    for state, text in inspect(settings.spool):
        yield "spool", state, text
    if settings.spool.database != "sqlite":
        from router.spool.postgresql import examine

        for state, text in examine(settings.spool.database):
            yield "spool's database", state, text
    if settings.spool.blobs is not None:
        from router.spool.probe import examine as examine_store

        for state, text in examine_store(settings.spool.blobs):
            yield "spool's blobs", state, text


def _shared(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Whether this program suits the database, and can have the settings in force that all of its nodes have."""
    if settings.spool.database == "sqlite":
        return
    from contextlib import closing, suppress

    from router.config import ConfigError
    from router.node.shared_settings import differs, following
    from router.spool import SpoolError, read_spool
    from router.spool.engine import must_suit
    from router.spool.errors import ForeignDatabaseError
    from router.spool.schema_version import NewerError

    with suppress(SpoolError), closing(read_spool(settings.spool)) as spool:  # what the database lacks is said above
        try:
            spool.database.ask(must_suit)
        except (ForeignDatabaseError, NewerError) as error:
            yield "spool's database", "failed", str(error)
            return
        newest = spool.shared.settings()
        if newest is None:
            return
        try:
            found = following(settings, newest)
        except ConfigError as error:
            for problem in error.problems:
                yield "settings in force", "failed", str(problem)
            return
        if found.file_differs:
            yield "settings in force", "warning", differs(settings, newest)
        else:
            yield "settings in force", "ok", f"version {newest.version}, the same as this file"


def _ports(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Whether the node could listen. Ports held by the running node of this spool are fine."""
    from router.listening import AddressError, bind, listeners

    held: list[list[object]] | None = None
    for setting, address, port in listeners(settings):
        try:
            bind(address, port, setting).close()
        except AddressError as error:
            if error.in_use and held is None:
                held = _held_by_the_node(settings)
            if error.in_use and [setting, address, port] in (held or []):
                yield setting, "ok", f"{address}:{port} is held by the running node of this spool"
            else:
                yield setting, "failed", str(error)
        else:
            yield setting, "ok", f"{address}:{port} is free"


def _held_by_the_node(settings: Settings) -> list[list[object]]:
    from router.errors import RouterError
    from router.node.client import state

    try:
        return list(state(settings.spool.path, "status").get("listens", []))
    except (RouterError, OSError):
        return []


def _certificates(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Which certificates expire soon."""
    from router.association.expiry import expiries

    now = time.time()
    for setting, times in expiries(settings).items():
        if not times:
            yield setting, "warning", "its expiry date cannot be read: is it a certificate in PEM?"
            continue
        soonest, of = local_time(times[0]), f" (the first of {len(times)} in the file)" if len(times) > 1 else ""
        if times[0] > now + SOON:
            yield setting, "ok", f"expires {soonest}{of}"
        elif times[0] > now:
            yield setting, "warning", f"expires {soonest}{of}, in {(times[0] - now) / DAY:.0f} days: renew it"
        else:
            # One of several authorities may have expired as planned.
            state = "warning" if setting.endswith(".ca") and times[-1] > now else "failed"
            yield setting, state, f"expired {soonest}{of}: renew it"


def _notify(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Whether something could be sent to each address; nothing is sent."""
    from router.notify import masked, why_not

    for address in settings.notify.to:
        reason = why_not(address)
        yield "notify", "failed" if reason else "ok", f"{masked(address)} {reason or 'can be told: notify test'}"


def _destinations(settings: Settings) -> Iterator[tuple[str, str, str]]:
    from concurrent.futures import ThreadPoolExecutor

    from router.commands.echo import echo

    def asked(name: str) -> tuple[str, str, str]:
        destination = settings.destinations[name]
        about = f"destination {name}"
        if not destination.enabled:
            return about, "ok", "disabled"
        place, trouble = destination.place, echo(settings, destination)
        if trouble:
            return about, "failed", f"{place}: {trouble}"
        return about, "ok", f"{place} answers"

    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(asked, settings.destinations)
