"""Kill the node at every step between the first byte and the last delivery, and see whether anything was lost.

`python -m tests.chaos.kills --kills 100 --seed 1` adds rounds to what runs/kills/rounds.jsonl holds and prints the sum.
A round is one spool: senders and sinks live on in this process while the node, its inference process or a pixel worker
is killed again and again; then the spool is left to come to rest and the history is judged. A third of the kills come
at a random moment, some during the start, and the others are aimed: strace sends SIGKILL when the node is about to
make its n-th call of one kind, so that the gap before each step is met whatever its length.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from router.forward.together import MOST
from tests.acceptance.corpus import database, settled
from tests.chaos import traffic
from tests.chaos.history import DECIDED_WITHOUT_HEADER, Crash, SpoolRow, Verdict, judge, total
from tests.peers import NodeUnderTest, descendants, listening, wait_for, without_model

STEPS = (
    "recvfrom", "openat", "write", "fsync", "rename", "pwrite64", "fdatasync", "sendto", "sendfile", "unlink",
)  # fmt: skip
"""System calls of the node in the order of an instance: bytes come, a blob begins, grows, is synced and named, its row
is written and synced, the answer leaves; then a delivery leaves, and what is done is removed."""
KINDS = {"aimed": 9, "random": 5, "start": 1, "worker": 2, "inference": 1}
"""What is killed and how, and how often."""
WAYS = ("plain", "study", "stow", "results")
"""What is used besides: nothing; studies that stay together; a web server as one of the destinations; an AI as one of
them, which answers each image with a report."""
KILLS_A_ROUND = 9
MOST_BEFORE_A_KILL = 260
"""Instances between two kills: anything from none, so that a start with much to do is killed, too."""
START, REST, AIM, LAST_ANSWER = 120.0, 180.0, 4.0, 60.0
"""Seconds: to start, to come to rest, for an aimed kill to strike, for the senders' last answers."""

ROWS = """SELECT sop_instance, digest, state, coalesce(pixels, ''), coalesce(destinations, '[]'),
    (SELECT count(*) FROM delivery WHERE instance_id = instance.id AND delivery.state != 'done') FROM instance"""
"""What the spool says of each instance."""
WAITING = """SELECT sop_instance FROM delivery JOIN instance ON instance.id = instance_id
    WHERE destination = ? AND delivery.state = 'done' AND result_due IS NOT NULL"""
"""Images whose result the node waits for."""


@dataclass
class Life:
    """The node's present process, on a spool that outlives it."""

    node: NodeUnderTest
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """It is up when this port answers."""
        return self.node.port

    def begin(self) -> subprocess.Popen[bytes]:
        """Start a process; it is not up yet."""
        command = [sys.executable, "-m", "router", "serve", "--config", str(self.node.config)]
        with self.node.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.node.folder, env=os.environ | self.environment
            )
        return self.process

    def wait_until_up(self) -> None:
        process = self.process
        assert process is not None
        wait_for(lambda: listening(self.port) or process.poll() is not None, START, "the node to listen")
        if process.poll() is not None:
            raise RuntimeError("the node ended by itself:\n" + self.node.log.read_text(errors="replace")[-3000:])

    def end(self) -> None:
        """SIGTERM; SIGKILL where that does not do."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Round:
    """One spool and everything that happens to it."""

    life: Life
    sinks: traffic.Sinks
    senders: list[traffic.Sender]
    chance: random.Random
    aims: Iterator[str]
    answerer: traffic.Answerer | None = None
    crashes: list[Crash] = field(default_factory=list)
    without_blob: set[str] = field(default_factory=set)

    def kill(self, kind: str) -> None:
        """One kill, after some traffic; afterwards the node is up again."""
        enough = self._acknowledged() + self.chance.randint(0, MOST_BEFORE_A_KILL)
        wait_for(lambda: self._acknowledged() >= enough, START, "traffic")
        getattr(self, f"_kill_{kind}")()

    def _acknowledged(self) -> int:
        return sum(len(sender.sent) for sender in self.senders)

    def _kill_aimed(self) -> None:
        """Before the n-th call of one kind by some thread; at once where none comes."""
        process, call = self._process(), next(self.aims)
        when = self.chance.randint(1, 6)
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
        strace = subprocess.Popen(
            ["strace", "-f", "-q", "-o", "/dev/null", *inject, "-p", str(process.pid)], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(AIM)
        except subprocess.TimeoutExpired:
            process.kill()
            call = ""
        self._died("node", call)
        strace.wait()

    def _kill_random(self) -> None:
        time.sleep(self.chance.uniform(0.0, 0.5))
        self._process().kill()
        self._died("node")

    def _kill_start(self) -> None:
        """Killed, and again while it starts, or soon after: what it delivers in between can be a copy, too."""
        self._process().kill()
        self._process().wait()
        self._look_at_dead_spool()
        self.crashes.append(Crash("node", time.monotonic()))
        self.life.begin()
        time.sleep(self.chance.uniform(0.5, 4.0))
        self._process().kill()
        self._died("node", "start")

    def _kill_worker(self) -> None:
        self._kill_child("worker", "pixel worker")

    def _kill_inference(self) -> None:
        self._kill_child("inference", "router.inference")

    def _kill_child(self, what: str, name: str) -> None:
        time.sleep(self.chance.uniform(0.0, 0.3))
        found = descendants(self._process().pid, name)
        if found:
            os.kill(self.chance.choice(found), signal.SIGKILL)
            self.crashes.append(Crash(what, time.monotonic()))

    def _died(self, what: str, aimed_at: str = "") -> None:
        """Look at what it left, and begin its next life."""
        self._process().wait()
        self._look_at_dead_spool()
        self.crashes.append(Crash(what, time.monotonic(), aimed_at))
        self.life.begin()
        self.life.wait_until_up()

    def _look_at_dead_spool(self) -> None:
        self.without_blob |= rows_without_blob(self.life.node.folder / "spool")

    def _process(self) -> subprocess.Popen[bytes]:
        assert self.life.process is not None
        return self.life.process

    def come_to_rest(self) -> None:
        """The senders get their last answers, and the node does what it still owes."""
        for sender in self.senders:
            sender.stop()
        for sender in self.senders:
            _join(sender, LAST_ANSWER)
        wait_for(lambda: settled(self.life.node, 0) and self._all_follow(), REST, "the spool to come to rest")
        wait_for(lambda: settled(self.life.node, 0), REST, "what followed last to arrive")
        if self.answerer is not None:
            self.answerer.stop()
            _join(self.answerer, REST)
            wait_for(lambda: settled(self.life.node, 0), REST, "the reports to arrive")

    def _all_follow(self) -> bool:
        """Whether every study has been gone through."""
        with database(self.life.node) as connection:
            behind = connection.execute("SELECT count(*) FROM study_destination WHERE cursor IS NOT NULL").fetchone()
        return not behind[0]

    def verdict(self) -> Verdict:
        answers = self.answerer.sent if self.answerer is not None else []
        sent = [one for sender in self.senders for one in sender.sent] + answers
        rows = spool_rows(self.life.node)
        together = {traffic.WEB: MOST} if self.sinks.web else {}
        found = judge(
            sent, self.sinks.arrivals, self.crashes, rows, self.without_blob, traffic.OTHERWISE, 1, together
        )  # fmt: skip
        return replace(found, faults=found.faults + tuple(self._unanswered()))

    def _unanswered(self) -> Iterator[str]:
        """Images whose report came and that the node still waits for: the match got lost."""
        if self.answerer is None:
            return
        blind = {row.uid for row in spool_rows(self.life.node) if row.pixels in DECIDED_WITHOUT_HEADER}
        reports = {image: report.uid for image, report in self.answerer.answered.items()}
        with database(self.life.node) as connection:
            waiting = {uid for (uid,) in connection.execute(WAITING, (traffic.AI,))}
        for image in sorted(waiting):
            if image not in reports:
                yield f"no answer: {image} never arrived at the AI"
            elif reports[image] not in blind:
                yield f"no match: {image} still waits for its report"


def rows_without_blob(spool: Path) -> set[str]:
    """Ids of rows whose blob is not there whole. Read only: what a crash left stays as it is."""
    if not (spool / "node.db").exists():
        return set()
    with closing(sqlite3.connect(f"file:{spool / 'node.db'}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT id, offset + size FROM instance WHERE state != 'gone'").fetchall()
    return {row_id for row_id, size in rows if not has_blob(spool, row_id, size)}


def has_blob(spool: Path, row_id: str, size: int) -> bool:
    try:
        return (spool / "blobs" / row_id[-2:] / f"{row_id}.dcm").stat().st_size == size
    except FileNotFoundError:
        return False


def spool_rows(node: NodeUnderTest) -> list[SpoolRow]:
    with database(node) as connection:
        return as_rows(connection.execute(ROWS))


def as_rows(answer: Iterable[Sequence[Any]]) -> list[SpoolRow]:
    """What the database, of either kind, answers to ROWS."""
    return [
        SpoolRow(uid, digest, state, pixels, frozenset(json.loads(destinations)), waiting)
        for uid, digest, state, pixels, destinations, waiting in answer
    ]


@contextmanager
def one_round(
    folder: Path, seed: str, *, model: str = "stub", keep: str = "24h", dropping: str = "",
    aims: Sequence[str] = STEPS, way: str = "plain",
) -> Iterator[Round]:  # fmt: skip
    """A node that is up, with traffic on it. `model`: stub (costs nothing) or real; `keep`: spool.keep; `way`: of WAYS.

    `dropping` names a place whose sink loses what it takes, for a test of the judge.
    """
    chance = random.Random(seed)
    steps = list(aims)
    chance.shuffle(steps)
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    with traffic.Sinks(dropping, web=way == "stow", asked=asked.put if way == "results" else None) as sinks:
        extra = "model: {device: cpu, workers: 1}\n"
        rules = traffic.rules(studies=way == "study", results=way == "results")
        node = NodeUnderTest(folder / "node", sinks.ports, rules=rules, extra=extra)
        if sinks.web is not None:
            was = f"{{ae_title: {traffic.WEB.upper()}, host: 127.0.0.1, port: {sinks.web.port}}}"
            _exchange(node.config, was, f"{{stow: {sinks.web.url}}}")
        answerer = None
        if way == "results":
            port = f"port: {sinks.ports[traffic.AI]}"
            _exchange(node.config, port, f"{port}, expect_result: 1h")
            answerer = traffic.Answerer(node.port, folder, seed, asked)
        environment = {"DICOM_ROUTER__SPOOL__KEEP": keep}
        if model == "stub":
            environment |= without_model()
        life = Life(node, environment)
        senders = [
            traffic.Sender(node.port, folder, seed, number, studies=way == "study")
            for number in range(chance.randint(4, 7))
        ]
        try:
            life.begin()
            life.wait_until_up()
            for sender in senders:
                sender.start()
            if answerer is not None:
                answerer.start()
            yield Round(life, sinks, senders, chance, _for_ever(steps), answerer)
        finally:
            for sender in senders:
                sender.stop()
            if answerer is not None:
                answerer.stop()
            life.end()


def _exchange(config: Path, was: str, becomes: str) -> None:
    text = config.read_text()
    assert was in text
    config.write_text(text.replace(was, becomes))


def _join(sender: traffic.Sender, seconds: float) -> None:
    sender.join(seconds)
    if sender.is_alive():
        raise RuntimeError(f"{sender.name} got no answer")


def _for_ever(steps: Sequence[str]) -> Iterator[str]:
    while True:
        yield from steps


def play(
    folder: Path, seed: str, kinds: Sequence[str], *, model: str = "stub", dropping: str = "", way: str = "plain"
) -> Round:
    """A whole round: these kills, then rest, then a clean end. Its `verdict` can be asked for afterwards."""
    # A blob that is gone follows nothing, and the judge does not know when one goes.
    keep = "1s" if way != "study" and random.Random(seed).random() < 0.5 else "24h"
    with one_round(folder, seed, model=model, keep=keep, dropping=dropping, way=way) as current:
        for kind in kinds:
            current.kill(kind)
        current.come_to_rest()
    current.without_blob |= rows_without_blob(folder / "node" / "spool")
    return current


@dataclass(frozen=True)
class Result:
    """One line of rounds.jsonl."""

    number: int
    seed: str
    model: str
    seconds: float
    aims: dict[str, int]
    verdict: Verdict
    way: str = "plain"
    requests: dict[str, int] = field(default_factory=dict)
    """Of the web server: how many had so many instances."""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read(file: Path) -> list[Result]:
    """The results of earlier rounds; none where there is no file."""
    if not file.exists():
        return []
    results = []
    for line in file.read_text().splitlines():
        values = json.loads(line)
        verdict = values.pop("verdict")
        results.append(Result(**values, verdict=Verdict(**verdict | {"faults": tuple(verdict["faults"])})))
    return results


def campaign(
    out: Path, kills: int, seed: int, model: str, say: Callable[[str], object], way: str = "plain"
) -> list[Result]:
    """Add rounds until so many more kills are done; the results of all rounds, earlier ones too."""
    out.mkdir(parents=True, exist_ok=True)
    results = read(out / "rounds.jsonl")
    left = kills
    while left > 0:
        number = 1 + max((result.number for result in results), default=0)
        result = _result(out, number, f"{seed}:{number}", min(left, KILLS_A_ROUND), model, way)
        with (out / "rounds.jsonl").open("a") as file:
            file.write(result.line())
        results.append(result)
        left -= max(1, result.verdict.kills)
        say(f"round {number}: {result.seconds:.0f} s, {_numbers(result.verdict)}")
        for fault in result.verdict.faults[:10]:
            say(f"  {fault}")
    return results


def _result(out: Path, number: int, seed: str, kills: int, model: str, way: str) -> Result:
    """Play one round in a temporary folder; the folder of one with faults is kept beside the results.

    A round that does not come to its end (no start, no answer, no rest) counts no kills, and its one fault says why.
    """
    chance = random.Random(f"kinds {seed}")
    kinds = chance.choices(list(KINDS), list(KINDS.values()), k=kills)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    aims: Counter[str] = Counter()
    requests: dict[str, int] = {}
    try:
        played = play(folder, seed, kinds, model=model, way=way)
    except (AssertionError, RuntimeError) as error:
        verdict = Verdict(faults=(f"round {number} did not end: {error}",))
    else:
        verdict = played.verdict()
        requests = {str(of): count for of, count in sorted(played.sinks.requests.items())}
        for crash in played.crashes:
            aims[crash.aimed_at or "random" if crash.what == "node" else crash.what] += 1
    if verdict.kept:
        shutil.rmtree(folder)
    else:
        shutil.move(folder, out / f"round-{number}")
    seconds = round(time.monotonic() - began, 1)
    return Result(number, seed, model, seconds, dict(aims), verdict, way, requests)


def _numbers(verdict: Verdict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in verdict.numbers().items())


def summary(results: Sequence[Result]) -> dict[str, object]:
    """All rounds as one: counts, kills by model and by what was met, seconds, faults."""
    whole = total(result.verdict for result in results)
    met: Counter[str] = Counter()
    models: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    requests: Counter[str] = Counter()
    for result in results:
        met.update(result.aims)
        ways[result.way] += result.verdict.kills
        requests.update(result.requests)
        models[result.model] += result.verdict.kills
    return {
        "rounds": len(results), **whole.numbers(), "kills_by_model": dict(models),
        "kills_by_way": dict(ways), "web_requests_with_so_many": dict(requests),
        "kills_before": dict(met.most_common()), "seconds": round(sum(result.seconds for result in results)),
        "faults": list(whole.faults),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills to add; 0: only print the sum")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", choices=("stub", "real"), default="stub")
    parser.add_argument("--way", choices=WAYS, default="plain")
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--json", action="store_true", help="the sum as JSON")
    arguments = parser.parse_args()
    quiet()
    say: Callable[[str], object] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    whole = summary(campaign(arguments.out, arguments.kills, arguments.seed, arguments.model, say, arguments.way))
    if arguments.json:
        print(json.dumps(whole, indent=1))
    else:
        for name, value in whole.items():
            print(f"{name.replace('_', ' '):28} {value}")
    sys.exit(1 if whole["faults"] else 0)


def quiet() -> None:
    """The sinks' associations are not worth a line each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))


if __name__ == "__main__":
    main()
