"""What open associations cost that say nothing: CPU of the whole node with 0, 1, 10, 50 and 200 of them.

python -m benchmarks.idle --json idle.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.measure import cpu_seconds, memory_mb, report
from benchmarks.routers import ours
from tests.peers import free_port

COUNTS = (0, 1, 10, 50, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        table["from start to warm, its port open, on a new spool"] = _start(Path(name))
        table["from start to warm, its port open, again"] = _start(Path(name))
    with tempfile.TemporaryDirectory() as name, ours(Path(name), free_port(), per_peer=250) as (port, pid):
        held: list[object] = []
        for count in COUNTS:
            while len(held) < count:
                held.append(_raw(port))
            time.sleep(2)
            cpu, began = cpu_seconds(pid), time.monotonic()
            time.sleep(options.seconds)
            cores = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
            pss, _ = memory_mb(pid)
            table[f"{count} associations"] = {"cores": round(cores, 4), "pss_mb": round(pss)}
    report("idle", table, options.json)


def _start(folder: Path) -> dict[str, object]:
    """Seconds, and of all processors together."""
    began = time.monotonic()
    with ours(folder, free_port()) as (_, pid):
        return {"s": round(time.monotonic() - began, 2), "cpu_s": round(cpu_seconds(pid), 2)}


def _raw(port: int) -> object:
    """An association held by a bare socket: a pynetdicom requestor would poll and burn this machine's CPU itself."""
    import socket

    from router.association.negotiation import ProposedContext
    from router.association.proposing import associate_rq
    from router.dicom.uids import IMPLICIT, VERIFICATION

    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(associate_rq("IDLE", "ROUTER", [ProposedContext(1, VERIFICATION, (IMPLICIT,))]))
    assert sock.recv(1)[0] == 2
    return sock


if __name__ == "__main__":
    main()
