"""The section `notify` of routing.yaml. An address may hold a secret, so no message repeats it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from zoneinfo import ZoneInfo

from router.config import values
from router.config.document import Node, Scalar, Sequence, Table
from router.config.fields import Context, Parser, Skip, as_table, attempt_all, existing_file, fields, scalar, several
from router.config.settings import CONDITIONS, NotifySettings, Quiet
from router.errors import to_install

LARGEST_ADDRESS = 4096
"""Bytes."""
WEBHOOK = re.compile(r"https?://[^\s/?#]+([/?#]\S*)?")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]{1,30})://\S+")
EXAMPLE = "write https://… for a webhook, or an address of Apprise such as mailto://…, msteams://… or slack://…"


def notify_section(where: str, node: Node, context: Context) -> NotifySettings:
    return NotifySettings(**fields(where, node, NOTIFY, context))


def address(value: str) -> str:
    """A webhook, or an address of the library Apprise."""
    text = value.strip()
    if WEBHOOK.fullmatch(text):
        return text
    if not SCHEME.fullmatch(text) or text.startswith(("http:", "https:")):
        raise values.WrongError("is not an address", EXAMPLE)
    if find_spec("apprise") is None:
        raise values.WrongError("is not a webhook, and needs the library Apprise", to_install("notify"))
    return text


def _one_address(where: str, node: Node, context: Context) -> str:
    if not isinstance(node, Table):
        written: str = scalar(address)(where, node, context)
        return written
    found = fields(where, node, {"file": existing_file}, context)
    if "file" not in found:
        if not as_table(where, node, context).entries:
            context.wrong(node, f"{where} names no file", "write {file: webhook.txt}, or the address itself")
        raise Skip
    try:
        with found["file"].open(encoding="utf-8") as file:
            return address(file.read(LARGEST_ADDRESS))
    except (OSError, UnicodeDecodeError):
        context.wrong(node, f"{where}: {found['file']} cannot be read", "the node's user must be able to read it")
    except values.WrongError as error:
        context.wrong(node, f"{where}: what {found['file']} holds {error.message}", error.fix)
    raise Skip


def _addresses(where: str, node: Node, context: Context) -> tuple[str, ...]:
    items = node.items if isinstance(node, Sequence) else (node,)
    return tuple(dict.fromkeys(attempt_all(lambda item: _one_address(where, item, context), items)))


def _or_off(parse: Callable[[str], Any]) -> Parser:
    return scalar(lambda text: None if text.strip() == "off" else parse(text))


def share(value: str) -> float:
    """A share from `20%`."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) *%", value.strip())
    if match is None or not 0 < float(match[1]) < 100:
        raise values.WrongError(f"'{value}' is not a share", "write for instance 20%")
    return float(match[1]) / 100


def minute_of_day(value: str) -> int:
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value.strip())
    if match is None:
        raise values.WrongError(f"'{value}' is not a time of day", 'write for instance "22:00"')
    return 60 * int(match[1]) + int(match[2])


def zone(value: str) -> str:
    try:
        return ZoneInfo(value.strip()).key
    except (ValueError, OSError, LookupError):
        raise values.WrongError(f"'{value}' is not a time zone", "write for instance Europe/Berlin") from None


def _quiet(where: str, node: Node, context: Context) -> Quiet:
    known = {
        "from": scalar(minute_of_day), "until": scalar(minute_of_day), "zone": scalar(zone),
        "but": several(values.one_of(*CONDITIONS)),
    }  # fmt: skip
    found = fields(where, node, known, context)
    written = as_table(where, node, context).entries
    if missing := [name for name in ("from", "until") if name not in written]:
        context.wrong(node, f"{where} has no {missing[0]}", 'write for instance {from: "22:00", until: "06:00"}')
    if "from" not in found or "until" not in found:
        raise Skip
    return Quiet(found["from"], found["until"], found.get("zone"), found.get("but", ()))


def _silent(where: str, node: Node, context: Context) -> dict[str, float]:
    table, found = as_table(where, node, context), {}
    for name, below in table.entries.items():
        try:
            title = values.ae_title(name)
        except values.WrongError as error:
            context.wrong(Scalar("", table.lines[name]), f"{where}: {error.message}", error.fix)
            continue
        found[title] = scalar(values.duration)(f"{where}.{name}", below, context)
    return found


NOTIFY: dict[str, Parser] = {
    "to": _addresses,
    "remind": scalar(values.duration),
    "quiet": _quiet,
    "buried": _or_off(values.whole(1, 10**9)),
    "result_missing": _or_off(values.whole(1, 10**9)),
    "circuit": _or_off(values.duration),
    "silent": _silent,
    "disk": _or_off(values.duration),
    "room": _or_off(values.size),
    "certificate": _or_off(values.duration),
    "inference": _or_off(values.duration),
    "disagreement": _or_off(share),
}
