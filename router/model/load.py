"""A model's folder to something that answers: the card checked, an engine chosen and warmed, and why it was chosen."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import to_install
from router.flow import Prediction
from router.model import reference, weights
from router.model.architecture import Weights
from router.model.card import WEIGHTS, Card, CardError
from router.model.engines import ENGINES, INT8, ON_GPU, REFERENCE, EngineError, Run
from router.model.files import shipped_model as shipped_model
from router.model.int8 import Int8
from router.model.polarity import look_right
from router.model.reference import sample_pictures as sample_pictures

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What a driver makes where torch could see a GPU: NVIDIA's, AMD's, and that of a virtual machine under Windows."""
WARM_BATCHES = (1, 2, 4, 8, 16)
"""Pictures that are asked about at once, and so tried before the first comes."""
LARGEST_ON_CPU = 4
"""A processor gains nothing from more (`python -m benchmarks.classify`), and they take 30 MB."""


@dataclass(frozen=True, slots=True)
class Model:
    """A warm model. `engine` and `why` are for the log; `warm_s` is how long loading took in seconds."""

    card: Card
    engine: str
    why: str
    warm_s: float
    run: Run

    @property
    def largest_batch(self) -> int:
        """Pictures in one batch at most."""
        return _batches(self.engine)[-1]

    def predict(self, pictures: NDArray[np.uint8]) -> list[Prediction]:
        """Predictions for pictures (n, size, size) uint8, n at least 1."""
        calibration = self.card.calibration
        logits, novelty, inverted = look_right(self.run, pictures, calibration)
        return calibration.predictions(logits, novelty, self.card.digest, inverted)


def load(
    directory: Path | None, *, card: Card | None = None, device: str = "auto", engine: str = "auto", threads: int = 0
) -> Model:
    """Check, build and warm. Raises CardError: one line with the fix. Torch is imported only where it may answer.

    `card`: the folder's, if it has just been read.
    """
    began = time.monotonic()
    directory = directory or shipped_model()
    card = card or Card.read(directory)
    network = weights.read(directory / WEIGHTS)
    card.must_fit(network)
    name, why, run = _choose(network, card, directory, device, engine, threads)
    for batch in _batches(name):
        run(np.zeros((batch, card.size, card.size), np.uint8))
    held = name not in (REFERENCE, ON_GPU)  # against the reference, which is finite
    if not held and not all(np.isfinite(values).all() for values in run(sample_pictures(card.size))):
        raise CardError(f"{directory / WEIGHTS}: what it answers is not finite; copy the model's folder again")
    return Model(card, name, why, time.monotonic() - began, run)


def _batches(engine: str) -> list[int]:
    return [batch for batch in WARM_BATCHES if engine == ON_GPU or batch <= LARGEST_ON_CPU]


def _choose(
    network: Weights, card: Card, directory: Path, device: str, engine: str, threads: int
) -> tuple[str, str, Run]:
    passed_over: list[str] = []
    if device != "cpu" and _has_gpu(must=device == "cuda"):
        try:
            return ON_GPU, "a GPU is there", build("torch_cuda", network, card.size, threads)
        except RuntimeError as error:
            if device == "cuda":
                raise CardError(f"the GPU failed ({type(error).__name__}); use model.device: auto") from error
            passed_over.append(f"the GPU failed ({type(error).__name__})")
    for name in ENGINES if engine == "auto" else (engine,):
        try:
            extra = (Int8.read(directory, card.digest),) if name == INT8 else ()
            run = build(ENGINES[name], network, card.size, threads, *extra)
        except EngineError as error:
            passed_over.append(f"{name}: {error}")
        except ImportError:
            program = name.split()[0]
            how = to_install("torch") if program == "torch" else f"pip install {program}"
            passed_over.append(f"{program} is not installed ({how})")
        except RuntimeError as error:
            passed_over.append(f"{name} failed ({type(error).__name__})")
        else:
            if name == REFERENCE or _agrees(run, network, card, directory):
                chosen = "as configured" if engine != "auto" else "the fastest that is installed and agrees"
                return name, "; ".join(dict.fromkeys([*passed_over, chosen])), run
            passed_over.append(f"{name} disagrees with the reference on this processor")
    raise CardError(f"model.engine: {engine}: {'; '.join(dict.fromkeys(passed_over))}; use auto")


def _has_gpu(*, must: bool) -> bool:
    """Whether torch sees a GPU; it is not even asked where there can be none. Raises CardError if there must be one."""
    if not (must or any(Path(driver).exists() for driver in DRIVERS)):
        return False
    try:
        import torch
    except ImportError as error:
        if must:
            raise CardError(f"model.device is cuda, but torch is not installed; {to_install('torch')}") from error
        return False
    if must and not torch.cuda.is_available():
        raise CardError("model.device is cuda, but torch sees no GPU; install the CUDA build and driver, or use auto")
    return torch.cuda.is_available()


def _agrees(run: Run, network: Weights, card: Card, directory: Path) -> bool:
    """Whether an engine gives what the plain network gives, on pictures that anybody can make again."""
    outputs = len(network["head.bias"])
    wanted = reference.read(directory, card.digest, card.size, outputs) or reference.computed(network, card.size)
    return wanted.agrees(*run(sample_pictures(card.size)))


def build(module: str, network: Weights, size: int, threads: int, *extra: Int8) -> Run:
    """An engine by its module's name, with what it needs beside the weights. Raises ImportError or RuntimeError."""
    run: Run = importlib.import_module(f"router.model.engines.{module}").build(network, size, threads, *extra)
    return run
