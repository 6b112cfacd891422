"""Receiving alone: our acceptor and spool (digest, fsync, row) beside stock pynetdicom that writes and syncs a file.

    python -m benchmarks.receive --rounds 5 --json receive.json

One dcmsend, one DX (10 MB) many times under fresh UIDs; the receivers take turns. The floor is what a loop that
copies a file of that size once, digests it and syncs it reaches on this disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from xxhash import xxh3_128

from benchmarks.measure import Spread, cpu_seconds, report
from router.pixels.wrap import wrap_image
from tests.peers import DCMTK, free_port, process

COUNT = 30

STOCK = """
import os, sys
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
_config.LOG_HANDLER_LEVEL = "none"
port, folder = int(sys.argv[1]), sys.argv[2]
def store(event):
    path = os.path.join(folder, str(event.request.AffectedSOPInstanceUID))
    with open(path, "wb") as file:
        file.write(b"\\0" * 128 + b"DICM")
        write_file_meta_info(file, event.file_meta)
        file.write(event.request.DataSet.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.unlink(path)
    return 0x0000
ae = AE("STOCK")
ae.maximum_pdu_size = 131072
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


@contextmanager
def ours(folder: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.receive", "--serve", str(port), str(folder)]
    with process(command, port, folder / "ours.log") as child:
        yield port, child.pid


@contextmanager
def stock(folder: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    (folder / "stock.py").write_text(STOCK)
    with process([sys.executable, folder / "stock.py", str(port), folder], port, folder / "stock.log") as child:
        yield port, child.pid


def serve(port: int, folder: Path) -> None:
    """Our receiving stage and nothing else."""
    import logging
    import signal

    import structlog

    from router.config import load, shipped
    from router.receive import Receiver
    from router.spool import open_spool

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = load(shipped(), {})
    settings = replace(
        settings,
        node=replace(settings.node, address="127.0.0.1", port=port),
        spool=replace(settings.spool, path=folder / "spool"),
    )
    spool = open_spool(settings.spool)
    Receiver(lambda: settings, spool.intake).start()
    signal.sigwait({signal.SIGTERM})


def one_round(receiver: str, paths: list[Path]) -> tuple[float, float]:
    """(instances a second, CPU milliseconds each) of the receiver."""
    start = ours if receiver == "ours" else stock
    with tempfile.TemporaryDirectory() as name, start(Path(name)) as (port, pid):
        send(port, paths[:2])
        cpu, began = cpu_seconds(pid), time.monotonic()
        send(port, paths)
        seconds = time.monotonic() - began
        return len(paths) / seconds, 1000 * (cpu_seconds(pid) - cpu) / len(paths)


def send(port: int, paths: list[Path]) -> None:
    subprocess.run(
        [DCMTK / "dcmsend", "--no-uid-checks", "--max-pdu", "131072", "127.0.0.1", str(port), *paths],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def floor(path: Path, folder: Path) -> tuple[float, float]:
    """One copy from memory to a file with digest, fsync of file and folder: instances a second, CPU ms each."""
    content = memoryview(path.read_bytes())
    began, cpu = time.monotonic(), time.process_time()
    for n in range(COUNT):
        target = folder / f"{n}.bin"
        with target.open("wb") as file:
            for start in range(0, len(content), 131072):
                file.write(content[start : start + 131072])
            xxh3_128(content).digest()
            file.flush()
            os.fsync(file.fileno())
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        target.unlink()
    return COUNT / (time.monotonic() - began), 1000 * (time.process_time() - cpu) / COUNT


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {"ours": [], "stock pynetdicom": [], "floor": []}
    with tempfile.TemporaryDirectory() as name:
        noise = np.random.default_rng(1)
        image = noise.integers(0, 4096, (2500, 2048), np.uint16)
        paths = [wrap_image(image, Path(name) / f"{n}.dcm") for n in range(COUNT)]
        for number in range(options.rounds):
            for receiver, got in results.items():
                got.append(floor(paths[0], Path(name)) if receiver == "floor" else one_round(receiver, paths))
                print(f"  round {number + 1} {receiver:18s} {got[-1][0]:6.1f}/s {got[-1][1]:6.1f} ms CPU", flush=True)
    table = {
        name: {"instances_per_s": Spread.of([g[0] for g in got]), "cpu_ms": Spread.of([g[1] for g in got])}
        for name, got in results.items()
    }
    report("receive", table, options.json, against="ours")


if __name__ == "__main__":
    main()
