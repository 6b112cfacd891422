"""What the number of pixel workers and of the model's threads does to the whole way, taking turns.

python -m benchmarks.layout --rounds 5 --json layout.json
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import Spread, report
from benchmarks.route import LOADS, Round, one_round, radiographs
from benchmarks.routers import ours

LAYOUTS = {
    f"{workers} pixel worker{'s' * (workers > 1)}, {threads} model thread{'s' * (threads > 1)}": (workers, threads)
    for workers in (1, 2)
    for threads in (1, 2)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=list(LOADS), default="dx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds: dict[str, list[Round]] = {name: [] for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as folder:
        paths = radiographs(Path(folder), options.load)
        for _ in range(options.rounds):
            for name, (workers, threads) in LAYOUTS.items():
                router = partial(ours, workers=workers, threads=threads)
                rounds[name].append(one_round(router, options.load, paths, 1))
    table: dict[str, dict[str, object]] = {
        name: {
            "instances_per_s": Spread.of([one.rate for one in got]),
            "cpu_ms": Spread.of([one.cpu_ms for one in got]),
            "peak_mb": Spread.of([one.peak_mb for one in got]),
        }
        for name, got in rounds.items()
    }
    report(f"layout, {options.load}", table, options.json)


if __name__ == "__main__":
    main()
