"""The settings that all nodes on one PostgreSQL database share: which are in force at a start and after a change.

The newest published version is in force everywhere. What this node's own file says beside it counts only for this
machine. With SQLite there is one node, and its file is in force.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from router.config import Instead, Settings, load, shared_part
from router.observe import log
from router.spool import Spool
from router.spool.shared import SettingsVersion


@dataclass(frozen=True, slots=True)
class InForce:
    """Settings, the version that they are of (0: SQLite has none), and whether this node's own file says otherwise."""

    settings: Settings
    version: int = 0
    file_differs: bool = False


def known_as(settings: Settings) -> str:
    """How others know this node before it is in the list of nodes."""
    return settings.node.name or socket.gethostname()


def at_start(own: Settings, spool: Spool) -> InForce:
    """What is in force when a node starts; `own` is its file. It is published if nothing else can be in force: see
    `Shared.publish_settings`.

    Raises ConfigError if the newest version cannot be in force here, for instance because a certificate is not here.
    """
    if spool.database.is_sqlite:
        return InForce(own)
    part = shared_part(own.text)
    newest = spool.shared.publish_settings(part.digest, part.text, "", known_as(own), at_start=True)
    found = following(own, newest)
    if found.file_differs:
        log.warning("configuration", about=differs(own, newest))
    return found


def following(own: Settings, newest: SettingsVersion) -> InForce:
    """A published version with the local part of a node's own file. Raises ConfigError."""
    if shared_part(own.text).digest == newest.digest:
        return InForce(load(own.file, text=own.text), newest.version)
    instead = Instead(f"settings version {newest.version}", newest.text)
    return InForce(load(own.file, text=own.text, instead=instead), newest.version, file_differs=True)


def publish(new: Settings, spool: Spool, who: str) -> InForce:
    """Make the file of this node the newest version, unless it says what is in force already."""
    if spool.database.is_sqlite:
        return InForce(new)
    part = shared_part(new.text)
    return InForce(new, spool.shared.publish_settings(part.digest, part.text, who, known_as(new)).version)


def as_everywhere(own: Settings, spool: Spool) -> Settings:
    """The settings for a command that looks at the spool: what is in force on the nodes, whatever this file says."""
    newest = None if spool.database.is_sqlite else spool.shared.settings()
    return own if newest is None else following(own, newest).settings


def differs(own: Settings, newest: SettingsVersion) -> str:
    """What a person must know whose file is not in force."""
    by = f"{newest.who} at {newest.node}" if newest.who else newest.node
    return (
        f"{own.file} differs from settings version {newest.version} of {by}, which is in force on all nodes; "
        "dicom-router reload publishes this file instead"
    )
