"""Forwarding alone: our requestor (digest checked, sendfile) beside pynetdicom's (chunked, TCP_NODELAY) and the floor.

    python -m benchmarks.forward --rounds 5 --json forward.json

One DX (10 MB), one association, storescp --ignore as sink; the senders take turns. The floor is one sendfile of the
file into a socket that is read and thrown away.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from benchmarks.measure import Spread, report
from router.association.requestor import connect
from router.commands.send_files import read_meta
from router.config.settings import DestinationSettings
from router.flow import Caller, Instance
from router.forward.delivery import fault
from router.pixels.wrap import wrap_image
from tests.peers import DCMTK, free_port, process

COUNT = 40
Sender = Callable[[Path, int], None]


def ours(path: Path, port: int) -> None:
    meta = read_meta(path)
    digest = xxh3_128_hexdigest(path.read_bytes()[meta.offset :])
    instance = Instance("", 0.0, Caller("", "", ""), meta.sop_class, meta.sop_instance, meta.transfer_syntax,
                        meta.offset, meta.size, digest)  # fmt: skip
    association = connect(DestinationSettings("x", "SINK", "127.0.0.1", port), "ROUTER",
                          [(meta.sop_class, meta.transfer_syntax)])  # fmt: skip
    for _ in range(COUNT):
        assert not fault(path, instance)
        status = association.store(meta)
        assert status == 0
    association.release()


def pynetdicom(path: Path, port: int) -> None:
    from pynetdicom import AE, _config, build_context, evt

    def no_delay(event: Any) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True
    meta = read_meta(path)
    contexts = [build_context(meta.sop_class, meta.transfer_syntax)]
    association = AE("STOCK").associate(
        "127.0.0.1", port, contexts=contexts, ae_title="SINK", evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)]
    )
    for _ in range(COUNT):
        assert association.send_c_store(path).Status == 0
    association.release()


def floor(path: Path, _port: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def swallow() -> None:
        taken, _ = server.accept()
        buffer = bytearray(1 << 20)
        while taken.recv_into(buffer):
            pass

    thread = threading.Thread(target=swallow)
    thread.start()
    with socket.create_connection(server.getsockname()) as sock, path.open("rb") as file:
        size = path.stat().st_size
        for _ in range(COUNT):
            at = 0
            while at < size:
                at += os.sendfile(sock.fileno(), file.fileno(), at, size - at)
    thread.join()
    server.close()


SENDERS: dict[str, Sender] = {"ours": ours, "pynetdicom": pynetdicom, "floor": floor}


def one_round(sender: Sender, path: Path, port: int) -> tuple[float, float]:
    """(instances a second, CPU ms each); in a process of its own, so that its CPU time is its own."""
    pid = os.fork()
    if pid == 0:
        sender(path, port)
        os._exit(0)
    began = time.monotonic()
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return COUNT / (time.monotonic() - began), 1000 * (usage.ru_utime + usage.ru_stime) / COUNT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in SENDERS}
    with tempfile.TemporaryDirectory() as name:
        path = wrap_image(np.random.default_rng(1).integers(0, 4096, (2500, 2048), np.uint16), Path(name) / "dx.dcm")
        port = free_port()
        command = [DCMTK / "storescp", "--ignore", "--max-pdu", "131072", str(port)]
        with process(command, port, Path(name) / "sink.log"):
            for number in range(options.rounds):
                for sender, got in results.items():
                    got.append(one_round(SENDERS[sender], path, port))
                    print(f"  round {number + 1} {sender:12s} {got[-1][0]:6.1f}/s {got[-1][1]:6.2f} ms CPU", flush=True)
    table = {
        name: {"instances_per_s": Spread.of([g[0] for g in got]), "cpu_ms": Spread.of([g[1] for g in got])}
        for name, got in results.items()
    }
    report("forward", table, options.json, against="ours")


if __name__ == "__main__":
    main()
