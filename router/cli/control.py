"""`dicom-router reload` and `wipe`; and how a command changes something: through the node that runs, or without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from router.cli.options import Config, Json, who

if TYPE_CHECKING:
    from router.config import Settings


def reload(config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Make the running node read its routing.yaml again. A file with a mistake changes nothing (exit code 2)."""
    from router.config import load
    from router.control import ask

    answer = _done(ask(load(config).spool.path, {"do": "reload", "who": who()}))
    waiting = ", ".join(answer["needs_restart"])
    said = "reloaded" if answer["changed"] else "reloaded: nothing has changed"
    print(json.dumps(answer) if as_json else f"{said}; needs a restart: {waiting}" if waiting else said)


def wipe(config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Remove every blob that is no longer needed, before its time; says what is left and why."""
    from router.config import load
    from router.spool import read_spool

    settings = load(config)
    removed = change(settings, "wipe")["changed"]
    counts = read_spool(settings.spool).counts()
    left = {"removed": removed, "undecided": counts.undecided, "open": sum(counts.open.values()),
            "buried": sum(counts.buried.values())}  # fmt: skip
    if as_json:
        print(json.dumps(left))
    else:
        print(f"{left['removed']} blobs removed; left: {left['undecided']} instances without a decision, "
              f"{left['open']} open and {left['buried']} buried deliveries with their blobs")  # fmt: skip


def change(settings: Settings, do: str, **about: Any) -> dict[str, Any]:
    """Have a change made by the node on this spool, which alone writes; or make it here when none is running."""
    from router.control import NoNodeError, ask, carry_out
    from router.spool import open_spool

    request = {"do": do, "who": who(), **about}
    try:
        return _done(ask(settings.spool.path, request))
    except NoNodeError:
        spool = open_spool(settings.spool)
    try:
        return _done(carry_out(spool, request, settings.destinations))
    finally:
        spool.close()


def _done(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer; or the end of the command, where it is an error."""
    if "error" in answer:
        typer.echo(answer["error"], err=True)
        raise typer.Exit(answer.get("exit_code", 1))
    return answer
