"""Sets of numbers as intervals between cuts, for `world`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

Cut = tuple[float, int]
"""Just before a number (0), or just behind it (1)."""
Intervals = tuple[tuple[Cut, Cut], ...]
"""In rising order. None is empty, and none touches another."""

LEAST, MOST = (-math.inf, 0), (math.inf, 1)
ALL: Intervals = ((LEAST, MOST),)
IPV6_AT = 1 << 33
"""The number of the first IPv6 address. They come after those of IPv4."""


def where(operator: str, limit: float) -> Intervals:
    """The numbers for which the comparison holds. None for NaN."""
    if math.isnan(limit):
        return ALL if operator == "!=" else ()
    at, behind = (limit, 0), (limit, 1)
    spans: dict[str, Intervals] = {
        "<": ((LEAST, at),),
        "<=": ((LEAST, behind),),
        ">": ((behind, MOST),),
        ">=": ((at, MOST),),
        "==": ((at, behind),),
        "!=": ((LEAST, at), (behind, MOST)),
    }
    return both(spans[operator], ALL)


def both(one: Intervals, other: Intervals) -> Intervals:
    """Their intersection, in one pass over each."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low < high:
            found.append((low, high))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def outside(intervals: Intervals) -> Intervals:
    """The complement."""
    rest, low = [], LEAST
    for start, end in intervals:
        if low < start:
            rest.append((low, start))
        low = end
    return tuple([*rest, (low, MOST)] if low < MOST else rest)


def within(one: Intervals, other: Intervals) -> bool:
    """Whether the first is a subset of the second."""
    return not both(one, outside(other))


def whole(intervals: Intervals) -> Intervals:
    """The intervals cut to whole numbers: each from its first to its last."""
    found: list[tuple[Cut, Cut]] = []
    for (low, behind), (high, up_to) in intervals:
        first = low if math.isinf(low) else math.floor(low) + 1 if behind else math.ceil(low)
        last = high if math.isinf(high) else math.floor(high) if up_to else math.ceil(high) - 1
        if first <= last and not (math.isinf(first) and first == last):
            found.append(((first, 0), (last, 1)))
    return _joined(found)


def networks(given: Iterable[IPv4Network | IPv6Network]) -> Intervals:
    """The addresses of some networks as numbers."""
    spans = []
    for network in given:
        base = IPV6_AT if isinstance(network, IPv6Network) else 0
        spans.append(((base + int(network.network_address), 0), (base + int(network.broadcast_address), 1)))
    return _joined(sorted(spans))


def _joined(spans: Iterable[tuple[Cut, Cut]]) -> Intervals:
    """Intervals of whole numbers in rising order. Adjacent ones become one."""
    found: list[tuple[Cut, Cut]] = []
    for low, high in spans:
        if found and low[0] <= found[-1][1][0] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)
