"""`dicom-router devices`: what devices write into the header against what their pictures show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.csv_out import write_csv
from router.cli.options import Config, Json, fail, local_time, printable, settings_of, spool_of

if TYPE_CHECKING:
    from router.commands.devices import Device, Group
    from router.spool.activity import Sender

WHOLE = "all stations"
COLUMNS = (
    "calling_ae", "station", "last_at", "silent", "looked_at", "pictures", "classes", "agrees", "missing",
    "contradicts", "not_known", "inverted", "doubt", "without_picture", "drift",
)  # fmt: skip


def command(
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows to this CSV file.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show, by calling AE title and station, where the header's body part and the pixels go apart.

    Agrees, missing and contradicts: of the pictures with a certain class. It looks at the latest images of each sender.
    Drift: doubt or contradiction of the last day differs from the week before by more than chance.
    """
    from router.commands.devices import MOST_SENDERS, devices_of
    from router.commands.status import HOUR, silent_callers
    from router.config.header_words import shipped_vocabulary

    settings = settings_of(config)
    with closing(spool_of(config)) as spool:
        lately = spool.views.activity(HOUR)
        senders = lately.senders[:MOST_SENDERS]
        taken = spool.overview.taken([one.calling_ae for one in senders])
    found = devices_of(taken, settings.header_words or shipped_vocabulary())
    silent = silent_callers(settings, lately)
    rows = [row for one in senders for row in _rows(one, found.get(one.calling_ae), one.calling_ae in silent)]
    if csv_file is not None:
        write_csv(csv_file, COLUMNS, map(_flat, rows), as_json=as_json)
        return
    if not rows:
        fail("nobody has sent anything yet")
    for row in rows:
        print(json.dumps(row) if as_json else printable(_line(row)))


def _rows(sender: Sender, device: Device | None, silent: bool) -> Iterator[dict[str, Any]]:
    """The whole sender, then its stations; `station` is None for the whole."""
    about = {"calling_ae": sender.calling_ae, "station": None, "last_at": sender.last_at, "silent": silent}
    if device is None:
        yield about | dict.fromkeys(COLUMNS[4:])
        return
    yield about | _figures(device.whole)
    for one in device.stations:
        yield about | {"station": one.station} | _figures(one)


def _figures(group: Group) -> dict[str, Any]:
    shares = group.shares
    figures = {name: getattr(shares, name) for name in COLUMNS[4:-1]}
    drifts = [{"what": one.what, "before": one.before, "now": one.now} for one in group.drifts]
    return figures | {"drift": drifts}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with texts in place of lists."""
    classes = " ".join(f"{name}={n}" for name, n in _frequent_first(row["classes"] or {}))
    station = WHOLE if row["station"] is None else row["station"]
    more = {"last_at": local_time(row["last_at"]), "station": station, "classes": classes, "drift": _drift(row)}
    return row | more


def _frequent_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _drift(row: dict[str, Any]) -> str:
    return ", ".join(f"{one['what']} {one['before']:.0%} to {one['now']:.0%}" for one in row["drift"] or ())


def _line(row: dict[str, Any]) -> str:
    if row["station"] is None:
        name = f"{row['calling_ae']}{' (silent)' if row['silent'] else ''}, last seen {local_time(row['last_at'])}"
    else:
        name = f"    {row['station'] or 'no station named'}"
    if row["looked_at"] is None:
        return f"{name}: not looked at yet"
    compared = row["agrees"] + row["missing"] + row["contradicts"]
    parts = [
        f"{row['looked_at']} images",
        *(f"{word} {_share(row[word], of)}" for word, of in (
            ("agrees", compared), ("missing", compared), ("contradicts", compared), ("inverted", row["pictures"]),
            ("doubt", row["pictures"]))),
        *([f"{row['without_picture']} without a picture"] if row["without_picture"] else []),
        *([f"DRIFT: {_drift(row)}"] if row["drift"] else []),
    ]  # fmt: skip
    return f"{name}: {', '.join(parts)}"


def _share(n: int, of: int) -> str:
    return f"{n / of:.0%}" if of else "-"
