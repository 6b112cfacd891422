"""Nine nodes in three roles on one PostgreSQL server with a standby and one object store: is anything lost?

`python -m tests.chaos.cluster --rounds 10 --seed 1` adds rounds to what runs/chaos-cluster/rounds.jsonl holds and
prints the sum. Three nodes receive, three classify, three forward. Each has its own folder. They meet only in the
database and the store. Nodes are killed, or frozen for longer than a claim lasts and then go on. The server restarts,
stalls, ends its connections, and once in a round dies for good: its standby takes over. The store says nothing, or
answers 503, or hangs up. Then all comes to rest, and the history is judged as that of `tests.chaos.postgresql`.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import boto3

from router.config.settings import ObjectStore
from router.forward.worker import BATCH
from router.spool.remote_blobs import key_of
from tests import object_stores, postgres
from tests.chaos import postgresql, traffic
from tests.chaos.history import Crash, Verdict, judge
from tests.chaos.kills import ROWS, Life, as_rows
from tests.object_stores import Line
from tests.peers import NodeUnderTest, without_model

COUNTS = {"receive": 3, "classify": 3, "forward": 3}
KINDS = {
    "receive": 2, "classify": 2, "forward": 2, "freeze": 4, "inference": 1, "worker": 1, "server": 1, "connections": 1,
    "stall": 2, "store": 4,
}  # fmt: skip
"""What fails, and how often: a node of a role is killed; one is frozen; see `tests.chaos.postgresql`; the store."""
FAULTS_A_ROUND = 12
STORE_FAULTS = (object_stores.silent, object_stores.overloaded, object_stores.hangs_up)
STORES = {"rclone": object_stores.rclone, "moto": object_stores.moto}
LEASE = 12.0
"""Seconds that a claim lasts here."""
LONGEST_STALL = 25.0
"""Seconds: two leases."""
CLAIMED = COUNTS["forward"] * BATCH


class Member(Life):
    """A node of one role."""

    @property
    def port(self) -> int:
        return self.node.port if self.receives else self.node.web_port

    @property
    def receives(self) -> bool:
        return self.node.folder.name.startswith("receive")


@dataclass
class Round(postgresql.Round):
    """The nodes, the server and its standby, the store, and everything that happens to them."""

    line: Line | None = None
    bucket: ObjectStore | None = None
    standby: postgres.Standby | None = None
    first: str = ""
    """The URL of the database on the first server alone."""

    def of(self, role: str) -> list[Life]:
        return [life for life in self.lives if life.node.folder.name.startswith(role)]

    def _kill(self, role: str) -> None:
        process = self.chance.choice(self.of(role)).process
        assert process is not None
        process.kill()
        process.wait()
        self.crashes.append(Crash("node", time.monotonic()))

    def _fail_receive(self) -> None:
        self._kill("receive")

    def _fail_classify(self) -> None:
        self._kill("classify")

    def _fail_forward(self) -> None:
        self._kill("forward")

    def _fail_freeze(self) -> None:
        """A node does nothing for longer than its claims last, and then goes on as if nothing had been."""
        process = self.chance.choice(self.lives).process
        assert process is not None
        began = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 1.0) * self.longest_stall)
        process.send_signal(signal.SIGCONT)
        self.crashes.append(Crash("server", began, until=time.monotonic() + self.lease))

    def _fail_server(self) -> None:
        if not self.failed_over:  # afterwards the server has nothing to come back from
            postgres.restart(self.first, self.chance.uniform(0, 2.0))
        else:
            self._fail_connections()

    def _fail_stall(self) -> None:
        with postgres.stopped(self.database):
            time.sleep(self.longest_stall ** self.chance.random())

    def _fail_failover(self) -> None:
        """The server dies, and is not seen again."""
        assert self.standby is not None
        began = time.monotonic()
        postgres.end(self.first)
        time.sleep(self.chance.uniform(0, 3.0))
        self.standby.promote()
        self.crashes.append(Crash("server", began, until=time.monotonic() + self.lease))

    def _fail_store(self) -> None:
        assert self.line is not None
        fault = self.chance.choice(STORE_FAULTS)
        self.happened[f"the store: {fault.__name__}"] += 1
        self.line.become(fault)
        time.sleep(self.longest_stall ** self.chance.random())
        self.line.become(None)

    @property
    def failed_over(self) -> bool:
        return self.happened["failover"] > 0

    def verdict(self) -> Verdict:
        assert self.bucket is not None
        there = dict(objects(self.bucket))
        kept = self.ask("SELECT id, \"offset\" + size FROM instance WHERE state != 'gone'")
        without = {which for which, size in kept if there.get(key_of(which)) != size}
        sent = [one for sender in self.senders for one in sender.sent]
        rows = as_rows(self.ask(ROWS))
        found = judge(sent, self.sinks.arrivals, self.crashes, rows, without, traffic.OTHERWISE, CLAIMED)
        return replace(found, faults=(*self.faults, *found.faults, *self._wrong_answers()))


def objects(bucket: ObjectStore) -> Iterator[tuple[str, int]]:
    """Key and size of what lies in the bucket, asked by a client that is not the product's."""
    client = boto3.client(
        "s3", endpoint_url=bucket.endpoint, region_name=bucket.region, aws_access_key_id=object_stores.KEY,
        aws_secret_access_key=object_stores.SECRET,
    )  # fmt: skip
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.bucket, Prefix=f"{bucket.prefix}/"):
        for one in page.get("Contents", ()):
            yield one["Key"].removeprefix(f"{bucket.prefix}/"), one["Size"]


@contextmanager
def begun(
    folder: Path, seed: str, database: str, *, store: str, lease: float, longest_stall: float, synchronous: bool = True
) -> Iterator[Round]:
    """All nodes are up, with traffic on those that receive."""
    chance = random.Random(seed)
    (folder / "store").mkdir(parents=True)
    with ExitStack() as stack:
        sinks = stack.enter_context(traffic.Sinks())
        server = stack.enter_context(STORES[store](folder / "store"))
        line = stack.enter_context(Line(server.port))
        bucket = server.bucket()
        standby = stack.enter_context(postgres.standby(database, synchronous=synchronous))
        environment = {
            "DICOM_ROUTER__SPOOL__DATABASE": standby.both, "LEASE_SECONDS": str(lease),
            "DICOM_ROUTER__SPOOL__BLOBS": object_stores.url(line.through(bucket)),
            "DICOM_ROUTER__SPOOL__KEEP": chance.choice(("1s", "24h")),
        } | without_model()  # fmt: skip
        extra = "model: {device: cpu, workers: 1}\n"
        lives: list[Life] = []
        for role, count in COUNTS.items():
            for number in range(count):
                node = NodeUnderTest(folder / f"{role}-{number}", sinks.ports, rules=traffic.rules(), extra=extra)
                lives.append(Member(node, environment | {"DICOM_ROUTER__NODE__ROLES": role}))
        ports = [life.node.port for life in lives if isinstance(life, Member) and life.receives]
        senders = [postgresql.Sender(ports, folder, seed, number) for number in range(chance.randint(6, 18))]
        try:
            for life in lives:
                life.begin()
            for life in lives:
                life.wait_until_up()
            for sender in senders:
                sender.start()
            yield Round(
                standby.both, folder, lives, sinks, senders, chance, lease, longest_stall, line=line, bucket=bucket,
                standby=standby, first=database,
            )  # fmt: skip
        finally:
            for sender in senders:
                sender.stop()
            for life in lives:
                if life.process:
                    life.process.send_signal(signal.SIGCONT)
                life.end()


def play(
    folder: Path, seed: str, database: str, kinds: Sequence[str], *, store: str, most: float = float("inf"),
    lease: float = LEASE, longest_stall: float = LONGEST_STALL, traffic_before: int = postgresql.MOST_BEFORE_A_FAULT,
) -> tuple[Round, Verdict]:  # fmt: skip
    """A whole round: these faults, or fewer once `most` are acknowledged; then rest, and the verdict."""
    with begun(folder, seed, database, store=store, lease=lease, longest_stall=longest_stall) as current:
        for kind in kinds:
            if current.acknowledged < most:
                current.fail(kind, traffic_before)
        current.come_to_rest()
        found = current.verdict()
        if not found.kept:
            postgresql.dump(current.database, folder)
    return current, found


def kinds_of(seed: str) -> list[str]:
    """The faults of a round: by chance, and one failover at a chance place."""
    chance = random.Random(f"kinds {seed}")
    kinds = chance.choices(list(KINDS), list(KINDS.values()), k=FAULTS_A_ROUND)
    kinds.insert(chance.randrange(len(kinds) + 1), "failover")
    return kinds


def _play_one(folder: Path, seed: str, most: float) -> tuple[Round, Verdict]:
    """The two stores take turns by chance."""
    store = random.Random(f"store {seed}").choice(list(STORES))
    with postgres.server(postgres.SYNCED) as new_database:
        return play(folder, seed, new_database(), kinds_of(seed), store=store, most=most)


if __name__ == "__main__":
    postgresql.main(__doc__, Path("runs/chaos-cluster"), _play_one)
