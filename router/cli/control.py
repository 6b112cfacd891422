"""`dicom-router reload` and `wipe`; and how a command changes something: through the node that runs, or without one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from router.cli.options import (
    Config,
    Json,
    Yes,
    confirm,
    fail,
    local_time,
    settings_of,
    who,
)

if TYPE_CHECKING:
    from router.config import Settings


def reload(config: Config = None, as_json: Json = False) -> None:
    """Make the running node read its routing.yaml again. A file with a mistake changes nothing (exit code 2)."""
    from router.node.control import ask

    settings = settings_of(config)
    answer = _done(ask(settings.spool.path, {"do": "reload", "who": who()}))
    if as_json:
        print(json.dumps(answer))
        return
    said = "reloaded" if answer["changed"] else "reloaded: nothing has changed"
    waiting = ", ".join(answer["needs_restart"])
    print(f"{said}; needs a restart: {waiting}" if waiting else said)
    if answer["changed"]:
        typer.echo(f"changed: {', '.join(answer['changed'])}", err=True)


def wipe(config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove every blob that is no longer needed, before its time. Asks first, and says what is left and why.

    A removed image can no longer be decided again, sent again, or viewed.
    """
    from router.config.settings import GB
    from router.spool import read_spool

    settings = settings_of(config)
    spool = read_spool(settings.spool)
    finished = spool.views.finished()
    if finished.n:
        line = f"{finished.n} blobs of finished instances, {finished.bytes / GB:.2f} GB, the oldest finished "
        confirm("remove them for good", [line + local_time(finished.oldest)], yes=yes, as_json=as_json)
    removed = change(settings, "wipe")["changed"]
    counts = spool.views.counts()
    left = {"removed": removed, "undecided": counts.undecided, "open": sum(counts.open.values()),
            "buried": sum(counts.buried.values())}  # fmt: skip
    if as_json:
        print(json.dumps(left))
    else:
        print(f"{left['removed']} blobs removed; left: {left['undecided']} instances without a decision, "
              f"{left['open']} open and {left['buried']} buried deliveries with their blobs")  # fmt: skip


def change(settings: Settings, do: str, **about: Any) -> dict[str, Any]:
    """Have a change made by the node on this spool, which alone writes; or make it here when none is running."""
    from router.node.control import NoNodeError, ask, carry_out
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
        more = {name: value for name, value in answer.items() if name not in ("error", "exit_code")}
        fail(str(answer["error"]), int(answer.get("exit_code", 1)), **more)
    return answer
