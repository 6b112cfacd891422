"""routing.yaml to Settings: read, override, parse each section, then check what spans sections."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from router.config import values
from router.config.document import Node, Scalar, Sequence, Table, as_written, parse, read
from router.config.fields import Context, Skip, unknown
from router.config.header_words import HEADER_WORDS, vocabulary
from router.config.notify import notify_section
from router.config.overrides import overridden
from router.config.problems import Problems
from router.config.results import check_results, results_from, returned, unseen, unwelcome
from router.config.rules import otherwise, rules
from router.config.sections import destination, model_section, node_section, spool_section, web_section
from router.config.settings import (
    ROLES,
    DestinationSettings,
    NodeSettings,
    ResultsFrom,
    Settings,
    SpoolSettings,
    WebSettings,
)
from router.config.shared import combined
from router.decide import Rule, RuleTable

_SECTIONS = {
    "node": node_section, "spool": spool_section, "model": model_section, "web": web_section, "notify": notify_section,
}  # fmt: skip
_KEYS = (*_SECTIONS, "destinations", HEADER_WORDS, "rules", "otherwise")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


@dataclass(frozen=True, slots=True)
class Instead:
    """What takes the place of the shared part of a file (`shared`), under the name by which its mistakes are told."""

    name: str
    text: str


def load(
    path: Path, environ: Mapping[str, str] = os.environ, *, text: str | None = None, instead: Instead | None = None
) -> Settings:
    """Read, check and freeze a routing.yaml. Raises ConfigError with every mistake that was found.

    `text`: what the file said earlier, to be taken again. `instead`: the shared part, if it is not the file's own.
    """
    problems = Problems(instead.name if instead else str(path))
    text = read(path, problems) if text is None else text
    root = parse(text, environ, problems)
    if instead is not None:
        root = combined(root, parse(instead.text, environ, problems))
    root = overridden(root, environ, problems)
    context = Context(problems, path.absolute().parent)
    context = replace(context, vocabulary=_attempt(vocabulary, HEADER_WORDS, root, context))
    for key in root.entries:
        if key not in _KEYS:
            unknown(key, root, f"unknown key '{key}'", dict.fromkeys(_KEYS), context)
    found = {name: _attempt(parse, name, root, context) for name, parse in _SECTIONS.items()}
    destinations, enabled = _destinations(root, context)
    table = _table(root, enabled, replace(context, destinations=enabled.keys()))
    if found["node"] and found["web"]:
        _check_ports(root, found["node"], found["web"], context)
    if found["node"] and found["spool"]:
        _check_roles(root, found["node"], found["spool"], context)
    check_results(root, destinations, found["spool"], context)
    problems.check()
    if table is None:
        raise AssertionError("a rule table is only absent together with a problem")
    givers = results_from(destinations, table)
    warnings = problems.warned(_warnings(root, found["node"], destinations, table, givers))
    said = tuple(f"{problems.file}:{line}: {about}" for line, about in warnings)
    return Settings(
        path.absolute(), **found, destinations=destinations, rules=table, warnings=said,
        header_words=context.vocabulary, text=text, unusable=tuple(problems.unusable), results_from=givers,
    )  # fmt: skip


def _attempt(parse: Any, name: str, root: Table, context: Context) -> Any:
    try:
        return parse(name, root.entries.get(name, Scalar("", root.line, null=True)), context)
    except Skip:
        return None


def _destinations(root: Table, context: Context) -> tuple[dict[str, DestinationSettings], dict[str, bool]]:
    """The valid ones, and all that are named, so that a rule is not blamed for its destination's mistake."""
    node = root.entries.get("destinations")
    if not isinstance(node, Table) or not node.entries:
        fix = "add destinations: with at least one {ae_title: …, host: …, port: …}"
        context.problems.add(node.line if node else root.line, "there are no destinations", fix)
        return {}, {}
    found: dict[str, DestinationSettings] = {}
    for name, below in node.entries.items():
        try:
            values.destination_name(name)
        except values.WrongError as error:
            context.problems.add(node.lines[name], error.message, error.fix)
        try:
            found[name] = destination(name, below, context)
        except Skip:
            continue
    return found, {name: found[name].enabled if name in found else True for name in node.entries}


def _table(root: Table, enabled: Mapping[str, bool], context: Context) -> RuleTable | None:
    complete = True
    for name, fix in (
        ("rules", "add rules: and a list, or rules: [] to send everything to otherwise"),
        ("otherwise", "add otherwise: {send: catch-all}"),
    ):
        if name not in root.entries:
            context.problems.add(root.line, f"{name} is missing", fix)
            complete = False
    try:
        found: tuple[Rule, ...] = rules(root.entries["rules"], enabled, context) if "rules" in root.entries else ()
        last = otherwise(root.entries["otherwise"], enabled, context) if "otherwise" in root.entries else None
    except Skip:
        return None
    if not complete or last is None:
        return None
    said = {
        name: as_written(root.entries[name]) for name in (HEADER_WORDS, "rules", "otherwise") if name in root.entries
    }
    text = json.dumps(said)
    return RuleTable(found, last, xxh3_128_hexdigest(text), text)


def _check_ports(root: Table, node: NodeSettings, web: WebSettings, context: Context) -> None:
    """Two listeners on one port: the second would only fail when the node starts."""
    listeners = [("web.port", web.address, web.port)]
    if "receive" in node.roles:
        listeners.insert(0, ("node.port", node.address, node.port))
        if node.tls is not None:
            listeners.insert(1, ("node.tls.port", node.address, node.tls.port))
    for index, (name, address, port) in enumerate(listeners):
        for other, elsewhere, taken in listeners[:index]:
            same = address == elsewhere or address in _EVERYWHERE or elsewhere in _EVERYWHERE
            if port == taken and same:
                message = f"{name} and {other} are both {port}"
                context.wrong(_place(root, name) or _place(root, other) or root, message, "choose another port")


def _check_roles(root: Table, node: NodeSettings, spool: SpoolSettings, context: Context) -> None:
    """SQLite has one node, so what this one leaves out nobody would do."""
    if node.roles != ROLES and spool.database == "sqlite":
        message = f"node.roles is {','.join(node.roles)}, but with SQLite one node does everything"
        fix = "give spool.database a PostgreSQL URL, or leave out node.roles and --role"
        context.wrong(_place(root, "node.roles") or root, message, fix)


def _place(root: Table, name: str) -> Node | None:
    node: Node | None = root
    for step in name.split("."):
        node = node.entries.get(step) if isinstance(node, Table) else None
    return node


def _warnings(
    root: Table, node: NodeSettings, destinations: Mapping[str, DestinationSettings], table: RuleTable,
    givers: Mapping[str, ResultsFrom],
) -> list[tuple[int, str]]:  # fmt: skip
    """(line, text) of what is allowed and probably not meant."""
    found: list[tuple[int, str]] = []
    place = root.entries.get("node", root).line
    if node.accept is None:
        found.append((place, "node.accept is left out: every caller is accepted"))
    if node.dry_run:
        found.append((place, "node.dry_run is on: everything goes to otherwise"))
    if any(line.commitment for line in node.accept or ()) and not any(to.archive for to in destinations.values()):
        found.append(
            (place, "node.accept lets callers ask for storage commitment, but no destination has archive: true")
        )
    section = root.entries["destinations"]
    lines = section.lines if isinstance(section, Table) else {}
    for name, title in unwelcome(node, givers):
        about = f"results of '{name}' come from {title}, which node.accept refuses: add - {{ae_title: {title}}}"
        found.append((lines[name], about))
    found += [(lines[name], about) for name, about in unseen(destinations, table)]
    written = root.entries["rules"]
    for rule, item in zip(table.rules, written.items if isinstance(written, Sequence) else (), strict=True):
        fix = "leave it out of one_of" if rule.one_of else "name another destination"
        for name in returned(rule):
            about = f"rule '{rule.name}' sends results of '{name}' nowhere, as none goes back to its AI: {fix}"
            found.append((item.line, about))
    used = {name for rule in table.rules for name in rule.send} | set(table.otherwise.send)
    used |= {to.fallback for to in destinations.values() if to.fallback is not None}
    seen: dict[tuple[str, int, str], str] = {}
    for name, to in destinations.items():
        first = seen.setdefault((to.host.lower(), to.port, to.stow or to.ae_title), name)
        if first != name:
            found.append((lines[name], f"destinations '{first}' and '{name}' are the same node"))
        if name not in used:
            found.append((lines[name], f"no rule sends to destination '{name}'"))
        elif not to.enabled:
            found.append((lines[name], f"destination '{name}' is disabled"))
    return found
