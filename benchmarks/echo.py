"""Is anybody made to wait? C-ECHO on one association while JPEG 2000 instances come on another and are decoded.

python -m benchmarks.echo --json echo.json
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.measure import percentile, report
from benchmarks.route import Sink, radiographs, send
from benchmarks.routers import ours
from router.association.requestor import connect
from router.config.settings import DestinationSettings

INTERVAL = 0.005


def echoes(port: int, stop: threading.Event) -> list[float]:
    """Milliseconds of each C-ECHO on one association, until told to stop."""
    node = DestinationSettings("node", "ROUTER", "127.0.0.1", port)
    association = connect(node, "ECHO", [], echo=True)
    times = []
    while not stop.is_set():
        began = time.perf_counter()
        assert association.echo() == 0
        times.append(1000 * (time.perf_counter() - began))
        time.sleep(INTERVAL)
    association.release()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name, Sink().running() as sink, ours(Path(name), sink.port) as (port, _):
        folder = Path(name) / "files"
        folder.mkdir()
        paths = radiographs(folder, "dx-j2k")
        for title, busy in (("idle", False), ("while JPEG 2000 decodes", True)):
            stop, times = threading.Event(), list[float]()
            thread = threading.Thread(target=lambda stop=stop, times=times: times.extend(echoes(port, stop)))
            thread.start()
            for _ in range(options.rounds):
                already = len(sink.arrivals)
                if busy:
                    send(port, paths, 1)
                    assert sink.wait(already + len(paths), 120)
                else:
                    time.sleep(2)
            stop.set()
            thread.join()
            table[title] = {
                **{f"p{q}_ms": round(percentile(times, q / 100), 2) for q in (50, 99)},
                "max_ms": round(max(times), 2),
                "n": len(times),
            }
    report("echo", table, options.json)


if __name__ == "__main__":
    main()
