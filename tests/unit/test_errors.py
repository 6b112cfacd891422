"""Every error class of the program either reaches a person, and is a RouterError, or is known not to."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import router
from router.errors import RouterError, explain

ANSWERS = {
    "CommandError", "DataSetError", "ExpensiveError", "Impossible", "NotEvenError", "NotTranscodedError",
    "PeerClosedError", "ProtocolError", "RefusedError", "SendError", "Skip", "Spent", "UndecodableError",
    "UnparseableError", "UnreadableError", "UnverifiedError", "WorkerDiedError", "WrongError", "_TooDeepError",
    "_WrongError",
}  # fmt: skip
"""What one part of the program tells another: each is caught there, and becomes an outcome or a RouterError."""


def classes() -> set[type[Exception]]:
    found: set[type[Exception]] = set()
    for module in pkgutil.walk_packages(router.__path__, "router."):
        if "__main__" in module.name or ".migrations" in module.name or "_worker" in module.name:
            continue
        for one in vars(importlib.import_module(module.name)).values():
            if isinstance(one, type) and issubclass(one, Exception) and one.__module__.startswith("router."):
                found.add(one)
    return found


def test_an_error_is_for_a_person_or_between_parts_of_the_program() -> None:
    found = classes()
    assert {one.__name__ for one in found if not issubclass(one, RouterError)} == ANSWERS
    assert {one.exit_code for one in found if issubclass(one, RouterError)} == {1, 2}


def test_a_fault_of_the_program_is_not_explained_away() -> None:
    assert explain(RouterError("do this")) == (1, "do this", {})
    with pytest.raises(ValueError, match="a fault"):
        explain(ValueError("a fault"))
