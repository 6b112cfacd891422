"""What this machine would sustain: radiographs of full size through the whole node, and the model alone.

Sender, node and downstream nodes share the machine, so the figure is on the careful side.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.commands.send_files import send_files
from router.commands.walking import Found
from router.config.settings import DestinationSettings
from router.demo.network import LOOPBACK
from router.demo.phantoms import PARTS, radiograph
from router.demo.run import Stage
from router.model.load import Model, sample_pictures
from router.pixels.wrap import wrap_image

ROWS, COLUMNS = 2500, 2048
"""A usual detector: 10 MB an instance."""
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Sustained:
    """Instances a second over the whole way, and how many were not delivered in time."""

    sent: int
    delivered: int
    per_second: float
    megabytes_per_second: float


def radiographs(folder: Path, count: int) -> list[Path]:
    """Phantoms at full size, each with noise of its own."""
    rng = np.random.default_rng(0)
    paths = []
    for n in range(count):
        small = radiograph(list(PARTS)[n % len(PARTS)])
        rows = np.linspace(0, small.shape[0] - 1, ROWS).astype(int)
        columns = np.linspace(0, small.shape[1] - 1, COLUMNS).astype(int)
        noise = rng.integers(-12, 13, (ROWS, COLUMNS))
        grey = np.clip(small[np.ix_(rows, columns)] + noise, 0, 4095).astype(np.uint16)
        paths.append(wrap_image(grey, folder / f"benchmark-{n}.dcm"))
    return paths


def route(paths: Sequence[Path], on: Stage) -> Sustained:
    """Send all on one association, and wait until each has arrived where its decision says."""
    node = DestinationSettings("node", on.ae_title, LOOPBACK, on.port)
    before = _arrived(on)
    began = time.monotonic()
    sent = sum(one.arrived for one in send_files(map(Found, paths), node, "MODALITY"))
    while _arrived(on) - before < sent and time.monotonic() - began < SECONDS:
        time.sleep(0.02)
    seconds = max(one.last for one in on.downstream) - began
    delivered = _arrived(on) - before
    size = sum(path.stat().st_size for path in paths) / 1e6
    return Sustained(len(paths), delivered, delivered / seconds, size / seconds)


def _arrived(on: Stage) -> int:
    return sum(len(digests) for one in on.downstream for digests in one.arrived.values())


def classify(model: Model, rounds: int = 20) -> dict[int, float]:
    """Milliseconds for one picture, by batch size: the median of some rounds."""
    sample = sample_pictures(model.card.size)
    times = {}
    for batch in (1, 4, 16):
        pictures = np.resize(sample, (batch, model.card.size, model.card.size))
        model.predict(pictures)
        got = []
        for _ in range(rounds):
            began = time.perf_counter()
            model.predict(pictures)
            got.append(1000 * (time.perf_counter() - began) / batch)
        times[batch] = statistics.median(got)
    return times
