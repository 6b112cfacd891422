"""From what one instance costs to what a rate needs, and how queues behave: docs/capacity.md, no figure typed by hand.

    python -m benchmarks.capacity_model

Every measured constant is read from benchmarks/results. What is assumed stands in `Assumed` and is said on the page.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster import ROLES
from benchmarks.measure import percentile
from benchmarks.summary import machine as about
from router.spool.postgresql import MOST

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "capacity.md"
RATES = (1, 10, 100, 1000)
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LINES = ("to the receiver", "to the sink", "store", "to the database")
LANES = 2
"""Destinations in the simulated outage: the busiest one, and all others as one."""


@dataclass(frozen=True)
class Assumed:
    """What no measurement here says."""

    load: float = 0.7
    """Share of its time that a replica works at the rate it is planned for."""
    least: int = 2
    """Replicas of a role, so that one may end."""
    line: float = 10e9 / 8
    """Bytes a second of one network card."""
    busiest: float = 0.5
    """Share of all instances that go to the busiest destination."""
    outage: float = 6 * 3600.0
    drain: float = 3600.0
    """Seconds in which its backlog shall be gone."""


ASSUMED = Assumed()
SIMULATED = 100
"""DX a second for which the queues are simulated."""
SIMULATED_OUTAGE = 10
"""The largest rate for which the outage is simulated; beyond it the rule is enough, and the program would be slow."""
HEAD = f"""# Capacity

How many replicas, cores and gigabytes a rate needs, what is used up first, and what happens after an outage.
`python -m benchmarks.capacity_model` writes this page from `benchmarks/results/capacity.json`, `replicas.json` and
`backlog.json`. No figure is typed by hand. Every cost is measured. What is assumed:

- A replica is one core, and works for {100 * ASSUMED.load:.0f} % of its time.
- A role has at least {ASSUMED.least} replicas, so that one may end.
- A network card moves {ASSUMED.line * 8 / 1e9:.0f} Gbit/s.
- {100 * ASSUMED.busiest:.0f} % of all instances go to the busiest destination.
- It is down for {ASSUMED.outage / 3600:.0f} hours.

Processor time changes less than rates with what else a machine does. A model that is slower or faster than the shipped
one changes the costs of `classify`. A larger processor changes all of them alike. Multiply the columns of cores and
memory by what your provider asks for a core and a gigabyte.
"""
COSTS = """Eight associations at once send to one node of each role. Each has its own folder. The classifier and the
forwarder read each object from the store, as on machines of their own. The store is rclone, which writes files and does
not sync them; another store has other costs. Expiry is not counted: it deletes an object for each instance, later.
"""
NEEDS = """Cores are those of all roles, of PostgreSQL and of the store. Disk is what the images of one day take: with
`spool.keep` of 24 hours so much is kept. Connections are the most that all nodes open at PostgreSQL, whose
`max_connections` must allow them: a server that holds thousands has not been measured here.
"""
LIMITS = """Roles get more replicas. These things do not, or only with work. Of {rate:,} DX a second this is used up
first: {first}. The server here made {alone:,.0f} synced commits a second for one client, and {many:,.0f} for
{clients}, which share syncs. It wrote {wal:,.0f} MB of its log a second for one client. The disk was shared with other
work; one with a protected cache syncs far more often. Instances that come one by one cost {syncs_alone:.1f} syncs each,
and {syncs:.1f} when eight come at once, because a node writes all that waits in one commit. So the truth lies between
the row on syncs and the row on commits. Several servers of an object store, and several balancers, move their rows. A
larger PostgreSQL server moves its own: it uses as many cores as there are connections that work.
"""
QUEUES = f"""Simulated, not measured: {SIMULATED} DX a second decide the number of replicas, and the load is set by the
rate. Arrivals and service times vary by chance (exponentially) around the measured means, which is more than X-rays of
one kind vary. So the queues are on the careful side. Waits for commits, disks and networks are not in it.
"""
OUTAGE = f"""The rule: backlog ÷ (what the forwarders can − what comes). The simulation lets servers take from each
destination in turn, as the node does, so the backlog does not hold up the others. Forwarders that are planned for
{100 * ASSUMED.load:.0f} % drain slowly, because little of them is free. To be done within the hour, start more of them
meanwhile. The destination has to take that rate too: over one association (`associations: 1`) it is limited by its own
answers.
"""
REPLICAS = """One role has so many replicas, the others two. Sender, sink, database and twelve nodes share two cores, so
rates cannot grow with the number of nodes here. What the rows show: how much of the rate is left when more nodes share
the same cores and the same database, and what an instance costs then. The last two rows are one node with all roles, on
SQLite and on PostgreSQL, with the same images: × is the rate against SQLite in the same round.
"""


@dataclass(frozen=True)
class Costs:
    """Of one instance, all measured."""

    cpu: dict[str, float]
    """Processor seconds by role; also of PostgreSQL and of the store."""
    syncs: float
    """Of PostgreSQL's write-ahead log: a commit that several share is one."""
    syncs_alone: float
    """The same while instances come one by one, so that hardly any share a commit."""
    transactions: float
    wal: float
    """Bytes."""
    sent: dict[str, float]
    """Bytes by line."""
    requests: float


@dataclass(frozen=True)
class Machine:
    """What the machine of the measurements does, and what a replica is."""

    commits: float
    """Synced commits a second, of many clients."""
    clients: str
    """How many."""
    commits_alone: float
    """Of one client: each has a sync of its own."""
    wal: float
    """Synced bytes a second."""
    idle: dict[str, float]
    """Share of a core that a replica takes without traffic."""
    memory: dict[str, float]
    """Bytes of a replica."""


Table = dict[str, dict[str, Any]]


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def costs(table: Table, kind: str) -> Costs:
    busy, alone = (table[f"{kind}, object store, {how}"] for how in ("8 at once", "one by one"))

    def of(row: dict[str, Any], name: str) -> float:
        return max(0.0, float(row[name]["median"]))

    return Costs(
        {name: of(busy, f"{name}, CPU ms") / 1000 for name in (*ROLES, "PostgreSQL", "store")},
        of(busy, "WAL syncs"), of(alone, "WAL syncs"), of(busy, "transactions"), 1000 * of(busy, "WAL kB"),
        {line: 1000 * of(busy, f"{line}, kB") for line in LINES},
        of(busy, "object requests"),
    )  # fmt: skip


def machine(table: Table) -> Machine:
    clients = {int(name.split()[0]): value["median"] for name, value in table["synced commits/s"].items()}
    idle = table["a second without traffic"]
    return Machine(
        clients[max(clients)], f"{max(clients)} clients", clients[min(clients)],
        1e6 * table["synced WAL"]["MB/s"]["median"],
        {role: max(0.0, idle[f"{role}, CPU ms"]["median"]) / 1000 for role in ROLES},
        {role: 1e6 * table["memory"][f"{role}, MB"]["median"] for role in ROLES},
    )  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a rate needs."""

    rate: float
    replicas: dict[str, int]
    cores: float
    """Of all roles, PostgreSQL and the store, at the planned load."""
    memory: float
    """Bytes of all roles."""


def replicas(rate: float, seconds: float, idle: float) -> int:
    """A replica is one core. Planned for a load below 1, and never fewer than the least."""
    return max(ASSUMED.least, math.ceil(rate * seconds / (ASSUMED.load - idle)))


def need(rate: float, each: Costs, here: Machine) -> Need:
    counts = {role: replicas(rate, each.cpu[role], here.idle[role]) for role in ROLES}
    shared = rate * (each.cpu["PostgreSQL"] + each.cpu["store"]) / ASSUMED.load
    return Need(
        rate, counts, sum(counts.values()) + shared, sum(here.memory[role] * counts[role] for role in ROLES)
    )  # fmt: skip


def limits(each: Costs, here: Machine) -> list[tuple[str, float]]:
    """What there is only one of, with the rate at which it is used up; the first one first."""
    found = {
        "syncs of the database's disk, each for one commit": here.commits_alone / each.syncs,
        "commits that share syncs, as of many clients": here.commits / each.syncs_alone,
        "WAL that is written and synced": here.wal / each.wal,
        "PostgreSQL on one core": 1 / each.cpu["PostgreSQL"],
        "object store on one core": 1 / each.cpu["store"],
        "network card of the object store": ASSUMED.line / each.sent["store"],
        "network card of the database": ASSUMED.line / each.sent["to the database"],
        "network card of one balancer": ASSUMED.line / each.sent["to the receiver"],
    }
    return sorted(found.items(), key=lambda one: one[1])


def station(arrivals: Sequence[float], services: Sequence[float], servers: int) -> tuple[list[float], float]:
    """Servers that take the first that came: when each leaves, and the mean number that wait."""
    free, leaves, waited = [0.0] * servers, [], 0.0
    for at, service in zip(arrivals, services, strict=True):
        begins = max(at, heapq.heappop(free))
        waited += begins - at
        leaves.append(begins + service)
        heapq.heappush(free, begins + service)
    return leaves, waited / (arrivals[-1] - arrivals[0])


def at_load(load: float, each: Costs, counts: dict[str, int], count: int = 20_000) -> tuple[dict[str, float], float]:
    """(mean queue of each role, p95 seconds from the first to the last role), if the busiest role has this load.

    Arrivals by chance (Poisson), service times by chance around the measured mean (exponential): both vary more than
    X-rays of one kind do, so the queues are longer than they will be.
    """
    chance = random.Random(1)
    rate = load * min(counts[role] / each.cpu[role] for role in ROLES)
    at, came = 0.0, []
    for _ in range(count):
        at += chance.expovariate(rate)
        came.append(at)
    order, now, queues = list(range(count)), list(came), {}
    for role in ROLES:
        arrivals = sorted(now)
        order = [order[n] for n in sorted(range(count), key=now.__getitem__)]
        services = [chance.expovariate(1 / each.cpu[role]) for _ in range(count)]
        now, queues[role] = station(arrivals, services, counts[role])
    times = [left - came[n] for n, left in zip(order, now, strict=True)]
    return queues, percentile(times[count // 10 :], 0.95)


def drain_time(rate: float, servers: int, seconds: float) -> float:
    """Seconds until the backlog of the outage is gone, by rule: backlog ÷ (what the forwarders can ÷ what comes)."""
    spare = servers / seconds - rate
    return rate * ASSUMED.busiest * ASSUMED.outage / spare if spare > 0 else math.inf


def drain(rate: float, servers: int, seconds: float) -> tuple[float, float]:
    """The same simulated: (seconds, p95 seconds of instances for other destinations meanwhile).

    Each destination has a lane, and servers take from the lanes in turn.
    """
    chance = random.Random(2)
    owed = round(rate * ASSUMED.busiest * ASSUMED.outage)
    lanes: list[list[float]] = [[0.0] * owed, []]
    heads, free, turn, waits = [0] * LANES, [0.0] * servers, 0, []
    arrives = chance.expovariate(rate)
    while heads[0] < len(lanes[0]):
        now = heapq.heappop(free)
        while arrives <= now:
            lanes[int(chance.random() >= ASSUMED.busiest)].append(arrives)
            arrives += chance.expovariate(rate)
        turn = 1 - turn
        lane = turn if heads[turn] < len(lanes[turn]) else 1 - turn
        came, done = lanes[lane][heads[lane]], now + chance.expovariate(1 / seconds)
        heads[lane] += 1
        if lane == 1:
            waits.append(done - came)
        heapq.heappush(free, done)
    return now, percentile(waits, 0.95) if waits else 0.0


def page(records: dict[str, dict[str, Any]]) -> str:
    """docs/capacity.md."""
    table = records["capacity"]["results"]
    here = machine(table)
    kinds = {"DX of 10 MB": costs(table, "DX"), "image of 0.5 MB": costs(table, "small")}
    each = kinds["DX of 10 MB"]
    parts = [
        HEAD,
        _measured(records["capacity"]),
        rounds(table),
        "## What one instance costs\n", costs_table(kinds), prose(COSTS),
        f"Without any instance a replica takes {_list(here.idle, 1000, ' ms')} of processor time a second.\n",
        "## What a rate needs\n", needs_table(each, here), prose(NEEDS),
        "## What is used up first\n", limits_table(kinds, here),
        prose(LIMITS.format(
            alone=here.commits_alone, many=here.commits, wal=here.wal / 1e6, syncs_alone=each.syncs_alone,
            syncs=each.syncs, clients=here.clients, rate=RATES[-1], first=limits(each, here)[0][0],
        )),
        "## Queues\n", queues_table(each, here), prose(QUEUES),
        "## After an outage of six hours\n", outage_table(each, here), prose(OUTAGE),
    ]  # fmt: skip
    parts += ["### Measured on one node\n", backlog(records["backlog"])]
    parts += ["## Replicas, measured\n", stage_rows(records["replicas"]), prose(REPLICAS)]
    return "\n".join(parts)


def rounds(table: Table) -> str:
    """How often each cost was measured."""
    counts = [value["n"] for name, row in table.items() if "object store" in name for value in row.values()]
    return prose(f"Each cost is the median of {min(counts)} to {max(counts)} rounds.")


def prose(text: str) -> str:
    """One paragraph of lines as they are usual here."""
    return textwrap.fill(" ".join(text.split()), 120) + "\n"


def rows(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    cells = [list(head), ["---"] * len(head), *[list(map(str, line)) for line in lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def figure(value: float) -> str:
    """Three digits."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "never"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{min(digits, 3)}f}"


def costs_table(kinds: dict[str, Costs]) -> str:
    lines: list[list[object]] = [
        [f"{name}, CPU ms", *(figure(1000 * one.cpu[name]) for one in kinds.values())]
        for name in (*ROLES, "PostgreSQL", "store")
    ]
    lines.append(["transactions, also those that only read", *(figure(one.transactions) for one in kinds.values())])
    lines.append(["syncs of the write-ahead log", *(figure(one.syncs) for one in kinds.values())])
    lines.append(["the same, one by one", *(figure(one.syncs_alone) for one in kinds.values())])
    lines.append(["write-ahead log, kB", *(figure(one.wal / 1000) for one in kinds.values())])
    lines += [[f"{line}, kB", *(figure(one.sent[line] / 1000) for one in kinds.values())] for line in LINES]
    lines.append(["object requests", *(figure(one.requests) for one in kinds.values())])
    return rows(["each", *kinds], lines)


def needs_table(each: Costs, here: Machine) -> str:
    lines = []
    for rate in RATES:
        one = need(rate, each, here)
        lines.append([
            f"{rate:,}", " / ".join(f"{one.replicas[role]:,}" for role in ROLES), figure(one.cores),
            figure(one.memory / 1e9), f"{MOST * sum(one.replicas.values()):,}",
            figure(rate * each.transactions), figure(rate * each.syncs),
            figure(rate * each.wal / 1e6), figure(rate * each.sent["to the receiver"] / 1e6),
            figure(rate * each.sent["store"] / 1e6), figure(rate * each.requests),
            figure(rate * each.sent["to the receiver"] * 86400 / 1e12),
        ])  # fmt: skip
    head = (
        "DX/s", "replicas: " + " / ".join(ROLES), "cores", "memory, GB", "connections", "transactions/s",
        "WAL syncs/s", "WAL, MB/s", "in, MB/s", "store, MB/s", "object requests/s", "disk for a day, TB",
    )  # fmt: skip
    return rows(head, lines)


def limits_table(kinds: dict[str, Costs], here: Machine) -> str:
    found = {kind: dict(limits(each, here)) for kind, each in kinds.items()}
    first = next(iter(kinds))
    order = sorted(found[first], key=found[first].__getitem__)
    return rows(
        ["there is one of it", *(f"used up at, {kind}, a second" for kind in kinds), f"of it for {RATES[-1]:,} DX/s"],
        [[name, *(figure(found[kind][name]) for kind in kinds), math.ceil(RATES[-1] / found[first][name])]
         for name in order],
    )  # fmt: skip


def queues_table(each: Costs, here: Machine) -> str:
    counts = need(SIMULATED, each, here).replicas
    lines = []
    for load in LOADS:
        queues, late = at_load(load, each, counts)
        lines.append([f"{100 * load:.0f} %", *(figure(queues[role]) for role in ROLES), figure(1000 * late)])
    head = [
        "load of the busiest role",
        *(f"wait for {role} × {counts[role]}" for role in ROLES),
        "p95 of all roles, ms",
    ]
    return rows(head, lines)


def outage_table(each: Costs, here: Machine) -> str:
    lines = []
    seconds = each.cpu["forward"]
    for rate in RATES:
        planned = need(rate, each, here).replicas["forward"]
        enough = rate * (1 + ASSUMED.busiest * ASSUMED.outage / ASSUMED.drain) * seconds
        row: list[object] = [
            f"{rate:,}", f"{round(rate * ASSUMED.busiest * ASSUMED.outage):,}", f"{planned:,}",
            figure(drain_time(rate, planned, seconds) / 60),
            f"{max(ASSUMED.least, math.ceil(enough)):,}",
        ]  # fmt: skip
        if rate <= SIMULATED_OUTAGE:
            took, late = drain(rate, planned, seconds)
            row += [figure(took / 60), figure(1000 * late)]
        else:
            row += ["", ""]
        lines.append(row)
    head = (
        "DX/s", "backlog", "forwarders as above", "minutes to drain", "forwarders to drain within the hour",
        "simulated: minutes", "simulated: p95 of other destinations meanwhile, ms",
    )  # fmt: skip
    return rows(head, lines)


def backlog(record: dict[str, Any]) -> str:
    found = record["results"]
    drained, (title,) = found["drain"], [name for name in found if name.endswith(" DX")]
    before, during, all_of_it = found["live without drain"], found["live with drain"], found[title]
    drain_said = (
        f"{drained['instances']} DX waited for a paused destination. The kernel had forgotten their files. Then "
        f"`benchmarks/backlog.py` let it go on: {drained['instances/s']} a second ({drained['MB/s']} MB/s) left over "
        f"one association, for {drained['CPU ms each']} ms of processor time each, with live DX beside them. At this "
        f"rate {title} drain in {all_of_it['minutes at this rate']} minutes ({title} ÷ rate). With all cores of this "
        f"machine, and a disk that keeps up, processor time allows {all_of_it['least minutes by processor']} minutes "
        "(instances × processor time ÷ cores)."
    )  # fmt: skip
    live_said = (
        f"Live DX to another destination waited {before['wait ms p95']} ms (p95 of {before['n']}) while the drain was "
        f"paused, and {during['wait ms p95']} ms (p95 of {during['n']}) while it went on: "
        f"{found['with ÷ without']['wait ms p95']} times as long. The medians are "
        f"{figure(before['wait ms']['median'])} and {figure(during['wait ms']['median'])} ms."
    )
    return "\n".join([_measured(record), prose(drain_said), prose(live_said)])


def stage_rows(record: dict[str, Any]) -> str:
    found = record["results"]
    columns = list(next(iter(found.values())))
    lines = [[name, *(spread(row[column]) for column in columns)] for name, row in found.items()]
    return _measured(record) + "\n" + rows(["", *columns], lines)


def spread(value: dict[str, float]) -> str:
    return f"{figure(value['median'])} ({figure(value['low'])}–{figure(value['high'])}, n {value['n']})"


def _measured(record: dict[str, Any]) -> str:
    return prose(f"Measured as: {record['benchmark']}. {about(record['machine'])}")


def _list(values: dict[str, float], factor: float, unit: str) -> str:
    return ", ".join(f"{figure(factor * value)}{unit} ({name})" for name, value in values.items())


def main() -> None:
    PAGE.write_text(page(read()))
    print(f"{PAGE.relative_to(ROOT)} is written")


def read() -> dict[str, dict[str, Any]]:
    """All that the page is made of."""
    return {name: results(name) for name in ("capacity", "backlog", "replicas")}


if __name__ == "__main__":
    main()
