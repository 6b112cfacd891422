"""How long does a caller wait for its decisions while another caller's hostile images wait to be decoded?

Two kinds of 100 small files each: JPEG 2000 that holds 150 million pixels without a lower resolution, which is known
to be expensive before it is decoded; and a deflated data set of 900,000 items, which is known only when it takes long.

python -m benchmarks.hostile --json hostile.json
"""

from __future__ import annotations

import argparse
import sqlite3
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from benchmarks.measure import percentile, report
from benchmarks.route import Sink
from benchmarks.routers import ours
from router.association.requestor import Requestor, connect
from router.commands.send_files import read_meta
from router.config.settings import DestinationSettings
from router.flow import StoredFile
from router.pixels.wrap import wrap_image

HOSTILE, OTHERS = 100, 200
SIDE = 12_240
ITEMS = 900_000
EVERY = 0.1
"""Seconds between two images of the other caller."""
PATIENCE = 120.0


@dataclass(frozen=True)
class File:
    """One instance to be stored again and again, each time under another UID of the same length."""

    content: bytes
    uid: bytes
    offset: int
    sop_class: str
    syntax: str

    @classmethod
    def read(cls, path: Path) -> File:
        meta = read_meta(path)
        content = path.read_bytes()
        return cls(content, meta.sop_instance.encode(), meta.offset, meta.sop_class, meta.transfer_syntax)


def j2k(path: Path) -> Path:
    """Half a megabyte that takes a decoder 15 seconds."""
    stream = imagecodecs.jpeg2k_encode(
        np.zeros((SIDE, SIDE), np.uint16), level=0, reversible=True, codecformat="j2k", resolutions=1
    )
    data = pydicom.dcmread(wrap_image(np.zeros((32, 24), np.uint16), path))
    data.Rows = data.Columns = SIDE
    data.PixelData = encapsulate([bytes(stream)])
    data["PixelData"].is_undefined_length, data["PixelData"].VR = True, "OB"
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.save_as(path)
    return path


def deflated(path: Path) -> Path:
    """A few kilobytes that unfold to so many items that it takes a second or two to walk them."""
    data = pydicom.dcmread(wrap_image(np.zeros((32, 24), np.uint16), path))
    pixels = data.PixelData
    del data.PixelData
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path)
    offset = read_meta(path).offset
    head = path.read_bytes()[:offset]
    plain = zlib.decompress(path.read_bytes()[offset:], -15)
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * ITEMS
    sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + items
    sequence += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    tail = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels
    squeeze = zlib.compressobj(9, wbits=-15)
    path.write_bytes(head + squeeze.compress(plain + sequence + tail) + squeeze.flush())
    return path


def store(association: Requestor, file: File, folder: Path) -> str:
    """Store it under a new UID; returns the UID."""
    uid = generate_uid(entropy_srcs=None)[: len(file.uid)].ljust(len(file.uid), "1")
    path = folder / "one.dcm"
    if file.syntax == DeflatedExplicitVRLittleEndian:  # the UID lies within what is deflated
        plain = zlib.decompress(file.content[file.offset :], -15).replace(file.uid, uid.encode(), 1)
        squeeze = zlib.compressobj(6, wbits=-15)
        path.write_bytes(file.content[: file.offset] + squeeze.compress(plain) + squeeze.flush())
    else:
        path.write_bytes(file.content.replace(file.uid, uid.encode()))
    size = path.stat().st_size - file.offset
    status = association.store(StoredFile(path, file.offset, size, file.sop_class, uid, file.syntax))
    assert status == 0, hex(status)
    return uid


def waits(port: int, file: File, folder: Path, count: int) -> list[float]:
    """Seconds from the begin of each C-STORE of the other caller to its decision."""
    node = DestinationSettings("node", "ROUTER", "127.0.0.1", port, response_timeout=PATIENCE)
    association = connect(node, "OTHER", [(file.sop_class, file.syntax)])
    began: dict[str, float] = {}
    for _ in range(count):
        at = time.time()
        began[store(association, file, folder)] = at
        time.sleep(EVERY)
    association.release()
    until = time.monotonic() + PATIENCE
    while True:
        decided = query(folder, "SELECT sop_instance, decided_at FROM instance WHERE calling_ae = 'OTHER'")
        found = {uid: at for uid, at in decided if at is not None and uid in began}
        if len(found) == count:
            return [found[uid] - at for uid, at in began.items()]
        assert time.monotonic() < until, f"{count - len(found)} of the other caller's images have no decision"
        time.sleep(0.5)


def query(folder: Path, question: str) -> list[tuple[str, float | None]]:
    with closing(sqlite3.connect(f"file:{folder}/spool/node.db?mode=ro", uri=True)) as connection:
        return connection.execute(question).fetchall()


def one(make: Callable[[Path], Path] | None, hostile: int, others: int, workers: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, Sink().running() as sink:
        folder = Path(name)
        grey = np.random.default_rng(1).integers(0, 4096, (2500, 2048), np.uint16)
        normal = File.read(wrap_image(grey, folder / "normal.dcm"))
        bad = File.read(make(folder / "bad.dcm")) if make else None
        with ours(folder, sink.port, workers=workers) as (port, _):
            waits(port, normal, folder, 5)  # warm
            if bad is not None:
                node = DestinationSettings("node", "ROUTER", "127.0.0.1", port, response_timeout=PATIENCE)
                association = connect(node, "HOSTILE", [(bad.sop_class, bad.syntax)])
                for _ in range(hostile):
                    store(association, bad, folder)
                association.release()
            found = sorted(waits(port, normal, folder, others))
            undecided = query(
                folder, "SELECT id, decided_at FROM instance WHERE calling_ae = 'HOSTILE' AND decided_at IS NULL"
            )
    return {
        "p50_ms": round(1000 * percentile(found, 0.5)), "p99_ms": round(1000 * percentile(found, 0.99)),
        "max_ms": round(1000 * found[-1]), "n": len(found), "hostile": hostile if make else 0,
        "hostile_undecided": len(undecided),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, default=HOSTILE)
    parser.add_argument("--others", type=int, default=OTHERS)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 1])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    for workers in options.workers:
        for title, make in (("no hostile images", None), ("JPEG 2000", j2k), ("deflated", deflated)):
            table[f"{title}, {workers} workers"] = one(make, options.hostile, options.others, workers)
            print(title, workers, table[f"{title}, {workers} workers"], flush=True)
    report("hostile images of one caller, waits of another", table, options.json)


if __name__ == "__main__":
    main()
