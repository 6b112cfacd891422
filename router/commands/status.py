"""How a node is: one sentence, what needs a person, and the figures behind it. Reads the spool, and asks the node."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from router.commands.nodes import listed, troubles
from router.commands.pause_words import in_words
from router.commands.refusing import Refuses, refusing
from router.config import Settings
from router.config.settings import DestinationSettings
from router.errors import RouterError
from router.node.client import state
from router.node.shared_settings import as_everywhere
from router.spool import Counts, DestinationState, Job, Spool, read_spool
from router.spool.activity import Activity
from router.spool.nodes import NodeRow
from router.spool.notices import Silence
from router.spool.results import Lately
from router.spool.rows import EventRow

HOUR = 3600.0
LONG_OWED = HOUR
"""Seconds after which a delivery that is still owed needs a person's eyes."""
LATEST = 5
"""How many of the latest failures are named."""
SILENT_AFTER = 24 * HOUR
"""Seconds after which a sender is called silent, unless `notify.silent` names another time for it."""
FAILURES = ("buried", "model failed", "set aside")


@dataclass(frozen=True, slots=True)
class Destination:
    """What a destination is owed, and how fast it takes it."""

    name: str
    state: str
    """`open`, `refusing`, `paused`, `circuit open`, `closed` (outside of its hours) or `disabled`."""
    reason: str
    owed: int
    buried: int
    oldest_s: float | None
    """Seconds since the oldest open delivery has been owed."""
    delivered: int
    """In the last hour."""
    drains_in_s: float | None
    """Seconds until nothing is owed, at the rate of the last hour and no faster than its quota; None where neither is
    known, or nothing is tried now."""
    results: int = 0
    """Results of the last hours (`MISSING_WITHIN`)."""
    result_s: float | None = None
    """The median of the seconds from delivery to result."""
    missing: int = 0
    """Deliveries of these hours whose result is missing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a person, and what to do about it."""

    what: str
    do: str
    destination: str = ""
    """The destination that it is about, if it is about one."""
    kind: str = ""
    """Of a destination's: `paused`, `circuit`, `refusing`, `behind`, `buried` or `result`."""


@dataclass(frozen=True, slots=True)
class Room:
    """How full the spool is, in bytes."""

    used: int
    limit: int
    free: int
    """Of the file system."""
    left: int
    """What may still come."""
    full_in_h: float | None
    """Hours until nothing is left, at the rate of the last hour and if nothing is delivered."""


@dataclass(frozen=True, slots=True)
class RunsOn:
    """A model (its digest), its engine, and on which of several nodes."""

    node: str
    model: str
    engine: str


@dataclass(frozen=True, slots=True)
class Status:
    """All that `dicom-router status` shows."""

    well: bool
    problems: tuple[Problem, ...]
    node: dict[str, Any] | None
    """What the running node says of itself; None where none runs, and where there is a list of all nodes."""
    undecided: int
    destinations: tuple[Destination, ...]
    lately: Activity
    spool: Room
    failures: tuple[EventRow, ...]
    silent: tuple[str, ...]
    """The callers that have sent nothing for too long."""
    jobs: tuple[Job, ...] = ()
    """Orders over many that are under way."""
    silences: tuple[Silence, ...] = ()
    """Conditions of which people are told nothing for a while."""
    nodes: tuple[NodeRow, ...] = ()
    """All nodes on this spool (PostgreSQL)."""

    @property
    def running(self) -> int:
        """How many nodes of the list run."""
        return sum(not one.is_gone for one in self.nodes)

    @property
    def models(self) -> list[RunsOn]:
        """What decides: the model of each node that classifies."""
        if not self.nodes:
            about = (self.node or {}).get("runs_on") or {}
            return [RunsOn("", str(about.get("model", "")), str(about.get("engine", "")))]
        each = [(one.name, one.state.about) for one in self.nodes if "classify" in one.roles and not one.is_gone]
        return [RunsOn(name, str(about.get("model", "")), str(about.get("engine", ""))) for name, about in each]

    def as_dict(self) -> dict[str, Any]:
        return asdict(replace(self, jobs=())) | {"jobs": [one.as_json() for one in self.jobs]}


def status(settings: Settings) -> Status:
    """Raises SpoolError where there is no spool."""
    with closing(read_spool(settings.spool)) as spool:
        node = None if listed(spool) else _node(settings)
        return status_of(as_everywhere(settings, spool), spool, node, spool.views.bytes_held())


def status_of(settings: Settings, spool: Spool, node: dict[str, Any] | None, used: int) -> Status:
    """`node` is what the node says of itself, `used` the bytes of its blobs. Raises SpoolError.

    Where there is a list of all nodes, the status is the same wherever it is asked for.
    """
    nodes = listed(spool)
    node = None if nodes else node
    counts, lately = spool.views.counts(), spool.views.activity(HOUR)
    states, room = spool.destinations.states(), _room(settings, used, lately)
    failures = tuple(_failures(spool, lately.now))
    refused, results = refusing(node, nodes, lately.now), spool.results.lately()
    destinations = tuple(_destinations(settings, counts, states, lately, refused, results))
    silent = silent_callers(settings, lately)
    of_nodes = (Problem(what, do) for what, do in troubles(nodes)) if nodes else _of_node(node)
    problems = (*of_nodes, *_problems(node, counts, destinations, room), *_missed(settings, lately, silent))
    jobs, silences = tuple(spool.bulk.working()), tuple(spool.notices.silences())
    return Status(
        not problems, problems, node, counts.undecided, destinations, lately, room, failures, silent, jobs, silences,
        nodes,
    )  # fmt: skip


def silent_callers(settings: Settings, lately: Activity) -> tuple[str, ...]:
    """AE titles of the callers that have sent nothing for too long."""
    chosen = settings.notify.silent
    return tuple(
        one.calling_ae for one in lately.senders if lately.now - one.last_at > chosen.get(one.calling_ae, SILENT_AFTER)
    )


def _node(settings: Settings) -> dict[str, Any] | None:
    try:
        return state(settings.spool.path, "status")
    except RouterError:
        return None


def _destinations(
    settings: Settings, counts: Counts, states: dict[str, DestinationState], lately: Activity,
    refused: Mapping[str, Refuses], results: Mapping[str, Lately],
) -> Iterator[Destination]:  # fmt: skip
    names = dict.fromkeys(
        [*settings.destinations, *sorted(counts.open), *sorted(counts.buried), *sorted(counts.missing)]
    )
    for name in names:
        known, of = states.get(name), settings.destinations.get(name)
        word, reason = "open", ""
        if of is None or not of.enabled:
            word = "disabled"
        elif known and known.paused:
            word, reason = "paused", in_words(known.pause_until).strip()
        elif known and known.closed_until:
            word, reason = "closed", f"outside of its hours{in_words(known.closed_until)}"
        elif known and known.circuit_until:
            word, reason = "circuit open", known.circuit_reason
        elif name in refused:
            word, reason = "refusing", _how(refused[name], lately.now)
        owed, delivered, oldest = counts.open.get(name, 0), lately.delivered.get(name, 0), counts.oldest.get(name)
        came = results.get(name, Lately(0, None))
        yield Destination(
            name, word, reason, owed, counts.buried.get(name, 0), max(0.0, lately.now - oldest) if oldest else None,
            delivered, _drains_in(owed, delivered / lately.seconds, of) if of and word == "open" else None,
            came.came, came.seconds, counts.missing.get(name, 0),
        )  # fmt: skip


def _drains_in(owed: int, rate: float, of: DestinationSettings) -> float | None:
    """`rate`: deliveries in a second."""
    rates = [one for one in (rate, of.limit_rate) if one]
    return owed / min(rates) if owed and rates else None


def _how(one: Refuses, now: float) -> str:
    by = f" by {', '.join(one.by)}" if one.by else ""
    return f"each of {one.all.tries} tries{by} has failed for {span(now - one.all.since)}, the last: {one.all.reason}"


def _room(settings: Settings, used: int, lately: Activity) -> Room:
    space = os.statvfs(settings.spool.path)
    free = space.f_bavail * space.f_frsize
    left = settings.spool.left(used, free)
    hours = left / lately.received_bytes * lately.seconds / HOUR if lately.received_bytes else None
    return Room(used, settings.spool.limit, free, left, hours)


def _of_node(node: dict[str, Any] | None) -> Iterator[Problem]:
    if node is None:
        yield Problem("no node answers on this spool", "dicom-router serve, or systemctl status dicom-router")
    else:
        for part, words in (
            ("inference", "the model is not ready: instances wait for their decision"),
            ("database", "the database does not answer: callers are refused"),
            ("blobs", "the object store does not answer: callers are refused"),
            ("open", "the DICOM port is not open"),
        ):
            if not node.get(part, True):
                yield Problem(words, node.get(f"trouble_with_{part}") or "see the log of the node")


def _problems(
    node: dict[str, Any] | None, counts: Counts, destinations: tuple[Destination, ...], room: Room
) -> Iterator[Problem]:
    if not room.left or (node is not None and not node.get("room", True)):
        yield Problem("the spool has no room: callers are refused", "see 'Full disk' in docs/operations.md")
    for one in destinations:
        yield from _troubles(one)
    if counts.set_aside:
        yield Problem(f"{counts.set_aside} blobs are set aside", "see 'Blobs set aside' in docs/operations.md")
    if orphans := (node or {}).get("orphans"):
        yield Problem(f"{orphans} objects in the object store have no row", "dicom-router spool orphans")


def _troubles(one: Destination) -> Iterator[Problem]:
    waiting = f"dicom-router queue list --to {one.name}"
    if one.state == "paused" and one.owed:
        until = one.reason and f" {one.reason}"
        yield Problem(
            f"{one.name} is paused{until}, {one.owed} wait", f"dicom-router queue resume {one.name}", one.name, "paused"
        )
    elif one.state == "circuit open":
        what = f"{one.name} takes nothing, {one.owed} wait: {one.reason}"
        again = ". What waits goes by itself when it answers" if one.owed else ""
        yield Problem(f"{what}{again}", f"{waiting}; 'An AI is down' in docs/operations.md", one.name, "circuit")
    elif one.state == "refusing":
        yield Problem(f"{one.name} refuses what it gets: {one.reason}", waiting, one.name, "refusing")
    elif one.state != "closed" and one.oldest_s is not None and one.oldest_s > LONG_OWED:
        yield Problem(
            f"{one.name} is behind: the oldest of {one.owed} has waited {span(one.oldest_s)}",
            waiting,
            one.name,
            "behind",
        )
    if one.buried:
        find = f"dicom-router find --to {one.name} --state buried"
        yield Problem(f"{one.buried} buried for {one.name}", find, one.name, "buried")
    if one.missing:
        find = f"dicom-router find --to {one.name} --result missing; 'An AI gives no result' in docs/operations.md"
        deliveries = f"{one.missing} {'delivery' if one.missing == 1 else 'deliveries'}"
        yield Problem(f"{one.name} gave no result for {deliveries}", find, one.name, "result")


def _missed(settings: Settings, lately: Activity, silent: tuple[str, ...]) -> Iterator[Problem]:
    """The silent callers among those that `notify.silent` watches: people are told of them, so the status says it."""
    for one in lately.senders:
        if one.calling_ae in settings.notify.silent and one.calling_ae in silent:
            what = f"nothing has come from {one.calling_ae} for {span(lately.now - one.last_at)}"
            yield Problem(what, "is it switched off, or refused? See 'It never came' in docs/operations.md")


def _failures(spool: Spool, now: float) -> Iterator[EventRow]:
    """The latest of a day, the newest first."""
    found = [row for kind in FAILURES for row in spool.views.events(kind=kind, limit=LATEST)]
    recent = [row for row in found if row.at > now - SILENT_AFTER]
    yield from sorted(recent, key=lambda row: -row.at)[:LATEST]


def span(seconds: float) -> str:
    """A span of time in its largest sensible unit."""
    for unit, size in (("d", 86400.0), ("h", HOUR), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
