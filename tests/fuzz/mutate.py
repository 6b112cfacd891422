"""What is done to bytes that were right: lengths, types, flips, cuts, copies, splices. All from the given `Random`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LONG_NUMBERS = (*NUMBERS, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
VRS = b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
ODD_VRS = (*VRS, b"QX", b"\0\0", b"ob", b"??", b"\xff\xff", b"O ")
PLACES = re.compile(rb"[A-Z]{2}(?=[\0-\x20])|\xfe\xff[\0\r\xdd]\xe0|\xff[\x4f-\x64\x90-\x93\xc0-\xfe]|\xe0\x7f\x10\0")
"""Where structure is likely: a VR, an item tag, a marker of a codestream, pixel data."""
MOST = 1 << 20
"""Bytes that a case may have in the end."""

Change = Callable[[Random, bytearray], None]


def mutate(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to eight changes, few more often than many; `others` are what parts may be taken from."""
    changed = bytearray(data[:MOST])
    for _ in range(min(8, 1 + int(rng.expovariate(0.7)))):
        if others and rng.random() < 0.15:
            _splice(rng, changed, rng.choice(others))
        else:
            rng.choice(CHANGES)(rng, changed)
    return bytes(changed[:MOST])


def _place(rng: Random, data: bytearray) -> int:
    """Near the beginning, at something that looks like structure, or anywhere."""
    if not data:
        return 0
    kind = rng.random()
    if kind < 0.45:
        found = PLACES.search(data, rng.randrange(len(data)))
        if found is not None:
            return min(len(data) - 1, found.start() + rng.randrange(12))
    return rng.randrange(min(len(data), 2048) if kind < 0.75 else len(data))


def _span(rng: Random, data: bytearray) -> tuple[int, int]:
    start = _place(rng, data)
    most = rng.choice((4, 16, 64, 1024, 65536))
    return start, min(len(data), start + rng.randint(1, most))


def _flip(rng: Random, data: bytearray) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: Random, data: bytearray) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x20, 0x5C, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _number(rng: Random, data: bytearray) -> None:
    """A count or length of one, two or four bytes becomes an interesting one, or is off by a little."""
    size = rng.choice((1, 2, 4))
    at = _place(rng, data)
    order = rng.choice(("little", "big"))
    old = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    new = old + rng.choice((-2, -1, 1, 2, 8)) if rng.random() < 0.4 else rng.choice(LONG_NUMBERS)
    data[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]


def _vr(rng: Random, data: bytearray) -> None:
    found = re.compile(rb"[A-Z]{2}(?=[\0-\x20])").search(data, _place(rng, data))
    if found is not None:
        data[found.start() : found.start() + 2] = rng.choice(ODD_VRS)


def _cut(rng: Random, data: bytearray) -> None:
    start, stop = _span(rng, data)
    del data[start:stop]


def _end(rng: Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def _twice(rng: Random, data: bytearray) -> None:
    start, stop = _span(rng, data)
    data[stop:stop] = data[start:stop] * rng.choice((1, 1, 1, 2, 16, 300))
    del data[MOST:]


def _insert(rng: Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = (
        rng.randbytes(rng.choice((1, 2, 4, 8, 64))) if rng.random() < 0.5 else bytes(rng.choice((1, 2, 8, 64)))
    )


def _noise(rng: Random, data: bytearray) -> None:
    start, stop = _span(rng, data)
    data[start:stop] = rng.randbytes(stop - start)


def _splice(rng: Random, data: bytearray, other: bytes) -> None:
    """A piece of another case replaces or joins a piece of this one."""
    if not other:
        return
    start, stop = _span(rng, data)
    begin, end = _span(rng, bytearray(other))
    data[start : stop if rng.random() < 0.5 else start] = other[begin:end]


CHANGES: tuple[Change, ...] = (
    _flip, _flip, _byte, _byte, _number, _number, _number, _vr, _cut, _end, _twice, _insert, _noise,
)  # fmt: skip
