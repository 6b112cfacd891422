"""A model that costs nothing, for the inference process of a node whose PYTHONPATH begins with this folder.

Python runs this module at its start. In an inference process it puts a stand-in where the model would be imported, so
that a start takes a second and not four; the process, its pipe and its pixel workers are the product's own.

LEASE_SECONDS shortens the claims of a node on PostgreSQL: what a killed one held is free after seconds, not a minute.
"""

import os
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any


class CardError(Exception):
    """Never raised here; inference imports its name."""


@dataclass(frozen=True)
class Model:
    """Sure of nothing, whatever it is shown."""

    card: Any
    engine: str = "stub"
    why: str = "for killing"
    warm_s: float = 0.0
    largest_batch: int = 16

    def predict(self, pictures: Any) -> list[Any]:
        from router.flow import UNCERTAIN, Prediction

        unsure = Prediction((0.2,) * 5, "others", 0.2, 0.0, False, UNCERTAIN, self.card.digest)
        return [unsure] * len(pictures)


class Card:
    """The card of any folder."""

    @classmethod
    def read(cls, directory: object) -> Any:
        return SimpleNamespace(size=64, digest="0" * 64)


def load(directory: object, *, card: Any, **_: object) -> Model:
    return Model(card)


def shipped_model() -> str:
    return "none"


def _stand_in(name: str, **members: object) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


if "router.inference" in sys.orig_argv:
    _stand_in("router.model.card", Card=Card, CardError=CardError)
    _stand_in("router.model.load", Model=Model, load=load, shipped_model=shipped_model)

if "serve" in sys.orig_argv and "LEASE_SECONDS" in os.environ:
    from router.spool import claims

    claims.LEASE = float(os.environ["LEASE_SECONDS"])
