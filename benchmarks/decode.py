"""Decoding alone: for each transfer syntax its decoder, and the time for a DX whole and as the network needs it.

python -m benchmarks.decode --json decode.json            a DX of 2500 × 2048, 12 bit, in each syntax that we write
python -m benchmarks.decode --corpus FOLDER               every file of a folder, by syntax
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from benchmarks.measure import Spread, report
from router.demo.measure import radiographs
from router.dicom.uids import EXPLICIT, IMPLICIT
from router.pixels import decode, render
from router.pixels.wrap import ENCODERS, wrap_image

SIZES = (224, 512)


def milliseconds(call: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return times


def measure(path: Path, rounds: int) -> dict[str, object]:
    _, seen = render(path, SIZES[0], frozenset())
    small, large = (
        Spread.of(milliseconds(functools.partial(render, path, size, frozenset()), rounds)) for size in SIZES
    )
    whole = Spread.of(milliseconds(functools.partial(decode, path), rounds))
    return {"decoder": seen.facts.decoder, "whole_ms": whole, "to_224_px_ms": small, "to_512_px_ms": large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    if options.corpus:
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for path in sorted(options.corpus.iterdir()):
            with path.open("rb") as file:
                if file.read(132)[128:] != b"DICM":
                    continue
            _, seen = render(path, SIZES[0], frozenset())
            name = UID(str(read_file_meta_info(path).get("TransferSyntaxUID", ""))).name or "not said"
            found[name, seen.facts.decoder or seen.pixels].append(seen.render_ms)
        for (name, decoder), times in sorted(found.items()):
            table[name] = {"decoder": decoder, "files": len(times), "to_224_px_ms": Spread.of(times)}
    else:
        with tempfile.TemporaryDirectory() as name:
            grey = dcmread(radiographs(Path(name), 1)[0]).pixel_array.astype(np.uint16)
            for syntax in (EXPLICIT, IMPLICIT, *ENCODERS):
                path = wrap_image(grey, Path(name) / "one.dcm", transfer_syntax=syntax)
                table[UID(syntax).name] = measure(path, options.rounds)
    report("decode", table, options.json)


if __name__ == "__main__":
    main()
