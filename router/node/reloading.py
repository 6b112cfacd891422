"""What a reload may not take over, and what it cannot take over without a restart."""

from __future__ import annotations

import time
from dataclasses import dataclass

from router.config import ConfigError, Problem, Settings
from router.node.sweeper import orphaned
from router.spool import Spool
from router.spool.nodes import lagging

PARTS = ("node", "spool", "model", "web", "notify", "destinations", "rules")
"""The parts of the settings that a reload compares."""
FOLLOW_WITHIN = 5.0
"""Seconds in which each node follows what was published."""
LOOK_EVERY = 0.1
"""Seconds between two looks whether all have."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: the file, its changed parts, and those of them that need a restart."""

    file: str
    changed: list[str]
    needs_restart: list[str]
    version: int = 0
    """Of the settings that several nodes share; 0 with SQLite."""


def refuse_orphaned_deliveries(spool: Spool, new: Settings) -> None:
    """Raises ConfigError if deliveries wait for a destination that the new settings do not have."""
    problems = [
        Problem(
            str(new.file), 0, f"destination {name} is gone, but {waiting} deliveries wait for it",
            f"keep it until they are delivered, or run: dicom-router queue discard --all --to {name}",
        )
        for name, waiting in orphaned(spool, new).items()
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)


def refuse_unusable_files(old: Settings, new: Settings) -> None:
    """Raises ConfigError for a file for TLS, or with a secret, that cannot be used. It counts as a mistake in
    routing.yaml, unless it is that of a destination that does not change."""
    same = tuple(
        f"destination '{name}'." for name, destination in new.destinations.items()
        if destination == old.destinations.get(name)
    )  # fmt: skip
    problems = [
        Problem(one.file, one.line, f"{one.setting}: {one.why}", one.fix)
        for one in new.unusable
        if not one.setting.startswith(same)
    ]
    if problems:
        raise ConfigError(problems)


def not_followed(spool: Spool, version: int) -> list[dict[str, str]]:
    """The nodes in which a version of the shared settings is not in force after FOLLOW_WITHIN, and why."""
    until = time.monotonic() + FOLLOW_WITHIN
    while version:
        behind = lagging(spool.nodes.running(), settings=version)
        if not behind or time.monotonic() > until:
            return [{"node": one.name, "problem": one.state.problem} for one in behind]
        time.sleep(LOOK_EVERY)
    return []


def reloaded(started_with: Settings, old: Settings, new: Settings, version: int = 0) -> Reloaded:
    """Compares the settings before and after, and with those from the start of the node."""
    changed = [part for part in PARTS if getattr(old, part) != getattr(new, part)]
    restart = [part for part in ("spool", "model", "web") if getattr(started_with, part) != getattr(new, part)]
    ports = [(settings.node.address, settings.node.port, settings.node.tls) for settings in (started_with, new)]
    if ports[0] != ports[1]:
        restart.append("node address, port or tls")
    if started_with.node.roles != new.node.roles or started_with.node.name != new.node.name:
        restart.append("node roles or name")
    return Reloaded(str(new.file), changed, restart, version)
