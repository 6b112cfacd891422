"""The life of a model: swapped under traffic, tested before it serves, in shadow, and swapped back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.config.settings import ModelSettings
from router.flow import Seen
from router.inference import Inference, InferenceError
from router.model.card import Card, save_random_model
from router.pixels.wrap import wrap_image


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models, and the folder of one whose weights are not those of its card."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new", "broken")):
        save_random_model(folder / name, size=64, seed=seed)
    (folder / "broken" / "model.safetensors").write_bytes((folder / "old" / "model.safetensors").read_bytes())
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def dx(tmp_path: Path) -> Path:
    return wrap_image(np.random.default_rng(0).integers(0, 4096, (300, 200), np.uint16), tmp_path / "dx.dcm")


@pytest.fixture(scope="module")
def started(models: dict[str, Path]) -> Iterator[Inference]:
    inference = Inference(ModelSettings(path=models["old"], device="cpu", engine="torch", workers=1))
    inference.start()
    yield inference
    inference.stop(5)


@dataclass
class Swap:
    """A running inference, the digest of its model, and another model with its digest."""

    inference: Inference
    old: str
    path: Path
    new: str


@pytest.fixture
def swap(started: Inference, models: dict[str, Path]) -> Swap:
    wait_for(lambda: started.is_ready)
    old = started.info()["model"]
    path = next(models[name] for name in ("old", "new") if Card.read(models[name]).digest != old)
    return Swap(started, old, path, Card.read(path).digest)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def answered_by(future: Future[Seen]) -> str:
    prediction = future.result(60).prediction
    assert prediction is not None
    return prediction.model


# -- the swap ----------------------------------------------------------------------------------------------------------


def test_a_swap_under_traffic_loses_nothing_and_nobody_waits_for_it(swap: Swap, dx: Path) -> None:
    inference, before = swap.inference, swap.inference.info()["pid"]
    asked: list[Future[Seen]] = []
    done = threading.Event()

    def traffic() -> None:
        while not done.is_set():
            asked.append(inference.look(dx, frozenset()))
            answered_by(asked[-1])

    def commit() -> None:  # the new process is warm, and the old one still answers
        assert answered_by(inference.look(dx, frozenset())) == swap.old

    thread = threading.Thread(target=traffic)
    thread.start()
    inference.swap(swap.path, commit)
    last = inference.look(dx, frozenset())
    done.set()
    thread.join(60)
    digests = [answered_by(future) for future in asked]
    assert digests == sorted(digests, key=[swap.old, swap.new].index), "the old one was asked after the new one"
    assert digests[0] == swap.old
    assert answered_by(last) == swap.new
    assert inference.info()["model"] == swap.new
    wait_for(lambda: not Path(f"/proc/{before}").exists())


def test_what_the_old_process_was_asked_it_answers(swap: Swap, dx: Path) -> None:
    inference, pid = swap.inference, swap.inference.info()["pid"]
    waiting: list[Future[Seen]] = []

    def commit() -> None:
        os.kill(pid, signal.SIGSTOP)
        waiting.extend(inference.look(dx, frozenset()) for _ in range(5))

    inference.swap(swap.path, commit)
    assert answered_by(inference.look(dx, frozenset())) == swap.new
    assert not any(future.done() for future in waiting)
    os.kill(pid, signal.SIGCONT)
    assert {answered_by(future) for future in waiting} == {swap.old}


@pytest.mark.parametrize("why", ["refused", "not written"])
def test_a_swap_that_fails_changes_nothing(swap: Swap, models: dict[str, Path], dx: Path, why: str) -> None:
    def commit() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InferenceError if why == "refused" else OSError, match=r"digest|space"):
        swap.inference.swap(models["broken"] if why == "refused" else swap.path, commit)
    assert answered_by(swap.inference.look(dx, frozenset())) == swap.old
    wait_for(lambda: len(swap.inference._all) == 1)


def test_after_a_swap_it_is_the_new_model_that_is_restarted_however_early_it_dies(swap: Swap, dx: Path) -> None:
    inference = swap.inference

    def commit() -> None:
        (new,) = inference._all - {inference._current}
        new.kill()
        wait_for(lambda: new not in inference._all)

    inference.swap(swap.path, commit)
    wait_for(lambda: inference.is_ready)
    assert answered_by(inference.look(dx, frozenset())) == swap.new
