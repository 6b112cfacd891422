"""A data set's stored samples: any transfer syntax to one numpy form, frame by frame or all at once.

Here the codestream's integers become what the header declares (width, sign, planes, colour), so that what
comes after knows only `Layout`. Source: PS3.3 C.7.6.3.1, PS3.5 §8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.processing import convert_color_space

from router.dicom.data_set import DataSet, open_data_set
from router.dicom.elements import UnparseableError
from router.dicom.uids import LOSSY
from router.pixels import codestream, cost, frames
from router.pixels.decoders import DECODERS, NATIVE, Frame
from router.pixels.header import Layout, UndecodableError, layout, pixel_element

MOST_DECODED = 2_000_000_000
Above = Literal["cut", "keep", "clip"]
"""What lies above the bits stored: overlays, to be cut or kept; or a lossy codec's overshoot, to be clipped."""


def decoder_name(syntax: str) -> str:
    """The name of the one decoder of a transfer syntax. Raises UndecodableError when there is none."""
    if syntax in NATIVE:
        return "numpy"
    if syntax not in DECODERS:
        raise UndecodableError("the transfer syntax has no decoder")
    return DECODERS[syntax][0]


def first_frame(data_set: DataSet, form: Layout, reduce: int = 0, patience: float = math.inf) -> Frame:
    """The first frame, (rows, columns) or (rows, columns, 3); by 2**reduce smaller where the codec can do so.

    Raises ExpensiveError where that surely takes more than `patience` seconds, and UndecodableError; what else a
    decoder may raise is the caller's to catch.
    """
    decoder_name(data_set.syntax)
    codestream.check(form.rows, form.columns, form.samples, form.allocated)
    if data_set.syntax in NATIVE and _may_be_thinned(form, reduce):
        stored = _native_stored(data_set, form, 0).reshape(form.rows, form.columns)
        views = [_settled(view, form.allocated, form, "cut") for view in _neighbours(stored, reduce)]
        return Frame(_mean(views), False, form.allocated)
    if data_set.syntax in NATIVE:
        return next(each_frame(data_set, form))
    fragments = frames.encapsulated(data_set, form.frames)[0]
    return _decoded(data_set, form, fragments, reduce, patience=patience)


def thinned(frame: Frame, form: Layout, reduce: int) -> Frame:
    """A whole grey frame made smaller by 2**reduce, as codecs do that have it; any other frame as it is."""
    if frame.samples.shape != (form.rows, form.columns) or not _may_be_thinned(form, reduce):
        return frame
    return replace(frame, samples=_mean(_neighbours(frame.samples, reduce)))


def _may_be_thinned(form: Layout, reduce: int) -> bool:
    grey = form.samples == 1 and form.photometric != "PALETTE COLOR"
    return grey and reduce > 0 and form.kind in "iu" and form.allocated in (8, 16, 32)


def _neighbours(samples: NDArray[Any], reduce: int) -> list[NDArray[Any]]:
    """Four views (rows >> reduce, columns >> reduce): two by two neighbours of each block of 2**reduce.

    Neighbours, because the stripes of an anti-scatter grid are as fine as a pixel and would come out as waves from
    one sample alone; only four, because what is left out is far below what the network is shown.
    """
    step = 1 << reduce
    rows, columns = samples.shape[0] - samples.shape[0] % step, samples.shape[1] - samples.shape[1] % step
    return [samples[down:rows:step, across:columns:step] for down in (0, 1) for across in (0, 1)]


def _mean(views: list[NDArray[Any]]) -> NDArray[Any]:
    total: Any = views[0].astype(np.int64 if views[0].dtype.itemsize > 2 else np.int32)
    for view in views[1:]:
        total += view
    mean: NDArray[Any] = (total // len(views)).astype(views[0].dtype)
    return mean


def decode(path: Path) -> NDArray[Any]:
    """All stored samples of a Part 10 file: ([frames,] rows, columns [, 3]), luminance and chrominance as RGB.

    Raises ValueError in words of our own where the data set or its pixels cannot be read; OSError where the file
    cannot.
    """
    data_set = open_data_set(path)
    try:
        return decode_all(data_set, layout(data_set))
    except (UnparseableError, UndecodableError):
        raise
    except Exception:
        raise UndecodableError("the decoder gave up on the pixels") from None
    finally:
        data_set.close()


def decode_all(data_set: DataSet, form: Layout) -> NDArray[Any]:
    """As `decode`, for an opened data set; a decoder's own exceptions come through."""
    if form.frames * form.rows * form.columns * form.samples * max(1, form.allocated // 8) > MOST_DECODED:
        raise UndecodableError("the decoded image is larger than the limit")
    decoded = list(each_frame(data_set, form))
    stack = np.stack([frame.samples for frame in decoded])
    if decoded[0].ybr:
        stack = convert_color_space(stack, "YBR_FULL", "RGB")
    return stack[0] if form.frames == 1 else stack


def each_frame(data_set: DataSet, form: Layout, *, cut: bool = True) -> Iterator[Frame]:
    """All frames in turn; without `cut`, what lies above the bits stored (overlays) is kept."""
    decoder_name(data_set.syntax)
    codestream.check(form.rows, form.columns, form.samples, form.allocated)
    if data_set.syntax not in NATIVE:
        for fragments in frames.encapsulated(data_set, form.frames):
            yield _decoded(data_set, form, fragments, 0, cut=cut)
    elif form.allocated == 1:
        # The frames follow each other without a gap (PS3.5 §8.1.1).
        count = form.frames * form.rows * form.columns
        packed = np.frombuffer(frames.native(data_set, form), np.uint8)
        unpacked = np.unpackbits(packed, count=count, bitorder="little")
        for bits in unpacked.reshape(form.frames, form.rows, form.columns):
            yield Frame(bits, False, 1)
    else:
        for index in range(form.frames):
            samples = _native_frame(data_set, form, index, cut=cut)
            yield Frame(samples, form.photometric.startswith("YBR"), form.allocated)


def _decoded(
    data_set: DataSet, form: Layout, fragments: list[frames.Fragment], reduce: int, *, cut: bool = True,
    patience: float = math.inf,
) -> Frame:  # fmt: skip
    raw = frames.read(data_set, fragments)
    if patience < math.inf:
        cost.check(raw, data_set.syntax, form, reduce, patience)
    frame = DECODERS[data_set.syntax][1](raw, form, reduce)
    if frame.samples.ndim != (2 if form.samples == 1 else 3) or (
        not reduce and frame.samples.shape[:2] != (form.rows, form.columns)
    ):
        raise UndecodableError("the decoded image has another shape than the header says")
    above: Above = "clip" if data_set.syntax in LOSSY else "cut" if cut else "keep"
    return replace(frame, samples=_settled(frame.samples, frame.depth, form, above))


def _settled(samples: NDArray[Any], depth: int, form: Layout, above: Above) -> NDArray[Any]:
    """Samples in the header's width and sign; `above` says what happens to what goes beyond the bits stored.

    `depth` is where the sign stands: a codestream knows its depth and often has the sign wrong. Where it is larger
    than the bits stored, samples can be left-aligned, and are moved down unless all is kept.
    """
    if form.kind == "f":
        return samples
    width = max(8, form.allocated)
    if form.low and depth > form.stored and above != "keep":
        samples = samples.astype(f"{form.kind}{width // 8}", copy=False) >> form.low
        depth = min(depth, form.stored)
    if form.kind == "i":
        spare = width - (min(depth, form.stored) if above == "cut" else depth)
        signed = samples.astype(f"i{width // 8}", copy=False)
        if spare and (above == "cut" or samples.dtype.kind == "u"):
            signed = (signed << spare) >> spare
        if above != "clip":
            return signed
        half = 1 << (form.stored - 1)
        clipped: NDArray[Any] = np.clip(signed, -half, half - 1)
        return clipped
    unsigned = samples.astype(f"u{width // 8}", copy=False)
    if above == "keep" or form.stored == width:
        return unsigned
    most = unsigned.dtype.type((1 << form.stored) - 1)
    within: NDArray[Any] = np.minimum(unsigned, most) if above == "clip" else unsigned & most
    return within


def _native_stored(data_set: DataSet, form: Layout, index: int) -> NDArray[Any]:
    """The samples of one native frame in a row, as they are stored, with what lies above the bits stored."""
    raw: memoryview | bytes = frames.native(data_set, form, index)
    order = data_set.coding.order
    dtype = np.dtype(f"{order}{form.kind}{form.allocated // 8}")
    if order == ">" and form.allocated == 8 and pixel_element(data_set).vr == "OW":
        raw = np.frombuffer(raw, ">u2").astype("<u2").tobytes()
    return np.frombuffer(raw, dtype, count=form.frame_bits // form.allocated)


def _native_frame(data_set: DataSet, form: Layout, index: int, *, cut: bool = True) -> NDArray[Any]:
    flat = _settled(_native_stored(data_set, form, index), form.allocated, form, "cut" if cut else "keep")
    if form.photometric == "YBR_FULL_422":
        return _upsampled(flat.reshape(form.rows, form.columns // 2, 4))
    if form.samples == 1:
        return flat.reshape(form.rows, form.columns)
    if form.planar:
        return np.moveaxis(flat.reshape(form.samples, form.rows, form.columns), 0, -1)
    return flat.reshape(form.rows, form.columns, form.samples)


def _upsampled(pairs: NDArray[Any]) -> NDArray[Any]:
    """Two luminances and one pair of chrominances for two pixels (PS3.3 C.7.6.3.1.2) to three samples each."""
    rows, half, _ = pairs.shape
    out = np.empty((rows, half * 2, 3), pairs.dtype)
    out[:, 0::2, 0], out[:, 1::2, 0] = pairs[:, :, 0], pairs[:, :, 1]
    out[..., 1:] = np.repeat(pairs[:, :, 2:], 2, axis=1)
    return out
