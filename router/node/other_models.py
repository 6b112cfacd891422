"""What a node without a model knows of models: other nodes, with the role `classify`, have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from router.config import Settings
from router.node.model_store import ModelStore, StoreError
from router.node.orders import ModelOrder


class OtherModels:
    """The same questions as `ServingModels` answers."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._store = ModelStore(settings().spool.path, settings().model.path)

    def start(self) -> None:
        """Nothing has to be started."""

    def stop(self, _deadline: float = 0.0) -> None:
        """Nothing has been started."""

    @property
    def is_ready(self) -> bool:
        """There is nothing to wait for."""
        return True

    def info(self) -> dict[str, Any]:
        return {}

    def digests(self) -> dict[str, str]:
        return {}

    def begin(self, order: ModelOrder, who: str) -> dict[str, Any]:
        raise StoreError("this node has no model; give the order to one with the role classify")

    def report(self) -> dict[str, Any]:
        state = asdict(self._store.state())
        return state | {"inference": {}, "shadow_ready": False, "busy": False, "error": ""}
