"""What is wrong with a configuration: where it stands and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from router.config.settings import Unusable
from router.errors import RouterError

MOST = 50
"""Mistakes that are collected, and warnings that are told. To find what was meant takes a while for each mistake, and
a file may hold ten thousand."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `line` counts from 1, and is 0 where the mistake is the file itself."""

    file: str
    line: int
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{place}: {self.message}" + (f" ({self.fix})" if self.fix else "")
        return "".join(c if c.isprintable() else "?" for c in text)  # a terminal may obey what a file holds


class ConfigError(RouterError):
    """Everything that is wrong with a configuration, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))

    def details(self) -> dict[str, Any]:
        return {"problems": [asdict(problem) for problem in self.problems]}


class Problems:
    """Collects mistakes while reading goes on, so that a person sees all of them at once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Problem] = []
        self.warnings: list[tuple[int, str]] = []
        """(line, text) of what is allowed, but probably a mistake."""
        self.unusable: list[Unusable] = []

    def add(self, line: int, message: str, fix: str = "") -> None:
        problem = Problem(self.file, line, message, fix)
        if problem not in self.found:
            self.found.append(problem)
        if len(self.found) >= MOST:
            last = max(problem.line for problem in self.found)
            raise ConfigError([*self.found, Problem(self.file, last, "there may be more mistakes", "correct these")])

    def add_for(self, variable: str, message: str, fix: str = "") -> None:
        """A mistake in an environment variable, which has no line."""
        self.found.append(Problem(f"environment variable {variable}", 0, message, fix))

    def warn(self, line: int, message: str) -> None:
        self.warnings.append((line, message))

    def warned(self, others: Iterable[tuple[int, str]] = ()) -> list[tuple[int, str]]:
        """The warnings, after others, and how many were left out. A long table may be worth a warning on each line."""
        found = [*others, *self.warnings]
        more = len(found) - MOST
        return found if more <= 0 else [*found[:MOST], (found[MOST][0], f"{more} more warnings, from this line on")]

    def check(self) -> None:
        """Raise ConfigError if anything was found."""
        if self.found:
            raise ConfigError(self.found)


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'port'?`, or what there is to choose from, or nothing when that is too much to read."""
    words = sorted(set(known))
    lowered = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{lowered[close[0]]}'?"
    return "use one of: " + ", ".join(words) if 0 < len(words) <= 20 else ""
