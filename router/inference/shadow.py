"""A second model in shadow. It looks at decided instances. Its predictions are recorded and change nothing.

It has its own processes with a low priority. At most `MOST` questions wait for it. Further ones are dropped and
counted, so a slow, broken or dead shadow delays no instance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from router.config.settings import ModelSettings
from router.flow import Prediction, Seen
from router.inference.process import InferenceError
from router.inference.supervisor import Inference
from router.observe.metrics import SHADOW_PREDICTIONS

MOST = 16
NICE = 10


class Shadow:
    """One shadow model. `start` may take long; `look` never does."""

    def __init__(self, settings: ModelSettings, path: Path) -> None:
        self.name = path.name
        self._inference = Inference(replace(settings, path=path, workers=1), nice=NICE)
        self._free = threading.BoundedSemaphore(MOST)

    def start(self) -> None:
        """Raises InferenceError or OSError."""
        self._inference.start()

    def stop(self) -> None:
        self._inference.stop(0.5)

    @property
    def is_ready(self) -> bool:
        return self._inference.is_ready

    @property
    def digest(self) -> str:
        """Of the weights, in hex; empty before the start."""
        return str(self._inference.info().get("model", ""))

    def look(self, path: Path, tags: frozenset[int], served: Prediction, then: Callable[[Seen], None]) -> None:
        """Ask about an instance for which `served` counts. If there is a prediction, `then` gets what was seen."""
        if not self._inference.is_ready or not self._free.acquire(blocking=False):
            SHADOW_PREDICTIONS.labels("dropped").inc()
            return

        def back(future: Future[Seen]) -> None:
            self._free.release()
            try:
                seen = future.result()
            except InferenceError:
                seen = Seen("failed")
            if seen.prediction is None:
                SHADOW_PREDICTIONS.labels("failed").inc()
                return
            same = seen.prediction.class_name == served.class_name
            SHADOW_PREDICTIONS.labels("agreed" if same else "differed").inc()
            then(seen)

        self._inference.look(path, tags).add_done_callback(back)
