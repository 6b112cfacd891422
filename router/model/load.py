"""A model's folder to something that answers: the card checked, an engine chosen and warmed, and why it was chosen."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from router.flow import Prediction
from router.model.card import WEIGHTS, Card, CardError
from router.model.engines import Run
from router.model.mobilenet_v1 import MobileNetV1

ENGINES: dict[str, tuple[str, ...]] = {"torch": ("torch_cpu",)}
"""Engines for the CPU, fastest first for `auto`: the setting's name to modules of `engines`."""
WARM_BATCHES = (1, 2, 4, 8, 16)
LARGEST_BATCH = WARM_BATCHES[-1]


@dataclass(frozen=True, slots=True)
class Model:
    """A warm model. `engine` and `why` are for the log; `warm_s` is how long loading took in seconds."""

    card: Card
    engine: str
    why: str
    warm_s: float
    run: Run

    def predict(self, pictures: NDArray[np.uint8]) -> list[Prediction]:
        """Predictions for pictures (n, size, size) uint8, n at least 1."""
        logits, novelty = self.run(pictures)
        return self.card.calibration.predictions(logits, novelty, self.card.digest)


def shipped_model() -> Path:
    """The folder of the model that came with the package (in a checkout: beside it)."""
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "models" / "mobilenet_v1"
    return beside if (beside / "card.json").exists() else package / "models" / "mobilenet_v1"


def load(directory: Path | None, *, device: str = "auto", engine: str = "auto", threads: int = 0) -> Model:
    """Check, build and warm. Raises CardError: one line with the fix."""
    began = time.monotonic()
    directory = directory or shipped_model()
    card = Card.read(directory)
    network = MobileNetV1.read(directory / WEIGHTS)
    name, why, run = _choose(network, card.size, device, engine, threads)
    for batch in WARM_BATCHES:
        run(np.zeros((batch, card.size, card.size), np.uint8))
    return Model(card, name, why, time.monotonic() - began, run)


def _choose(network: MobileNetV1, size: int, device: str, engine: str, threads: int) -> tuple[str, str, Run]:
    if device == "cuda" and not torch.cuda.is_available():
        raise CardError("model.device is cuda, but torch sees no GPU; install the CUDA build and driver, or use auto")
    tried: list[str] = []
    if device != "cpu" and torch.cuda.is_available():
        try:
            return "torch_cuda", "a GPU is there", _build("torch_cuda", network, size, threads)
        except RuntimeError as error:
            if device == "cuda":
                raise CardError(f"the GPU failed ({type(error).__name__}); use model.device: auto") from error
            tried.append(f"the GPU failed ({type(error).__name__})")
    wanted = tuple(ENGINES) if engine == "auto" else (engine,)
    for setting in wanted:
        for module in ENGINES.get(setting, ()):
            try:
                run = _build(module, network, size, threads)
            except (ImportError, RuntimeError) as error:
                tried.append(f"{module}: {type(error).__name__}")
                continue
            return module, "; ".join([*tried, "the fastest that is installed and agrees"]), run
    raise CardError(f"model.engine {engine} is not available here ({'; '.join(tried) or 'unknown'}); use auto")


def _build(module: str, network: MobileNetV1, size: int, threads: int) -> Run:
    run: Run = importlib.import_module(f"router.model.engines.{module}").build(network, size, threads)
    return run
