"""The case of a number: the same bytes again from target, seed and number, while grammar and corpus are the same."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz import pdus
from tests.fuzz.data_sets import CODINGS, compressed, data_set, part10
from tests.fuzz.mutate import mutate

MOST_SEED = 400_000
"""Bytes of a corpus file beyond which it is left out: thousands of small cases find more than a few large ones."""


@cache
def corpus(root: Path) -> tuple[bytes, ...]:
    """Part 10 files beside the checkout, and what the network recordings send; nothing where there are none."""
    found: list[bytes] = []
    for path in sorted(root.glob("[123]-*/*")):
        if path.suffix in (".dcm", ".gz") and path.stat().st_size <= MOST_SEED:
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            found += [data] if len(data) <= MOST_SEED else []
    return tuple(found)


@cache
def recordings(root: Path) -> tuple[bytes, ...]:
    """What each recorded stream sends, without its pauses."""
    found = []
    for path in sorted(root.glob("4-network/*.pdu")):
        sent = b""
        for line in path.read_text().splitlines():
            word, *rest = line.split() or [""]
            if word == "S":
                sent += bytes.fromhex(rest[0])
            elif word == "S*":
                sent += (bytes.fromhex(rest[1]) * min(int(rest[0]), 64))[:MOST_SEED]
        found.append(sent)
    return tuple(found)


def case(target: str, seed: int, number: int, root: Path) -> bytes:
    """The bytes of one case; `root` is the corpus's folder, which may be absent."""
    rng = Random(f"{target}/{seed}/{number}")
    if target == "requestor":
        return pdus.answers(rng)
    if target in ("association", "node"):
        seeds = recordings(root)
        if seeds and rng.random() < 0.1:
            return mutate(rng, rng.choice(seeds), seeds)
        return pdus.stream(rng, seeds)
    return _file(rng, corpus(root), exact=target in ("pixels", "picture"), share=0.05 if target == "picture" else 0.4)


def _file(rng: Random, seeds: Sequence[bytes], *, exact: bool, share: float) -> bytes:
    """A Part 10 file: from the corpus and mutated, compressed (a `share` of them), or native.

    `exact`: elements are seldom wrong.
    """
    twist = rng.choice((0, 0, 0, 0.002, 0.02) if exact else (0, 0.005, 0.02, 0.1))
    kind = rng.random()
    if seeds and kind < 0.4:
        return mutate(rng, rng.choice(seeds), rng.sample(seeds, min(2, len(seeds))))
    if kind < 0.4 + share:
        return part10(*compressed(rng, twist))
    syntax = rng.choice(CODINGS)
    whole = part10(syntax, data_set(rng, syntax, twist))
    return mutate(rng, whole, seeds[:1]) if rng.random() < 0.4 else whole
