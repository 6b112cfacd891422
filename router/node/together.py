"""One of several nodes: it is in the list of nodes, says how it is, and follows what others publish (PostgreSQL).

A thread looks every two seconds, and at once when it hears that something was published. What it cannot follow it says
in its row of the list, and the old goes on there. It tries again.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Protocol

from router.config.settings import ROLES, NodeSettings
from router.errors import RouterError
from router.node.client import killed_here, remove_sockets_but
from router.observe import log, where
from router.spool import Spool, SpoolError
from router.spool.nodes import NodeState
from router.spool.signals import SHARED

LOOK_EVERY = 2.0
"""Seconds between two looks at what is published."""
SEEN_EVERY = 5.0
"""Seconds between two words that this node runs, if nothing else is to be said."""
AGAIN_AFTER = 10.0
"""Seconds until settings are tried again that could not be followed."""
MOST_SKEW = 5.0
"""Seconds. A clock that differs more from the database's is told of."""


class Follows(Protocol):
    """What follows published versions."""

    @property
    def version(self) -> int:
        """The version in force here."""
        ...

    @property
    def problem(self) -> str:
        """Why the newest is not in force; empty if it is."""
        ...

    def follow(self) -> None:
        """Raises RouterError."""
        ...


class SettingsFollower:
    """Follows published settings; `take` makes the newest version the one in force and returns its number."""

    def __init__(self, spool: Spool, version: int, take: Callable[[], int]) -> None:
        self._spool, self._take = spool, take
        self.version = version
        self.problem = ""
        self._failed = 0
        self._again_at = 0.0

    def now_in_force(self, version: int) -> None:
        """This node has published a version itself, or taken one."""
        self.version, self.problem = max(self.version, version), ""

    def follow(self) -> None:
        newest = self._spool.shared.settings_version()
        if newest <= self.version or (newest == self._failed and time.monotonic() < self._again_at):
            return
        try:
            self.now_in_force(self._take())
        except Exception as error:
            self._failed, self._again_at = newest, time.monotonic() + AGAIN_AFTER
            problem = str(error) if isinstance(error, RouterError) else where(error)
            if problem != self.problem:
                log.error("settings not followed", version=newest, reason=problem)
            self.problem = problem


class Together:
    """A thread that works until it is stopped."""

    def __init__(
        self, spool: Spool, node: NodeSettings, settings: Follows, models: Follows, about: Callable[[], dict[str, Any]]
    ) -> None:
        self._spool, self._node, self._about = spool, node, about
        self._settings, self._models = settings, models
        self._said = NodeState()
        self._said_at = 0.0
        self._unread: dict[Follows, str] = {}
        """Why it could not even be read what is published."""
        self._told_skew = False
        self._begun = False
        self._stopped = threading.Event()
        self._signal = spool.signals.of(SHARED)
        self._thread = threading.Thread(target=self._run, name="together", daemon=True)

    def start(self) -> None:
        """Enter the list of nodes. Raises SpoolError."""
        host, roles = socket.gethostname(), self._node.roles
        word = host[:40] if roles == ROLES else f"{host[:40]}-{'-'.join(roles)}"
        folder, killed = self._spool.settings.path, set[int]()
        with suppress(OSError):
            killed = killed_here(folder)
        name = self._spool.nodes.begin(self._node.name, host, roles, version("dicom-router"), word, killed)
        self._begun = True
        with suppress(OSError):
            remove_sockets_but(folder, {one.start for one in self._spool.nodes.all()})
        log.info("among other nodes", name=name, process=os.getpid())
        self._thread.start()

    def stop(self, deadline: float = 0.0) -> None:
        """Leave the list of nodes, if the database still takes it."""
        self._stopped.set()
        self._signal.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._begun:
            with suppress(SpoolError):
                self._spool.nodes.end()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def look(self) -> None:
        """Follow what is published, and say how this node is if that has changed or is due. Raises RouterError."""
        for one in (self._settings, self._models):
            self._follow(one)
        state = self._state()
        if state != self._said or time.monotonic() - self._said_at > SEEN_EVERY:
            self._spool.nodes.seen(state)
            self._said, self._said_at = state, time.monotonic()

    def _follow(self, one: Follows) -> None:
        """What cannot be followed must not keep this node from saying that it runs."""
        problem = ""
        try:
            one.follow()
        except SpoolError:  # then this cannot be said either
            raise
        except Exception as error:
            problem = str(error) if isinstance(error, RouterError) else where(error)
            if problem != self._unread.get(one):
                log.error("together failed", error=problem)
        self._unread[one] = problem

    def _run(self) -> None:
        reason = ""
        while not self._stopped.is_set():
            seen = self._signal.version
            try:
                self.look()
                reason = ""
            except RouterError as error:
                if str(error) != reason:  # while a database does not answer, that is said once
                    log.error("spool", stage="together", reason=str(error))
                reason = str(error)
            except Exception as error:  # else this node would follow no change any more, unseen
                log.error("together failed", error=where(error))
            self._signal.wait(seen, LOOK_EVERY)

    def _state(self) -> NodeState:
        doubt = self._spool.doubt_about_blobs
        blobs = f"{doubt}: the last instances were refused" if doubt else ""
        problems = (self._settings.problem, self._models.problem, *self._unread.values(), self._skew(), blobs)
        words = "; ".join(filter(None, problems))
        return NodeState(self._settings.version, self._models.version, words, self._about())

    def _skew(self) -> str:
        seconds = self._spool.nodes.skew()
        if abs(seconds) <= MOST_SKEW:
            self._told_skew = False
            return ""
        words = f"its clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the database's"
        if not self._told_skew:
            self._told_skew = True
            log.warning("clocks differ", seconds=round(seconds), fix="set the clock of this machine by NTP")
        return words
