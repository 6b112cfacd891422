"""The model alone: each engine and batch size beside eager torch, in one interleaved run.

python -m benchmarks.classify --size 512 --rounds 7 --json classify.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Spread, report
from router.model.card import WEIGHTS, Card
from router.model.engines import ENGINES, INT8, ON_GPU, EngineError, Run
from router.model.int8 import Int8
from router.model.load import build, sample_pictures, shipped_model
from router.model.mobilenet_v1 import MobileNetV1, scale


def eager(network: MobileNetV1) -> Run:
    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            logits, novelty = network(scale(torch.from_numpy(pictures)))
        return logits.numpy(), novelty.numpy()

    return run


def engines(size: int, threads: int) -> dict[str, Run]:
    torch.set_num_threads(threads)
    network = MobileNetV1.read(shipped_model() / WEIGHTS)
    found: dict[str, Run] = {"eager torch": eager(network)}
    modules = dict(ENGINES) | ({ON_GPU: "torch_cuda"} if torch.cuda.is_available() else {})
    for name, module in modules.items():
        began = time.monotonic()
        try:
            extra = (Int8.read(shipped_model(), Card.read(shipped_model()).digest),) if name == INT8 else ()
            found[name] = build(module, network.weights(), size, threads, *extra)
        except (ImportError, RuntimeError, EngineError) as error:
            print(f"{name}: not here ({type(error).__name__})")
            continue
        print(f"{name}: built in {time.monotonic() - began:.1f} s")
    return found


def timed(run: Run, pictures: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    run(pictures)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = engines(options.size, options.threads)
    sample = sample_pictures(options.size)
    table: dict[str, dict[str, object]] = {}
    for batch in options.batches:
        pictures = np.resize(sample, (batch, options.size, options.size))
        times: dict[str, list[float]] = {name: [] for name in runs}
        # Many images at once are a measurement of many.
        rounds, tries = (options.rounds, 3) if batch < 16 else (3, 1)
        for run in runs.values():
            run(pictures)
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(min(timed(run, pictures) for _ in range(tries)) / batch)
        for name, got in times.items():
            table[f"{name}, batch {batch}"] = {"ms_per_image": Spread.of(got)}
    report(
        f"classify at {options.size} px, {options.threads} threads", table, options.json, against="eager torch, batch 1"
    )


if __name__ == "__main__":
    main()
