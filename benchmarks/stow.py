"""STOW-RS: one instance for each request beside several, through the forwarding stage, with a real spool.

    python -m benchmarks.stow --rounds 5 --json stow.json

All deliveries are of one study, and wait before the stage starts. The servers are Orthanc with its DICOMweb plugin, and
one that keeps nothing and answers after a pause, as a server far away does. The variants take turns, and the bound on
bytes is lifted. A figure is instances per second until the last is noted as done.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pydicom
import sqlalchemy as sa
import structlog
from pydicom.uid import UID

from benchmarks.measure import Spread, report
from router.config.settings import DestinationSettings
from router.forward import together, worker
from router.pixels.wrap import wrap_image
from tests.acceptance.test_stow import orthanc_web
from tests.peers import free_port, listening, wait_for
from tests.unit.forwarding import Stage
from tests.unit.peer import DX, EXPLICIT
from tests.unit.webpeer import Talk, WebPeer, stored

TOGETHER = (1, 4, 8, 16)
SIZES = {"small": (200, 200, 160), "DX": (2200, 1800, 24)}
"""Rows, columns, and how many instances in a round: 80 kB and 8 MB."""
PAUSES = {"near": 0.0, "far": 0.03}
"""Seconds that the server without a store takes to answer."""
NUMBERS = count(1)
UNFINISHED = sa.text("SELECT count(*) FROM delivery WHERE state != 'done'")


def _sink(port: int, pause: float) -> None:
    def script(talk: Talk) -> None:
        talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            got = talk.request()
            talk.peer.requests.clear()
            time.sleep(pause)
            talk.answer(200, stored(*got.instances))

    with WebPeer(script, port=port):
        threading.Event().wait()


@contextmanager
def sink(pause: float) -> Iterator[str]:
    """A server in a process of its own."""
    port = free_port()
    child = multiprocessing.get_context("spawn").Process(target=_sink, args=(port, pause), daemon=True)
    child.start()
    try:
        wait_for(lambda: listening(port), 60, "the server")
        yield f"http://127.0.0.1:{port}/studies"
    finally:
        child.kill()
        child.join()


def picture(folder: Path, rows: int, columns: int) -> tuple[bytes, str]:
    """A data set, and the UID in it that each instance replaces by one of its own, of the same length."""
    grey = np.random.default_rng(1).integers(0, 4096, (rows, columns), np.uint16)
    path = wrap_image(grey, folder / "picture.dcm")
    data_set = pydicom.dcmread(path)
    uid = UID("1.2.826.0.1.3680043.9.9999.1.100000000000")
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
    data_set.save_as(path)
    whole = path.read_bytes()
    length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    return whole[132 + 12 + length :], uid


def run(folder: Path, address: str, most: int, data: bytes, uid: str, instances: int) -> float:
    """Instances per second."""
    port = int(address.split(":")[2].split("/")[0])
    to = DestinationSettings("dest", "", "127.0.0.1", port, stow=address, idle=30.0)
    stage = Stage(folder, {"dest": to})
    stage.open()
    try:
        for _ in range(instances):
            own = f"{uid[:-12]}1{next(NUMBERS):011d}"
            stage.owe("dest", data=data.replace(uid.encode(), own.encode()), sop_instance=own,
                      sop_class=DX, transfer_syntax=EXPLICIT)  # fmt: skip
        with ExitStack() as stack:
            for module in (together, worker):
                stack.enter_context(patch.object(module, "MOST", most))
            stack.enter_context(patch.object(together, "MOST_BYTES", 1 << 40))
            took = _time(stage)
    finally:
        stage.spool.close()
    return instances / took


def _time(stage: Stage) -> float:
    """Seconds until all is delivered."""
    began = time.monotonic()
    stage.start()
    while stage.spool.database.ask(lambda c: c.execute(UNFINISHED).scalar()):
        time.sleep(0.005)
    took = time.monotonic() - began
    stage.stop()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results: dict[int, dict[str, list[float]]] = {most: {} for most in TOGETHER}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with orthanc_web(folder / "orthanc") as web, sink(PAUSES["near"]) as near, sink(PAUSES["far"]) as far:
            for number in range(options.rounds):
                for size, (rows, columns, instances) in SIZES.items():
                    data, uid = picture(folder, rows, columns)
                    for server, address in {"Orthanc": web, "near": near, "far": far}.items():
                        for most in TOGETHER:
                            rate = run(folder / "spool", address, most, data, uid, instances)
                            shutil.rmtree(folder / "spool")
                            results[most].setdefault(f"{size} {server}", []).append(rate)
                            print(f"  round {number + 1} {size:5s} {server:8s} {most:2d} {rate:7.1f}/s", flush=True)
    table = {
        f"{most} in a request": {what: Spread.of(got) for what, got in row.items()} for most, row in results.items()
    }
    report("stow", table, options.json, against="1 in a request")


if __name__ == "__main__":
    main()
