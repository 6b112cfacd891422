"""Memory over a long run: the node's proportional set size after every thousand of many small instances.

    python -m benchmarks.steady --instances 20000 --json steady.json

Every instance has a UID of its own, is received, classified and forwarded; the figure is the whole process tree's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydicom.uid import generate_uid

from benchmarks.measure import Spread, memory_mb, report, tree
from benchmarks.route import Sink, radiographs
from benchmarks.routers import ours
from router.commands.send_files import read_meta, send_files
from router.commands.walking import Found
from router.config.settings import DestinationSettings

GROUP = 50


def renamed(paths: list[Path], folder: Path, count: int) -> Iterator[list[Path]]:
    """Groups of files that differ from `paths` in their SOP Instance UID alone."""
    contents = [(path.read_bytes(), read_meta(path).sop_instance.encode()) for path in paths]
    for start in range(0, count, GROUP):
        group = []
        for n in range(start, min(start + GROUP, count)):
            content, uid = contents[n % len(contents)]
            new = generate_uid().encode()[: len(uid)].ljust(len(uid), b"1")
            target = folder / f"{n % GROUP}.dcm"
            target.write_bytes(content.replace(uid, new))
            group.append(target)
        yield group


def threads(pid: int) -> int:
    return sum(len(os.listdir(f"/proc/{process}/task")) for process in tree(pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seen: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        Sink().running() as sink,
        ours(Path(name), sink.port) as (port, pid),
    ):
        folder = Path(name) / "files"
        folder.mkdir()
        node = DestinationSettings("node", "ROUTER", "127.0.0.1", port)
        done = 0
        for group in renamed(radiographs(folder, "small"), folder, options.instances):
            assert all(sent.arrived for sent in send_files(map(Found, group), node, "STEADY"))
            done += len(group)
            assert sink.wait(done, 120)
            if done % options.every == 0:
                seen.append(memory_mb(pid)[0])
                print(f"{done:7,} instances {seen[-1]:7.1f} MB {threads(pid):4d} threads", flush=True)
        peak = memory_mb(pid)[1]
    third = max(1, len(seen) // 3)
    report("steady", {
        "first third": {"pss_mb": Spread.of(seen[:third])},
        "last third": {"pss_mb": Spread.of(seen[-third:])},
        "peak, summed over processes": {"mb": round(peak, 1)},
        "instances": {"n": done},
    }, options.json)  # fmt: skip


if __name__ == "__main__":
    main()
