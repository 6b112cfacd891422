"""How long a frame takes to decode, told from its header and the first bytes of its codestream.

It is only exact enough to know what is surely expensive before a decoder begins: a megabyte can be 150 million pixels.
An image that is more expensive than it looks uses up its worker's patience (`router.inference.lanes`). The figures are
seconds of one core for each sample, for images with a short compressed form (`benchmarks/hostile.py` makes them).
"""

from __future__ import annotations

from router.dicom.uids import (
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_RPCL,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    JPEG_LS_NEAR,
    JPEG_PROGRESSIVE_8,
    JPEG_SPECTRAL_8,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    JPEG_XL_RECOMPRESSION,
    RLE,
    WAVELETS,
)
from router.pixels import codestream
from router.pixels.decoders import NATIVE, reduced
from router.pixels.header import Layout

NANOSECOND = 1e-9
BY_SAMPLE = (
    dict.fromkeys((JPEG_2000_LOSSLESS, JPEG_2000), 100 * NANOSECOND)
    | dict.fromkeys((HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K), 30 * NANOSECOND)
    | dict.fromkeys((JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION, JPEG_XL), 50 * NANOSECOND)
    | dict.fromkeys((JPEG_LOSSLESS, JPEG_LOSSLESS_SV1), 10 * NANOSECOND)
    | dict.fromkeys((JPEG_LS, JPEG_LS_NEAR, RLE), 2 * NANOSECOND)
    | dict.fromkeys(NATIVE, NANOSECOND)
)
JPEG_BY_SCAN = dict.fromkeys((JPEG_BASELINE, JPEG_EXTENDED, JPEG_SPECTRAL_8, JPEG_PROGRESSIVE_8), 2 * NANOSECOND)
"""For the other JPEG processes. A progressive one goes through the whole image with each scan."""
JPEG_LS_BY_BYTE = 30 * NANOSECOND
BY_TILE = 30e-6
START_OF_SCAN = b"\xff\xda"


class ExpensiveError(Exception):
    """Decoding the pixels would take longer than the patience that was given."""


def check(data: bytes, syntax: str, form: Layout, reduce: int, patience: float) -> None:
    """Raise ExpensiveError if a frame surely takes more than `patience` seconds to decode."""
    if seconds(data, syntax, form, reduce) > patience:
        raise ExpensiveError


def seconds(data: bytes, syntax: str, form: Layout, reduce: int) -> float:
    """The least seconds for a frame in a transfer syntax, halved `reduce` times if its codec can do that.

    Raises UndecodableError if its first bytes do not say what they must.
    """
    samples = form.rows * form.columns * form.samples
    if syntax in WAVELETS:
        stream = codestream.jpeg2000(data)
        return BY_SAMPLE[syntax] * (samples >> 2 * reduced(stream, reduce)) + BY_TILE * stream.tiles
    if syntax in (JPEG_LS, JPEG_LS_NEAR):
        return BY_SAMPLE[syntax] * samples + JPEG_LS_BY_BYTE * len(data)
    if syntax in BY_SAMPLE:
        return BY_SAMPLE[syntax] * samples
    return JPEG_BY_SCAN[syntax] * samples * (1 + data.count(START_OF_SCAN))
