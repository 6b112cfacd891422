"""The whole way, side by side: last byte in to last byte out, this node beside routers that look at no pixel.

    python -m benchmarks.route --rounds 7 --load dx --json route.json

One sender (dcmsend), one sink (storescp --ignore), all on loopback; the routers take turns within each round, so that
a drift of the machine touches all alike. Quote the ratios: absolute figures move by 20 % and more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import routers
from benchmarks.measure import Spread, cpu_seconds, machine, memory_mb, percentile, plain
from router.pixels.wrap import wrap_image
from tests.peers import DCMTK, free_port

Router = Callable[[Path, int], AbstractContextManager[tuple[int, int]]]

ROUTERS: dict[str, Router] = {
    "ours": lambda folder, sink: routers.ours(folder, sink),
    "ours, torch": lambda folder, sink: routers.ours(folder, sink, engine="torch"),
    "orthanc lua": lambda folder, sink: routers.orthanc_lua(folder, sink, no_delay=False),
    "orthanc lua, TCP_NODELAY": lambda folder, sink: routers.orthanc_lua(folder, sink, no_delay=True),
    "storescp -xcr dcmsend": routers.dcmtk_script,
    "naive pynetdicom": routers.naive,
}

LOADS: dict[str, tuple[tuple[int, int], str, int]] = {
    "dx": ((2500, 2048), "1.2.840.10008.1.2.1", 40),
    "dx-jpegll": ((2500, 2048), "1.2.840.10008.1.2.4.70", 40),
    "dx-j2k": ((2500, 2048), "1.2.840.10008.1.2.4.90", 30),
    "cr": ((1760, 2140), "1.2.840.10008.1.2.1", 40),
    "small": ((512, 512), "1.2.840.10008.1.2.1", 120),
}
"""Rows and columns, transfer syntax, instances a round."""


SEND = ("--no-uid-checks", "--max-pdu", "131072")


class Sink:
    """storescp --ignore, whose log lines are the moments at which data sets have arrived.

    With `fork` it takes several associations at a time.
    """

    def __init__(self, *, fork: bool = False) -> None:
        self.port = free_port()
        self.options = ("--fork",) if fork else ()
        self.arrivals: list[float] = []
        self.changed = threading.Condition()

    @contextmanager
    def running(self) -> Iterator[Sink]:
        command = [
            str(DCMTK / "storescp"),
            "--verbose",
            "--ignore",
            "--accept-all",
            "--max-pdu",
            "131072",
            *self.options,
            str(self.port),
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        reader.start()
        try:
            yield self
        finally:
            child.terminate()
            child.wait()
            reader.join()

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if "Received Store Request" in line:
                with self.changed:
                    self.arrivals.append(time.monotonic())
                    self.changed.notify_all()

    def wait(self, count: int, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.arrivals) >= count, seconds)


@dataclass(frozen=True)
class Round:
    rate: float
    cpu_ms: float
    pss_mb: float
    peak_mb: float
    latencies_ms: tuple[float, ...]
    arrived: int


def radiographs(folder: Path, load: str, count: int = 0) -> list[Path]:
    """The load's instances, or so many: phantoms at its size with noise of their own, so that no two are equal."""
    from router.demo.phantoms import PARTS, radiograph

    (rows, columns), syntax, usual = LOADS[load]
    rng = np.random.default_rng(7)
    paths = []
    for n in range(count or usual):
        grey = radiograph(list(PARTS)[n % len(PARTS)], seed=n)
        y = np.linspace(0, grey.shape[0] - 1, rows).astype(int)
        x = np.linspace(0, grey.shape[1] - 1, columns).astype(int)
        full = np.clip(grey[np.ix_(y, x)].astype(np.int32) + rng.integers(-12, 13, (rows, columns)), 0, 4095)
        paths.append(wrap_image(full.astype(np.uint16), folder / f"{n:04d}.dcm", transfer_syntax=syntax))
    return paths


def send(port: int, paths: list[Path], associations: int) -> None:
    groups = [paths[n::associations] for n in range(associations)]
    senders = [
        subprocess.Popen(
            [str(DCMTK / "dcmsend"), *SEND, "127.0.0.1", str(port), *map(str, group)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for group in groups
    ]  # fmt: skip
    for sender in senders:
        sender.wait(300)


def one_round(router: Router, load: str, paths: list[Path], associations: int) -> Round:
    with tempfile.TemporaryDirectory() as name, Sink().running() as sink, router(Path(name), sink.port) as (port, pid):
        send(port, paths[:3], 1)
        sink.wait(3, 60)
        latencies = []
        for path in paths[:20]:
            already = len(sink.arrivals)
            send(port, [path], 1)
            sent = time.monotonic()
            sink.wait(already + 1, 30)
            latencies.append(1000 * max(0.0, sink.arrivals[-1] - sent))
            time.sleep(0.05)
        already, cpu, start = len(sink.arrivals), cpu_seconds(pid), time.monotonic()
        send(port, paths, associations)
        sink.wait(already + len(paths), 120)
        arrived = len(sink.arrivals) - already
        seconds = max(sink.arrivals[-1] - start, 1e-6)
        spent = cpu_seconds(pid) - cpu
        pss, peak = memory_mb(pid)
        return Round(arrived / seconds, 1000 * spent / max(arrived, 1), pss, peak, tuple(latencies), arrived)


def compare(names: list[str], load: str, rounds: int, associations: int) -> dict[str, dict[str, object]]:
    results: dict[str, list[Round]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        paths = radiographs(Path(folder), load)
        for n in range(rounds):
            for name in names:
                got = one_round(ROUTERS[name], load, paths, associations)
                results[name].append(got)
                print(f"  round {n + 1}/{rounds} {name:28s} {got.rate:6.1f}/s {got.cpu_ms:6.1f} ms CPU "
                      f"{got.arrived}/{len(paths)} arrived", flush=True)  # fmt: skip
    summary: dict[str, dict[str, object]] = {}
    for name, got_all in results.items():
        latencies = [x for r in got_all for x in r.latencies_ms]
        summary[name] = {
            "instances_per_s": Spread.of([r.rate for r in got_all]),
            "cpu_ms_per_instance": Spread.of([r.cpu_ms for r in got_all]),
            "pss_mb": Spread.of([r.pss_mb for r in got_all]),
            "peak_mb": Spread.of([r.peak_mb for r in got_all]),
            "latency_ms": {f"p{int(100 * q)}": round(percentile(latencies, q), 1) for q in (0.5, 0.95, 0.99)},
            "lost": sum(len(paths) - r.arrived for r in got_all),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=list(LOADS), default="dx")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--routers", nargs="*", choices=list(ROUTERS), default=list(ROUTERS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{options.load}, {options.associations} association(s), {options.rounds} rounds")
    summary = compare(options.routers, options.load, options.rounds, options.associations)
    ours = summary.get("ours", {}).get("instances_per_s")
    print(f"\n{'router':28s} {'instances/s':>20s} {'CPU ms each':>20s} {'PSS MB':>18s}  p50/p95/p99 ms  lost  ours ×")
    for name, row in summary.items():
        rate, lat = row["instances_per_s"], row["latency_ms"]
        assert isinstance(rate, Spread)
        assert isinstance(lat, dict)
        ratio = f"{ours.median / rate.median:.2f}" if isinstance(ours, Spread) else ""
        print(f"{name:28s} {rate!s:>20s} {row['cpu_ms_per_instance']!s:>20s} {row['pss_mb']!s:>18s}  "
              f"{'/'.join(str(v) for v in lat.values()):>14s}  {row['lost']:>4}  {ratio}")  # fmt: skip
    if options.json:
        record = {"benchmark": "route", "load": options.load, "associations": options.associations,
                  "machine": machine(), "results": summary}  # fmt: skip
        options.json.write_text(json.dumps(record, default=plain, indent=1))


if __name__ == "__main__":
    main()
