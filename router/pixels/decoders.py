"""One decoder for each transfer syntax: it turns the bytes of a frame into samples. Nothing else is tried after it.

What a frame claims is compared with the header before a decoder sees it (`codestream`). All decoders except Pillow's
release Python's lock. Only Pillow's can leave out the finer resolutions of JPEG 2000.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from router.dicom.uids import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_RPCL,
    IMPLICIT,
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
)  # fmt: skip
from router.pixels import codestream
from router.pixels.codestream import Stream
from router.pixels.header import Layout, UndecodableError

Samples = NDArray[Any]
"""(rows, columns) or (rows, columns, 3), integers as the codestream has them."""

NATIVE = frozenset((IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN))


@dataclass(frozen=True, slots=True)
class Frame:
    """Samples of one frame. `ybr`: they are luminance and chrominance. `depth`: bits that the codestream gives.

    `note` is a fixed text: what was wrong with the codestream and did no harm.
    """

    samples: Samples
    ybr: bool
    depth: int
    note: str = ""


NO_END = "the codestream is whole, but for its end marker"
JPEG_END = b"\xff\xd9"
CONTINUATIONS = tuple(pattern * 1024 for pattern in (b"\x00", b"\xfe\x7e", b"\xa9\x56"))
"""Bytes behind a JPEG, which must not matter if it is whole. If it is cut, the decoder takes missing data from them, so
each of them gives another picture."""


def jpeg(data: bytes, layout: Layout, reduce: int) -> Frame:
    """JPEG of all processes (T.81), 8, 12 and 16 bit: libjpeg-turbo 3."""
    stream = codestream.jpeg(data)
    codestream.agree(stream, layout)
    note = "" if stream.ended else NO_END
    if stream.components == 1:
        return Frame(_jpeg(data, stream), False, stream.depth, note)
    ybr = layout.photometric.startswith("YBR")
    if stream.colour is not None and stream.process != LOSSLESS:
        ybr = stream.colour
    space = "YCBCR" if ybr else "RGB"
    return Frame(_jpeg(data, stream, colorspace=space, outcolorspace=space), ybr, stream.depth, note)


def _jpeg(data: bytes, stream: Stream, **options: Any) -> Samples:
    """Decode. Without an end marker the picture must not depend on what follows. Raises UndecodableError if cut."""
    if stream.ended:
        samples: Samples = imagecodecs.jpeg8_decode(data, **options)
        return samples
    scan = data.rstrip(b"\0")
    scan += b"\0" if scan.endswith(b"\xff") else b""  # the zero byte after 0xFF is part of the data
    try:
        first, *others = (imagecodecs.jpeg8_decode(scan + more + JPEG_END, **options) for more in CONTINUATIONS)
    except Exception:
        raise UndecodableError("the codestream is cut short") from None
    if not all(np.array_equal(first, other) for other in others):
        raise UndecodableError("the codestream is cut short")
    whole: Samples = first
    return whole


def jpeg_ls(data: bytes, layout: Layout, reduce: int) -> Frame:
    """JPEG-LS (T.87): CharLS."""
    stream = codestream.jpeg_ls(data)
    codestream.agree(stream, layout)
    ybr = layout.photometric.startswith("YBR")
    if stream.ended:
        return Frame(imagecodecs.jpegls_decode(data), ybr, stream.depth)
    # CharLS wants the end marker right behind the last bit. Zeros before it may pad that bit's byte, or stand for it.
    scan = data.rstrip(b"\0")
    for zeros in range(min(4, len(data) - len(scan)) + 1):
        with suppress(Exception):
            return Frame(imagecodecs.jpegls_decode(scan + bytes(zeros) + JPEG_END), ybr, stream.depth, NO_END)
    raise UndecodableError("the codestream is cut short")


def jpeg_2000(data: bytes, layout: Layout, reduce: int) -> Frame:
    """JPEG 2000 (T.800, T.814): OpenJPEG, through Pillow if a lower resolution is enough.

    OpenJPH is faster for high-throughput codestreams. But it wraps around if a lossy codestream or a lower resolution
    exceeds the range of a sample, and it does not report a damaged codestream.
    """
    stream = codestream.jpeg2000(data)
    codestream.agree(stream, layout)
    reduce = reduced(stream, reduce)
    ybr = layout.photometric == "YBR_FULL" and not stream.colour
    if stream.ended:
        try:
            return Frame(_jpeg_2000(data, stream, reduce), ybr, stream.depth)
        except imagecodecs.Jpeg2kError:
            if not data.rstrip(b"\0").endswith(JPEG_END):
                raise
    closed = codestream.closed_jpeg2000(data)
    if closed is None:
        raise UndecodableError("the codestream is cut short or damaged")
    return Frame(_jpeg_2000(closed, stream, reduce), ybr, stream.depth, NO_END)


def _jpeg_2000(data: bytes, stream: Stream, reduce: int) -> Samples:
    samples = _reduced(data, stream, reduce) if reduce else None
    return imagecodecs.jpeg2k_decode(data, numthreads=1) if samples is None else samples


def reduced(stream: Stream, reduce: int) -> int:
    """How often, of `reduce` times, JPEG 2000 can be halved before it is decoded."""
    possible = 1 < stream.depth <= 16 and (stream.components == 1 or stream.depth == 8)
    return min(reduce, stream.levels, 3) if possible else 0  # Pillow fails beyond a factor of 8


def _reduced(data: bytes, stream: Stream, reduce: int) -> Samples | None:
    """JPEG 2000 at 1/2, 1/4 or 1/8. Pillow gives left-aligned unsigned 16 bit; this restores the stream's range.

    None if Pillow refuses what OpenJPEG takes, for example more levels than the image can be halved.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
            image.reduce = reduce  # type: ignore[method-assign, assignment]
            image.load()
            samples: Samples = np.asarray(image)
    except OSError:
        return None
    if samples.ndim != (2 if stream.components == 1 else 3):
        return None
    if stream.components > 1:
        return samples
    shifted = samples.astype(np.int32) >> ((16 if samples.dtype.itemsize > 1 else 8) - stream.depth)
    return shifted - (1 << (stream.depth - 1)) if stream.signed else shifted


def jpeg_xl(data: bytes, layout: Layout, reduce: int) -> Frame:
    """JPEG XL (ISO 18181): libjxl."""
    codestream.check(layout.rows, layout.columns, layout.samples, layout.allocated)
    codestream.jpeg_xl(data, layout)
    return Frame(imagecodecs.jpegxl_decode(data, numthreads=1), False, layout.stored)


def rle(data: bytes, layout: Layout, reduce: int) -> Frame:
    """RLE (PS3.5 Annex G): segments hold one byte of one sample each, most significant first."""
    codestream.check(layout.rows, layout.columns, layout.samples, layout.allocated)
    codestream.rle(data, layout)
    dtype = np.dtype(f"<u{layout.allocated // 8}")
    count = layout.rows * layout.columns * layout.samples
    raw = imagecodecs.dicomrle_decode(data, dtype, out=count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise UndecodableError("the RLE segments are cut short")
    planes = np.frombuffer(raw, dtype).reshape(layout.samples, layout.rows, layout.columns)
    samples = planes[0] if layout.samples == 1 else np.moveaxis(planes, 0, -1)
    return Frame(samples, layout.photometric.startswith("YBR"), layout.allocated)


LOSSLESS = 0xC3
"""The frame marker of lossless JPEG. Its colours are those of the header, even if a marker claims others."""

Decoder = Callable[[bytes, Layout, int], Frame]
DECODERS: dict[str, tuple[str, Decoder]] = {
    JPEG_BASELINE: ("libjpeg-turbo", jpeg),
    JPEG_EXTENDED: ("libjpeg-turbo", jpeg),
    JPEG_SPECTRAL_8: ("libjpeg-turbo", jpeg),
    JPEG_PROGRESSIVE_8: ("libjpeg-turbo", jpeg),
    JPEG_LOSSLESS: ("libjpeg-turbo", jpeg),
    JPEG_LOSSLESS_SV1: ("libjpeg-turbo", jpeg),
    JPEG_LS: ("charls", jpeg_ls),
    JPEG_LS_NEAR: ("charls", jpeg_ls),
    JPEG_2000_LOSSLESS: ("openjpeg", jpeg_2000),
    JPEG_2000: ("openjpeg", jpeg_2000),
    HTJ2K_LOSSLESS: ("openjpeg", jpeg_2000),
    HTJ2K_RPCL: ("openjpeg", jpeg_2000),
    HTJ2K: ("openjpeg", jpeg_2000),
    JPEG_XL_LOSSLESS: ("libjxl", jpeg_xl),
    JPEG_XL_RECOMPRESSION: ("libjxl", jpeg_xl),
    JPEG_XL: ("libjxl", jpeg_xl),
    RLE: ("dicomrle", rle),
}
"""Maps a transfer syntax to the name and function of its decoder. Numpy reads native syntaxes."""
