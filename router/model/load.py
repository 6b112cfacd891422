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
from router.model.calibration import Calibration
from router.model.card import WEIGHTS, Card, CardError
from router.model.engines import ENGINES, INT8, ON_GPU, REFERENCE, EngineError, Run
from router.model.files import shipped_model as shipped_model
from router.model.int8 import Int8
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.model.polarity import look_right
from router.observe import to_install

MOST_APART, MOST_NOVELTY_APART = 0.05, 0.15
"""How far a probability, and (relatively) a novelty, may be from the plain network's on the sample pictures."""
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
        calibration = self.card.calibration
        logits, novelty, inverted = look_right(self.run, pictures, calibration)
        return calibration.predictions(logits, novelty, self.card.digest, inverted)


def load(directory: Path | None, *, device: str = "auto", engine: str = "auto", threads: int = 0) -> Model:
    """Check, build and warm. Raises CardError: one line with the fix."""
    began = time.monotonic()
    directory = directory or shipped_model()
    card = Card.read(directory)
    network = MobileNetV1.read(directory / WEIGHTS)
    card.must_fit(network)
    name, why, run = _choose(network, card, directory, device, engine, threads)
    for batch in WARM_BATCHES:
        run(np.zeros((batch, card.size, card.size), np.uint8))
    if not all(np.isfinite(values).all() for values in run(sample_pictures(card.size))):
        raise CardError(f"{directory / WEIGHTS}: what it answers is not finite; copy the model's folder again")
    return Model(card, name, why, time.monotonic() - began, run)


def _choose(
    network: MobileNetV1, card: Card, directory: Path, device: str, engine: str, threads: int
) -> tuple[str, str, Run]:
    size = card.size
    if device == "cuda" and not torch.cuda.is_available():
        raise CardError("model.device is cuda, but torch sees no GPU; install the CUDA build and driver, or use auto")
    passed_over: list[str] = []
    if device != "cpu" and torch.cuda.is_available():
        try:
            return ON_GPU, "a GPU is there", build("torch_cuda", network, size, threads)
        except RuntimeError as error:
            if device == "cuda":
                raise CardError(f"the GPU failed ({type(error).__name__}); use model.device: auto") from error
            passed_over.append(f"the GPU failed ({type(error).__name__})")
    for name in ENGINES if engine == "auto" else (engine,):
        try:
            extra = (Int8.read(directory, card.digest),) if name == INT8 else ()
            run = build(ENGINES[name], network, size, threads, *extra)
        except EngineError as error:
            passed_over.append(f"{name}: {error}")
        except ImportError:
            passed_over.append(f"{name.split()[0]} is not installed ({to_install('fast')})")
        except RuntimeError as error:
            passed_over.append(f"{name} failed ({type(error).__name__})")
        else:
            if name == REFERENCE or _agrees(run, network, size):
                chosen = "as configured" if engine != "auto" else "the fastest that is installed and agrees"
                return name, "; ".join(dict.fromkeys([*passed_over, chosen])), run
            passed_over.append(f"{name} disagrees with the reference on this processor")
    raise CardError(f"model.engine: {engine}: {'; '.join(passed_over)}; use auto")


def _agrees(run: Run, network: MobileNetV1, size: int) -> bool:
    """Whether an engine gives what the plain network gives, on pictures that anybody can make again."""
    pictures = sample_pictures(size)
    with torch.inference_mode():
        logits, novelty = network.eval()(scale(torch.from_numpy(pictures)))
    found, found_novelty = run(pictures)
    chances = Calibration().probabilities
    apart = np.abs(chances(found) - chances(logits.numpy())).max()
    novelty_apart = np.abs(found_novelty - novelty.numpy()) / (np.abs(novelty.numpy()) + 0.1)
    return bool(apart <= MOST_APART and novelty_apart.max() <= MOST_NOVELTY_APART)


def sample_pictures(size: int) -> NDArray[np.uint8]:
    """Some pictures (n, size, size) of smooth shadows and noise, always the same."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size]
    pictures = []
    for _ in range(6):
        shadows = sum(
            rng.uniform(-1, 1) * np.exp(-(((x - rng.random()) / 0.2) ** 2 + ((y - rng.random()) / 0.3) ** 2))
            for _ in range(6)
        )
        noisy = shadows + rng.normal(0, 0.05, (size, size))
        pictures.append((255 * (noisy - noisy.min()) / np.ptp(noisy)).astype(np.uint8))
    return np.stack(pictures)


def build(module: str, network: MobileNetV1, size: int, threads: int, *extra: Int8) -> Run:
    """An engine by its module's name, with what it needs beside the weights. Raises ImportError or RuntimeError."""
    run: Run = importlib.import_module(f"router.model.engines.{module}").build(network, size, threads, *extra)
    return run
