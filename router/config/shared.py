"""Which part of a routing.yaml all nodes on one database share, and which part is of one machine alone.

Of the machine alone: where it listens, what it does, its limits, its database and folder, what its model runs on.
Everything that says where an image goes, and when people are told, is shared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import yaml
from xxhash import xxh3_128_hexdigest

from router.config.document import AS_WRITTEN, Node, Table, as_written, parse
from router.config.problems import Problems

LOCAL_SECTIONS = frozenset({"web", "spool", "model"})
LOCAL_OF_NODE = frozenset({
    "name", "roles", "address", "port", "tls", "associations", "associations_per_peer", "unspoken_connections", "drain",
    "log",
})  # fmt: skip
"""The keys of `node` that are of one machine alone."""


@dataclass(frozen=True, slots=True)
class SharedPart:
    """The shared part of a file as it is written: variables are not replaced, so it has none of their secrets."""

    digest: str
    text: str
    """YAML. It has no comments and no line breaks of the file."""


def shared_part(text: str) -> SharedPart:
    """The shared part of a file that can be read."""
    root = parse(text, AS_WRITTEN, Problems("routing.yaml"))
    written: dict[str, Any] = {}
    for name, node in root.entries.items():
        if name == "node" and isinstance(node, Table):
            own = {key: as_written(below) for key, below in node.entries.items() if key not in LOCAL_OF_NODE}
            written |= {"node": own} if own else {}
        elif name not in LOCAL_SECTIONS and name != "node":
            written[name] = as_written(node)
    digest = xxh3_128_hexdigest(json.dumps(written))
    return SharedPart(digest, yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=120))


def combined(own: Table, shared: Table) -> Table:
    """The local part of one file with the shared part of another."""
    entries = {name: node for name, node in own.entries.items() if name in LOCAL_SECTIONS}
    entries |= {name: node for name, node in shared.entries.items() if name not in LOCAL_SECTIONS and name != "node"}
    nodes = [
        _some(own.entries.get("node"), local=True), _some(shared.entries.get("node"), local=False)
    ]  # fmt: skip
    below = nodes[0] | nodes[1]
    entries["node"] = Table(below, {key: node.line for key, node in below.items()}, own.line)
    return Table(entries, {name: node.line for name, node in entries.items()}, shared.line)


def _some(node: Node | None, *, local: bool) -> dict[str, Node]:
    entries = node.entries if isinstance(node, Table) else {}
    return {key: below for key, below in entries.items() if (key in LOCAL_OF_NODE) is local}
