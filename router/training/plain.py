"""Models as PyTorch runs them, without any engine: what training, and the cards of models, are judged by."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from router.model.card import CARD, Card, CardError
from router.model.mobilenet_v1 import MobileNetV1, scale
from router.training.evaluate import Model
from router.training.networks import Learner


def read_plain(directory: Path, device: str = "auto") -> Model:
    """The model of a folder: `card.json` and weights, or a run's `network.pt`. Raises CardError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    other = directory / "network.pt"
    if not (directory / CARD).exists() and other.exists():
        try:
            state = torch.load(other, map_location="cpu", weights_only=True)
            learner = Learner(state["recipe"]["network"])
            learner.net.load_state_dict(state["state"])
            return _ready(learner, learner.name, int(state["recipe"]["size"]), device)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise CardError(f"{other}: not a network of a run ({type(error).__name__}); train it again") from error
    card = Card.read(directory)
    network = MobileNetV1.read(directory / "model.safetensors")
    model = _ready(network, card.architecture, card.size, device)
    model.calibration, model.digest = card.calibration, card.digest
    return model


def _ready(network: torch.nn.Module, name: str, size: int, device: str) -> Model:
    where = torch.device(device)
    network.eval().to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            x = scale(torch.from_numpy(pictures).to(where)).contiguous(memory_format=torch.channels_last)
            out = network(x)
        logits, novelty = (out["class"], torch.zeros(len(x))) if isinstance(out, dict) else out
        return logits.float().cpu().numpy(), novelty.float().cpu().numpy()

    cpu = f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
    shown = torch.cuda.get_device_name(where) if where.type == "cuda" else cpu
    return Model(run, name, size, sum(p.numel() for p in network.parameters()), shown)
