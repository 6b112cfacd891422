"""A run of a node under strace, for the power cuts: what it wrote, what it acknowledged when, and what arrived."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.corpus import quick_node, settled
from tests.chaos import disk
from tests.chaos.disk import Disk, Event
from tests.chaos.history import Arrival, Sent
from tests.chaos.traffic import Sender, Sinks, rules
from tests.faults import FAULTS, FaultyDisk
from tests.peers import NodeUnderTest, wait_for
from tests.strace import Call, calls, traced

SENDERS = 4
LONGEST = 1 << 20
"""Bytes of a buffer that strace keeps."""


@dataclass(frozen=True)
class Recording:
    """One run of a node. `answers` is in order: what was acknowledged, and the line of the trace where that began."""

    root: Path
    events: list[Event]
    answers: list[tuple[int, str]]
    sent: dict[str, Sent]
    arrivals: list[tuple[float, Arrival]]
    """With the Unix time of each."""
    failing: bool = False
    """Whether the disk was full or failed for moments."""


def record(folder: Path, instances: int, seed: str, *, failing: bool = False) -> Recording:
    """Send at least so many instances to a new node under strace, until all have arrived, and end it.

    `failing`: the disk is full or fails for moments meanwhile. Such a call never comes to the system: the trace, and
    thus the replay, has no sync that failed, but everything that was written before it.
    """
    root = folder / "disk"
    root.mkdir(parents=True)
    trace = folder / "trace"
    with Sinks() as sinks, pytest.MonkeyPatch.context() as environment:
        ill = Illness(FaultyDisk(folder), seed) if failing else None
        for name, value in ill.disk.environment.items() if ill else ():
            environment.setenv(name, value)
        # Half of the instances fill the spool: finished blobs then make way for new ones.
        node = node_on(folder, root / "spool", sinks.ports, f", keep: 1s, limit: {instances} kB")
        with traced(node, trace, [*disk.KNOWN, *disk.UNKNOWN, "sendto", "sendmsg"], longest=LONGEST):
            clock = time.time() - time.monotonic()
            senders = [Sender(node.port, folder, seed, number) for number in range(SENDERS)]
            for sender in senders:
                sender.start()
            wait_for(lambda: _sent(senders, ill) >= instances, 500, "senders to have sent")
            if ill:
                ill.disk.fail()
            for sender in senders:
                sender.stop()
            for sender in senders:
                sender.join(60)
            sent = {one.uid: one for sender in senders for one in sender.sent}
            wait_for(lambda: settled(node, len(sent)), 120, "every delivery to be done")
        arrivals = [(arrival.at + clock, arrival) for arrival in sinks.arrivals]
    kept, answers = _sort(root, calls(trace))
    arrived = Counter((arrival.uid, arrival.digest, arrival.place) for _, arrival in arrivals)
    assert arrived == Counter((o.uid, o.digest, place) for o in sent.values() for place in o.expected), "without a cut"
    assert {uid for _, uid in answers} == set(sent), "the trace lacks answers"
    return Recording(root, disk.events(kept), answers, sent, arrivals, failing)


@dataclass
class Illness:
    """A disk that now and then fails, in a way by chance, for some of the moments at which somebody looks."""

    disk: FaultyDisk
    seed: str
    ill: bool = False
    left: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def go_on(self) -> None:
        """Somebody looks."""
        self.left -= 1
        if self.left <= 0:
            self.ill = not self.ill
            self.left = self._chance.randint(1, 3)
            self.disk.fail(*([self._chance.choice(FAULTS)] if self.ill else []))


def _sent(senders: Sequence[Sender], ill: Illness | None) -> int:
    if ill:
        ill.go_on()
    return sum(len(sender.sent) for sender in senders)


def node_on(folder: Path, spool: Path, ports: dict[str, int], options: str = "") -> NodeUnderTest:
    node = quick_node(folder, ports, rules=rules())
    text = node.config.read_text()
    node.config.write_text(re.sub(r"spool: \{path: .*\}", f"spool: {{path: {spool}{options}}}", text))
    node.folder = spool.parent
    return node


def _sort(root: Path, seen: Iterator[Call]) -> tuple[list[Call], list[tuple[int, str]]]:
    model, kept, answers = Disk(root), [], []
    for call in seen:
        if model.concerns(call):
            kept.append(call)
        elif uid := call.acknowledged:
            answers.append((call.began, uid))
    return kept, sorted(answers)
