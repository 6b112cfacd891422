"""What the pages need of a node (`node.Node`)."""

from __future__ import annotations

from typing import Any, Protocol

from router.config import Settings
from router.node.orders import Order
from router.spool import Spool


class View(Protocol):
    """What the pages see of a node."""

    def status(self) -> dict[str, Any]: ...

    def model_report(self) -> dict[str, Any]: ...


class Running(Protocol):
    """A node that runs."""

    @property
    def view(self) -> View: ...

    @property
    def spool(self) -> Spool: ...

    def settings(self) -> Settings: ...

    def carry_out(self, order: Order, who: str) -> dict[str, Any]: ...
