"""Two nodes on one PostgreSQL spool, and everything between them fails: is anything lost?

`python -m tests.chaos.postgresql --acknowledged 20000` goes on until so many instances are acknowledged: nodes,
inference and pixel workers are killed, the server is stopped at once, or stalls (SIGSTOP) for up to 70 seconds, or ends
all its connections. Then the spool comes to rest, and the history is judged as that of `tests.chaos.kills`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from router.association.requestor import AssociationLostError, ConnectError
from tests import postgres
from tests.acceptance.peers import NodeUnderTest, listening, wait_for
from tests.chaos import traffic
from tests.chaos.history import Crash, Sent, SpoolRow, Verdict, judge
from tests.chaos.kills import STUB, Life, descendants, has_blob, quiet

KINDS = {
    "node": 5, "inference": 1, "worker": 1, "server ends": 2, "backends end": 1, "stall 3": 2, "stall 12": 1,
    "stall 40": 1, "stall 70": 1,
}  # fmt: skip
"""What fails, and how often."""
SHORT = ("node", "backends end", "stall 3", "server ends", "node")
"""What a test plays."""
ANSWER_WITHIN = 45.0
"""Seconds in which each C-STORE must be answered while only the database fails: promised are 30, on a free machine."""
REST, LAST_ANSWER = 240.0, 120.0
HELD = 64
"""Deliveries to one place that several holders may have sent and not written down: two nodes, with a batch each."""


class Sender(traffic.Sender):
    """Asks one of several nodes at a time, and notes each answer and the longest wait for one."""

    def __init__(self, ports: Sequence[int], folder: Path, seed: str, number: int) -> None:
        super().__init__(ports[0], folder, seed, number)
        self.statuses: Counter[str] = Counter()
        self.longest = 0.0
        self._ports = ports

    def _until_acknowledged(self, one: Sent) -> Sent:
        while not one.acknowledged:
            if self._association is None:
                self._to = replace(self._to, port=self._random.choice(self._ports), response_timeout=200.0)
            try:
                association = self._associated()
            except ConnectError:
                time.sleep(traffic.AGAIN_AFTER)
                continue
            one = replace(one, tries=one.tries + 1)
            begin = time.monotonic()
            try:
                size = self._file.stat().st_size
                status = association.store(
                    self._file, 0, size, sop_class=traffic.SOP_CLASS, sop_instance=one.uid,
                    transfer_syntax=traffic.SYNTAX,
                )  # fmt: skip
                self.statuses[f"{status:04x}"] += 1
                self.longest = max(self.longest, time.monotonic() - begin)
                one = replace(one, acknowledged=status == 0)
                if status:
                    time.sleep(traffic.AGAIN_AFTER)
            except AssociationLostError as error:
                self.statuses[error.kind] += 1
                self._hang_up()
        return one


@dataclass
class Campaign:
    """Two nodes, a server, and what happens to them."""

    database: str
    spool: Path
    lives: list[Life]
    sinks: traffic.Sinks
    senders: list[Sender]
    chance: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    crashes: list[Crash] = field(default_factory=list)
    judged: Verdict = field(default_factory=Verdict)

    @property
    def acknowledged(self) -> int:
        return sum(len(sender.sent) for sender in self.senders)

    def fail(self, kind: str) -> None:
        """One failure; afterwards both nodes run, or begin to."""
        self.happened[kind] += 1
        what, _, seconds = kind.partition(" ")
        if what == "stall":
            with postgres.stopped(self.database):
                time.sleep(float(seconds))
        elif kind == "server ends":
            postgres.restart(self.database, self.chance.uniform(0, 2))
        elif kind == "backends end":
            self._end_backends()
        else:
            self._kill(what)
        # A holder that lost its lease, or whose write was lost, makes copies as one that was killed.
        self.crashes.append(Crash(what if what in ("worker", "inference") else "node", time.monotonic()))
        for life in self.lives:
            if life.process is None or life.process.poll() is not None:
                life.begin()

    def _end_backends(self) -> None:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname != ''"
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(end)

    def _kill(self, what: str) -> None:
        life = self.chance.choice(self.lives)
        process = life.process
        if process is None or process.poll() is not None:
            return
        if what == "node":
            process.kill()
            process.wait()
            time.sleep(self.chance.choice((0.0, 0.0, self.chance.uniform(0, 8))))
            return
        found = descendants(process.pid, "router.inference" + (".pixel_worker" if what == "worker" else ""))
        for pid in found[:1]:
            os.kill(pid, signal.SIGKILL)

    def come_to_rest(self) -> None:
        for sender in self.senders:
            sender.stop()
        for sender in self.senders:
            sender.join(LAST_ANSWER)
            if sender.is_alive():
                raise RuntimeError("a sender got no answer")
        still = (
            "SELECT (SELECT count(*) FROM instance WHERE state = 'new') "
            "+ (SELECT count(*) FROM delivery WHERE state = 'open')"
        )
        wait_for(lambda: self._ask(still)[0][0] == 0, REST, "the spool to come to rest")

    def _ask(self, query: str) -> list[Any]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(query).fetchall()

    def verdict(self) -> Verdict:
        """The history as that of the other campaigns, and what only this one can break."""
        query = """SELECT sop_instance, digest, state, coalesce(pixels, ''), coalesce(destinations, '[]'),
            (SELECT count(*) FROM delivery WHERE instance_id = instance.id AND delivery.state != 'done')
            FROM instance"""
        rows = [
            SpoolRow(uid, digest, state, pixels, frozenset(json.loads(destinations)), waiting)
            for uid, digest, state, pixels, destinations, waiting in self._ask(query)
        ]
        kept = self._ask("SELECT id, \"offset\" + size FROM instance WHERE state != 'gone'")
        without = {which for which, size in kept if not has_blob(self.spool, which, size)}
        sent = [one for sender in self.senders for one in sender.sent]
        found = judge(sent, self.sinks.arrivals, self.crashes, rows, without, traffic.OTHERWISE, HELD)
        return replace(found, faults=(*found.faults, *self._own_faults()))

    def _own_faults(self) -> Iterator[str]:
        for status in sorted(set(self.statuses) & {"c000", "a900", "0110"}):
            yield f"{self.statuses[status]} callers heard 0x{status}, though nothing was wrong with what they sent"
        longest = max(sender.longest for sender in self.senders)
        if longest > ANSWER_WITHIN:
            yield f"a caller waited {longest:.0f} s for an answer"

    @property
    def statuses(self) -> Counter[str]:
        return sum((sender.statuses for sender in self.senders), Counter())


@contextmanager
def begun(folder: Path, seed: str, database: str, senders: int = 5) -> Iterator[Campaign]:
    """Two nodes that are up, with traffic on both."""
    chance = random.Random(seed)
    spool = folder / "spool"
    with traffic.Sinks("") as sinks:
        environment = {
            "DICOM_ROUTER__SPOOL__DATABASE": database, "DICOM_ROUTER__SPOOL__PATH": str(spool),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(STUB), os.environ.get("PYTHONPATH", "")])),
        }  # fmt: skip
        extra = "model: {device: cpu, workers: 1}\n"
        nodes = [NodeUnderTest(folder / name, sinks.ports, rules=traffic.rules(), extra=extra) for name in ("a", "b")]
        lives = [Life(node, environment) for node in nodes]
        ports = [node.port for node in nodes]
        made = [Sender(ports, folder, seed, number) for number in range(senders)]
        try:
            for life in lives:
                life.begin()
                life.wait_until_up()
            for sender in made:
                sender.start()
            yield Campaign(database, spool, lives, sinks, made, chance)
        finally:
            for sender in made:
                sender.stop()
            for life in lives:
                life.end()


def play(folder: Path, seed: str, database: str, kinds: Iterator[str], enough: Callable[[Campaign], bool]) -> Campaign:
    """Failures, one every few seconds, until it is enough; then rest, and its verdict."""
    with begun(folder, seed, database) as campaign:
        for kind in kinds:
            more = campaign.acknowledged + campaign.chance.randint(20, 200)
            wait_for(lambda more=more: campaign.acknowledged >= more, 120, "traffic")
            campaign.fail(kind)
            if enough(campaign):
                break
        for life in campaign.lives:
            wait_for(lambda life=life: listening(life.node.port), 120, "both nodes")
        campaign.come_to_rest()
        campaign.judged = campaign.verdict()
    return campaign


def for_ever(seed: str) -> Iterator[str]:
    chance = random.Random(f"kinds {seed}")
    while True:
        yield from chance.choices(list(KINDS), list(KINDS.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--acknowledged", type=int, default=20_000)
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    quiet()
    with postgres.server() as new_database, tempfile.TemporaryDirectory(prefix="chaos-") as name:
        began = time.monotonic()
        played = play(
            Path(name), arguments.seed, new_database(), for_ever(arguments.seed),
            lambda campaign: campaign.acknowledged >= arguments.acknowledged,
        )  # fmt: skip
        verdict = played.judged
        print(json.dumps({
            "seconds": round(time.monotonic() - began), "failures": dict(played.happened), **verdict.numbers(),
            "answers": dict(played.statuses), "longest_answer_s": round(max(s.longest for s in played.senders), 1),
            "faults": verdict.faults[:20],
        }, indent=1))  # fmt: skip
    sys.exit(0 if verdict.kept else 1)


if __name__ == "__main__":
    main()
