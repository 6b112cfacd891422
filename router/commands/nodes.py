"""The nodes that work on a spool, and what a person must know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

from router.config import Settings
from router.config.settings import ROLES
from router.node.client import NoNodeError, state
from router.node.shared_settings import known_as
from router.spool import Spool, read_spool
from router.spool.nodes import NodeRow, NodeState

WITHOUT = {
    "receive": "no node receives: callers are refused",
    "classify": "no node classifies: instances wait for their decision",
    "forward": "no node forwards: deliveries wait",
}
NOT_READY = {
    "inference": "its model is not ready",
    "database": "the database does not answer it",
    "open": "its DICOM port is not open",
    "blobs": "the object store does not work for it",
    "room": "it has no room: it refuses callers",
}
TOLD_FOR = 3600.0
"""Seconds for which people are told that a node is gone. After that only the list says it."""


def nodes(settings: Settings) -> list[NodeRow]:
    """Those that run, and those that have been gone for less than a day. Raises SpoolError."""
    if settings.spool.database == "sqlite":
        return _only_one(settings)
    with closing(read_spool(settings.spool)) as spool:
        return spool.nodes.all()


def _only_one(settings: Settings) -> list[NodeRow]:
    """With SQLite there is one node or none, and it is asked itself."""
    try:
        found = state(settings.spool.path, "node")
    except NoNodeError:
        return []
    about = NodeState(about=found["about"])
    name = known_as(settings)
    return [NodeRow(0, name, name, ROLES, found["version"], found["began_at"], found["seen_at"], 0.0, about, 0.0)]


def listed(spool: Spool) -> tuple[NodeRow, ...]:
    """The list of a spool that is open; empty for SQLite. Raises SpoolError."""
    return () if spool.database.is_sqlite else tuple(spool.nodes.all())


def troubles(rows: Sequence[NodeRow]) -> Iterator[tuple[str, str]]:
    """What needs a person, and what to do about it. Of no nodes at all nothing is said."""
    running = [one for one in rows if not one.is_gone]
    for role, words in WITHOUT.items():
        if rows and not any(role in one.roles for one in running):
            yield words, f"dicom-router serve --role {role}, or see dicom-router nodes"
    for one in rows:
        if one.is_gone and one.ago < TOLD_FOR:
            yield f"node {one.name} has not been seen for {one.ago:.0f} s", "is its machine up? See dicom-router nodes"
    for one in running:
        for part in one.state.about.get("not_ready", ()):
            yield f"node {one.name}: {NOT_READY.get(part, part)}", "see the log of that node"
        if one.state.problem:
            yield f"node {one.name}: {one.state.problem}", "see 'Several machines' in docs/operations.md"
    for name, count in Counter(one.name for one in running).items():
        if count > 1:
            yield f"{count} nodes are called {name}", "give each a node.name of its own, or none"
    models = {model for one in running if (model := one.state.about.get("model"))}
    if len(models) > 1 and len({one.state.choice for one in running if "classify" in one.roles}) == 1:
        yield f"{len(models)} different models decide", "dicom-router nodes shows where; promote one of them"
