"""What a node without a model knows of models: other nodes, with the role `classify`, have them.

A choice that is ordered here is written down, and those nodes follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from router.config import Settings
from router.node.orders import ModelOrder
from router.node.serving_models import behind, store_of, write_down
from router.spool import Spool


class OtherModels:
    """The same questions as `ServingModels` answers."""

    def __init__(self, spool: Spool, settings: Callable[[], Settings]) -> None:
        self._spool = spool
        self._store = store_of(spool, settings().model.path)
        self.version = 0
        self.problem = ""

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

    def follow(self) -> None:
        """There is nothing that could follow."""

    def begin(self, order: ModelOrder, who: str) -> dict[str, Any]:
        """Write an order's choice down. Raises StoreError, SpoolError. `report` says which nodes have not followed."""
        plan = self._store.plan(order, who, runs_here=False)
        if plan != self._store.state():
            self._store.write(plan, who)
            write_down(self._spool, plan, order, who)
        return {"begun": True}

    def report(self) -> dict[str, Any]:
        state = self._store.state()
        return state.as_dict() | {
            "inference": {}, "shadow_ready": bool(state.shadow), "busy": False, "error": "",
            "behind": behind(self._spool, state),
        }  # fmt: skip
