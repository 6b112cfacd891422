"""`dicom-router nodes`: which nodes work on this spool, what each does, and how it is."""

from __future__ import annotations

import json
from dataclasses import asdict

from router.cli.options import Config, Json, local_time, printable, settings_of


def command(config: Config = None, as_json: Json = False) -> None:
    """List the nodes on this spool: roles, version, settings in force, last seen, and what is wrong with them.

    A node that was not seen for 30 seconds is gone. One that ended by itself is not listed.
    """
    from router.commands.nodes import nodes
    from router.commands.status import span

    rows = nodes(settings_of(config))
    if as_json:
        for one in rows:
            print(json.dumps(asdict(one) | {"is_gone": one.is_gone}))
        return
    if not rows:
        print("no node")
        return
    print(_line("name", "roles", "state", "version", "settings", "model", "since", "seen"))
    for one in rows:
        about = one.state.about
        print(printable(_line(
            one.name, ",".join(one.roles), "gone" if one.is_gone else "runs", one.version,
            str(one.state.settings or "-"),
            str(about.get("model", ""))[:12] or "-", local_time(one.began_at), f"{span(one.ago)} ago",
        )))  # fmt: skip
        listens = ", ".join(map(str, about.get("listens", ())))
        differs = "; its file differs" if about.get("file_differs") else ""
        print(printable(f"    on {one.host}, listens on {listens or '-'}{differs}"))
        if one.state.problem:
            print(printable(f"    ! {one.state.problem}"))


def _line(name: str, roles: str, state: str, version: str, settings: str, model: str, since: str, seen: str) -> str:
    return f"{name:24s} {roles:34s} {state:6s} {version:9s} {settings:9s} {model:13s} {since:26s} {seen}"
