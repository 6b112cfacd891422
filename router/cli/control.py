"""`dicom-router reload` and `wipe`; and how a command changes something: through the node that runs, or without one."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer

from router.cli.options import (
    Config,
    Json,
    Yes,
    confirm,
    fail,
    local_time,
    printable,
    settings_of,
    who,
)

if TYPE_CHECKING:
    from router.config import Settings
    from router.node.orders import SpoolOrder


def reload(config: Config = None, as_json: Json = False) -> None:
    """Make the running node read its routing.yaml again. If the file has a mistake, nothing changes (exit code 2)."""
    from router.node.client import give
    from router.node.orders import OrderError, Reload

    settings = settings_of(config)
    try:
        answer = give(settings.spool.path, Reload(), who())
    except OrderError as error:
        fail(str(error), error.exit_code, **error.details())
    behind = answer.get("not_followed") or ()
    if as_json:
        print(json.dumps(answer))
        raise typer.Exit(1 if behind else 0)
    said = "reloaded" if answer["changed"] else "reloaded: nothing has changed"
    waiting = ", ".join(answer["needs_restart"])
    print(f"{said}; needs a restart: {waiting}" if waiting else said)
    if answer["changed"]:
        typer.echo(f"changed: {', '.join(answer['changed'])}", err=True)
    for one in behind:
        typer.echo(printable(f"not followed by {one['node']}: {one['problem']}"), err=True)
    if behind:
        raise typer.Exit(1)


def wipe(config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove every blob that is no longer needed, before its time. It asks first, and says what is left.

    Without its blob an image cannot be decided again, sent again, or viewed.
    """
    from router.config.settings import GB
    from router.node.orders import Wipe
    from router.spool import read_spool

    settings = settings_of(config)
    with closing(read_spool(settings.spool)) as spool:
        finished = spool.views.finished()
        if finished.n:
            line = f"{finished.n} blobs of finished instances, {finished.bytes / GB:.2f} GB, the oldest finished "
            confirm("remove them for good", [line + local_time(finished.oldest)], yes=yes, as_json=as_json)
        removed = change(settings, Wipe())["changed"]
        counts = spool.views.counts()
    left = {"removed": removed, "undecided": counts.undecided, "open": sum(counts.open.values()),
            "buried": sum(counts.buried.values())}  # fmt: skip
    if as_json:
        print(json.dumps(left))
    else:
        print(f"{left['removed']} blobs removed; left: {left['undecided']} instances without a decision, "
              f"{left['open']} open and {left['buried']} buried deliveries with their blobs")  # fmt: skip


def change(settings: Settings, order: SpoolOrder) -> dict[str, Any]:
    """Have a change made by the node on this spool, which alone writes; or make it here when none is running."""
    from router.node.carrying_out import carry_out
    from router.node.client import NoNodeError, give
    from router.node.orders import OrderError
    from router.node.shared_settings import as_everywhere
    from router.spool import open_spool

    try:
        try:
            return give(settings.spool.path, order, who())
        except NoNodeError:
            with closing(open_spool(settings.spool)) as spool:
                return carry_out(order, who(), spool, as_everywhere(settings, spool).destinations)
    except OrderError as error:
        fail(str(error), error.exit_code, **error.details())
