"""Two nodes on one PostgreSQL spool, and everything between them fails: is anything lost?

`python -m tests.chaos.postgresql --rounds 10 --seed 1` adds rounds to what runs/chaos-postgresql/rounds.jsonl holds
and prints the sum. A round is one server, with syncs, one database and one spool folder. Senders and sinks live on in
this process while nodes, inference and pixel workers are killed and the server is stopped at once, stalls, or ends the
nodes' connections, one after the other. Then the spool comes to rest, and the history is judged as that of
`tests.chaos.kills`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from router.association.requestor import AssociationLostError, ConnectError
from router.flow import StoredFile
from router.forward.worker import BATCH
from router.spool.claims import LEASE
from tests import postgres
from tests.chaos import traffic
from tests.chaos.history import Crash, Sent, Verdict, judge, total
from tests.chaos.kills import ROWS, Life, as_rows, has_blob, quiet
from tests.peers import NodeUnderTest, descendants, listening, wait_for, without_model

KINDS = {"node": 5, "inference": 1, "worker": 1, "server": 2, "connections": 1, "stall": 3}
"""What fails, and how often: a process is killed; the server is stopped at once and started; its connections are
ended; it stalls."""
FAULTS_A_ROUND = 9
NODES = ("a", "b")
SENDERS = (6, 24)
"""The fewest and the most."""
MOST_BEFORE_A_FAULT = 500
"""Instances between two faults: anything from none."""
LONGEST_STALL, LONGEST_PAUSE = 70.0, 8.0
"""Seconds: longer than a lease; how long a killed node may stay away."""
ANSWER_WITHIN = 60.0
"""Seconds in which each C-STORE is answered whatever the database does: promised are 30, on a machine that is free."""
CLAIMED = len(NODES) * BATCH
"""Deliveries to one place that all nodes together hold."""
RESPONSE, START, TRAFFIC, LAST_ANSWER, REST = 200.0, 120.0, 180.0, 180.0, 300.0
"""Seconds: for an answer to a C-STORE, for a start, for traffic before a fault, for the senders' last answers, and
until the spool is at rest."""
STILL_OWED = """SELECT (SELECT count(*) FROM instance WHERE state = 'new')
    + (SELECT count(*) FROM delivery WHERE state = 'open')"""


class Sender(traffic.Sender):
    """Asks one of several nodes at a time; notes each answer, and the longest wait for one."""

    def __init__(self, ports: Sequence[int], folder: Path, seed: str, number: int) -> None:
        super().__init__(ports[0], folder, seed, number)
        self.answers: Counter[str] = Counter()
        self.longest_s = 0.0
        self._ports = ports

    def _until_acknowledged(self, one: Sent) -> Sent:
        while not one.acknowledged:
            if self._association is None:
                self._to = replace(self._to, port=self._random.choice(self._ports), response_timeout=RESPONSE)
            try:
                association = self._associated()
            except ConnectError:
                time.sleep(traffic.AGAIN_AFTER)
                continue
            one = replace(one, tries=one.tries + 1)
            began = time.monotonic()
            try:
                size = self._file.stat().st_size
                status = association.store(StoredFile(self._file, 0, size, traffic.SOP_CLASS, one.uid, traffic.SYNTAX))
            except AssociationLostError as error:
                self.answers[error.kind] += 1
                self._hang_up()
                continue
            self.answers[f"0x{status:04X}"] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            one = replace(one, acknowledged=status == 0)
            if status:
                time.sleep(traffic.AGAIN_AFTER)
        return one


@dataclass
class Round:
    """Two nodes, a server, and everything that happens to them."""

    database: str
    spool: Path
    lives: list[Life]
    sinks: traffic.Sinks
    senders: list[Sender]
    chance: random.Random
    lease: float
    longest_stall: float
    happened: Counter[str] = field(default_factory=Counter)
    crashes: list[Crash] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        return sum(len(sender.sent) for sender in self.senders)

    def fail(self, kind: str, traffic_before: int) -> None:
        """One fault, after some traffic; afterwards both nodes run, or begin to."""
        enough = self.acknowledged + self.chance.randint(0, traffic_before)
        wait_for(lambda: self.acknowledged >= enough, TRAFFIC, "traffic")
        self._begin_again()
        self.happened[kind] += 1
        began = time.monotonic()
        getattr(self, f"_fail_{kind}")()
        if kind in ("server", "connections", "stall"):
            # A holder renews its claims three times in each lease: then the last one knows what it has lost.
            self.crashes.append(Crash("server", began, until=time.monotonic() + self.lease / 3))
        self._begin_again()

    def _fail_node(self) -> None:
        process = self.chance.choice(self.lives).process
        assert process is not None
        process.kill()
        process.wait()
        self.crashes.append(Crash("node", time.monotonic()))
        time.sleep(self.chance.choice((0.0, 0.0, self.chance.uniform(0, min(LONGEST_PAUSE, self.longest_stall)))))

    def _fail_inference(self) -> None:
        self._kill_child("inference", "router.inference")

    def _fail_worker(self) -> None:
        self._kill_child("worker", "pixel worker")

    def _kill_child(self, what: str, name: str) -> None:
        """Of either node; a node that has just begun may have none yet."""
        found: list[int] = []

        def one_is_there() -> bool:
            found[:] = [pid for life in self.lives if life.process for pid in descendants(life.process.pid, name)]
            return bool(found)

        wait_for(one_is_there, START, f"a process of {name}")
        os.kill(self.chance.choice(found), signal.SIGKILL)
        self.crashes.append(Crash(what, time.monotonic()))

    def _fail_server(self) -> None:
        postgres.restart(self.database, self.chance.uniform(0, min(2.0, self.longest_stall)))

    def _fail_connections(self) -> None:
        """Those of the nodes, and whatever else the server has open on this database."""
        self.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname != ''"
        )

    def _fail_stall(self) -> None:
        """One second or more; short ones are as likely as long ones."""
        with postgres.stopped(self.database):
            time.sleep(self.longest_stall ** self.chance.random())

    def _begin_again(self) -> None:
        """A node that ended by itself, as one does that finds no database at its start, is started as by systemd."""
        for life in self.lives:
            if life.process is None or life.process.poll() is not None:
                if life.process and life.process.returncode != -signal.SIGKILL:
                    why = life.node.log.read_text(errors="replace").strip().rpartition("\n")[2].partition(" (")[0]
                    self.happened[f"ended by itself: {why[:80]}"] += 1
                    self.crashes.append(Crash("node", time.monotonic()))
                life.begin()

    def come_to_rest(self) -> None:
        """The senders get their last answers, and the nodes do what they still owe."""
        for sender in self.senders:
            sender.stop()
        deadline = time.monotonic() + LAST_ANSWER
        while any(sender.is_alive() for sender in self.senders) and time.monotonic() < deadline:
            self._begin_again()
            time.sleep(0.1)
        if alive := sum(sender.is_alive() for sender in self.senders):
            self.faults.append(f"{alive} senders got no answer")
        self._begin_again()
        for life in self.lives:
            wait_for(lambda life=life: listening(life.port), START, "all nodes to listen")  # type: ignore[misc]
        try:
            wait_for(lambda: self.ask(STILL_OWED)[0][0] == 0, REST, "the spool to come to rest")
        except AssertionError as error:
            self.faults.append(str(error))

    def ask(self, query: str) -> list[Any]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query).fetchall()

    def verdict(self) -> Verdict:
        """The history as that of the other campaigns, and what only this one can break."""
        kept = self.ask("SELECT id, \"offset\" + size FROM instance WHERE state != 'gone'")
        without = {which for which, size in kept if not has_blob(self.spool, which, size)}
        sent = [one for sender in self.senders for one in sender.sent]
        rows = as_rows(self.ask(ROWS))
        found = judge(sent, self.sinks.arrivals, self.crashes, rows, without, traffic.OTHERWISE, CLAIMED)
        return replace(found, faults=(*self.faults, *found.faults, *self._wrong_answers()))

    def _wrong_answers(self) -> Iterator[str]:
        """Nothing is wrong with what was sent, so a sender may hear 'try again' and nothing that makes it give up."""
        for status in sorted(self.answers):
            if status.startswith("0x") and status != "0x0000" and not status.startswith("0xA7"):
                yield f"{self.answers[status]} callers heard {status}, though nothing was wrong with what they sent"
        if self.longest_answer_s > ANSWER_WITHIN:
            yield f"a caller waited {self.longest_answer_s:.0f} s for an answer"

    @property
    def answers(self) -> Counter[str]:
        return sum((sender.answers for sender in self.senders), Counter())

    @property
    def longest_answer_s(self) -> float:
        return max(sender.longest_s for sender in self.senders)


@contextmanager
def begun(folder: Path, seed: str, database: str, *, lease: float, longest_stall: float) -> Iterator[Round]:
    """Two nodes that are up, with traffic on both."""
    chance = random.Random(seed)
    with traffic.Sinks() as sinks:
        environment = {
            "DICOM_ROUTER__SPOOL__DATABASE": database, "DICOM_ROUTER__SPOOL__PATH": str(folder / "spool"),
            "DICOM_ROUTER__SPOOL__KEEP": chance.choice(("1s", "24h")), "LEASE_SECONDS": str(lease),
        }  # fmt: skip
        environment |= without_model()
        extra = "model: {device: cpu, workers: 1}\n"
        nodes = [NodeUnderTest(folder / name, sinks.ports, rules=traffic.rules(), extra=extra) for name in NODES]
        lives = [Life(node, environment) for node in nodes]
        ports = [node.port for node in nodes]
        senders = [Sender(ports, folder, seed, number) for number in range(chance.randint(*SENDERS))]
        try:
            for life in lives:
                life.begin()
            for life in lives:
                life.wait_until_up()
            for sender in senders:
                sender.start()
            yield Round(database, folder / "spool", lives, sinks, senders, chance, lease, longest_stall)
        finally:
            for sender in senders:
                sender.stop()
            for life in lives:
                life.end()


def play(
    folder: Path, seed: str, database: str, kinds: Sequence[str], *, most: float = float("inf"), lease: float = LEASE,
    longest_stall: float = LONGEST_STALL, traffic_before: int = MOST_BEFORE_A_FAULT,
) -> tuple[Round, Verdict]:  # fmt: skip
    """A whole round: these faults, or fewer once `most` are acknowledged; then rest, a clean end, and the verdict."""
    with begun(folder, seed, database, lease=lease, longest_stall=longest_stall) as current:
        for kind in kinds:
            if current.acknowledged < most:
                current.fail(kind, traffic_before)
        current.come_to_rest()
    return current, current.verdict()


@dataclass(frozen=True)
class Result:
    """One line of rounds.jsonl."""

    number: int
    seed: str
    seconds: float
    happened: dict[str, int]
    answers: dict[str, int]
    longest_answer_s: float
    verdict: Verdict

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read(file: Path) -> list[Result]:
    """The results of earlier rounds; none where there is no file."""
    results = []
    for line in file.read_text().splitlines() if file.exists() else ():
        values = json.loads(line)
        verdict = values.pop("verdict")
        results.append(Result(**values, verdict=Verdict(**verdict | {"faults": tuple(verdict["faults"])})))
    return results


Play = Callable[[Path, str, float], tuple[Round, Verdict]]
"""Plays a round in a folder: its seed, and how many instances are enough."""


def campaign(
    out: Path, rounds: int, most: float, seed: int, say: Callable[[str], object], play_one: Play
) -> list[Result]:
    """Add so many rounds, or fewer once `most` instances are acknowledged; the results of all, earlier ones too."""
    out.mkdir(parents=True, exist_ok=True)
    results = read(out / "rounds.jsonl")
    left = most
    for _ in range(rounds):
        if left <= 0:
            break
        number = 1 + max((result.number for result in results), default=0)
        result = _result(out, number, f"{seed}:{number}", left, play_one)
        with (out / "rounds.jsonl").open("a") as file:
            file.write(result.line())
        results.append(result)
        left -= result.verdict.acknowledged
        numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.verdict.numbers().items())
        say(f"round {number}: {result.seconds:.0f} s, {numbers}")
        for fault in result.verdict.faults[:10]:
            say(f"  {fault}")
    return results


def _result(out: Path, number: int, seed: str, most: float, play_one: Play) -> Result:
    """Play one round in a temporary folder. The folder of one with faults is kept beside the results.

    A round that does not come to its end (no start, no traffic) counts nothing, and its one fault says why.
    """
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    happened: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    longest = 0.0
    try:
        played, verdict = play_one(folder, seed, most)
    except (AssertionError, RuntimeError, psycopg.Error, subprocess.SubprocessError) as error:
        verdict = Verdict(faults=(f"round {number} did not end: {error}",))
    else:
        happened, answers, longest = played.happened, played.answers, played.longest_answer_s
    if verdict.kept:
        shutil.rmtree(folder)
    else:
        shutil.move(folder, out / f"round-{number}")
    seconds = round(time.monotonic() - began, 1)
    return Result(number, seed, seconds, dict(happened), dict(answers), round(longest, 1), verdict)


def _two_nodes(folder: Path, seed: str, most: float) -> tuple[Round, Verdict]:
    kinds = random.Random(f"kinds {seed}").choices(list(KINDS), list(KINDS.values()), k=FAULTS_A_ROUND)
    with postgres.server(postgres.SYNCED) as new_database:
        database = new_database()
        played, verdict = play(folder, seed, database, kinds, most=most)
        if not verdict.kept:
            dump(database, folder)
    return played, verdict


def dump(database: str, folder: Path) -> None:
    """Keep the database of a round with faults beside its nodes."""
    with (folder / "database.sql").open("wb") as file:
        subprocess.run(["pg_dump", database], stdout=file, check=False)


def summary(results: Sequence[Result]) -> dict[str, object]:
    """All rounds as one: counts, what failed, what senders heard, seconds, faults."""
    whole = total(result.verdict for result in results)
    happened, answers = (
        sum((Counter(getattr(result, name)) for result in results), Counter()) for name in ("happened", "answers")
    )
    return {
        "rounds": len(results), **whole.numbers(), "happened": dict(happened.most_common()),
        "answers": dict(answers.most_common()),
        "longest_answer_s": max((result.longest_answer_s for result in results), default=0.0),
        "seconds": round(sum(result.seconds for result in results)), "faults": list(whole.faults),
    }  # fmt: skip


def main(about: str | None = __doc__, out: Path = Path("runs/chaos-postgresql"), play_one: Play = _two_nodes) -> None:
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="rounds to add; 0: only print the sum")
    parser.add_argument("--acknowledged", type=int, default=None, help="stop sending once so many are acknowledged")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    quiet()
    say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    most = arguments.acknowledged or float("inf")
    whole = summary(campaign(arguments.out, arguments.rounds, most, arguments.seed, say, play_one))
    for name, value in whole.items():
        print(f"{name.replace('_', ' '):28} {value}")
    sys.exit(1 if whole["faults"] else 0)


if __name__ == "__main__":
    main()
