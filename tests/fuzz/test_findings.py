"""What the campaign has found, one test for each finding, with bytes as small as they get."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from router.dicom.data_set import open_data_set
from router.pixels.grey import _indexed
from router.pixels.header import UndecodableError
from router.pixels.render import grey_of, render
from tests.fuzz.data_sets import DEFLATED, EXPLICIT, LONG, claiming, codestreams, part10

RLE = "1.2.840.10008.1.2.5"


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """In Explicit VR Little Endian; `length` is what its header says."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HL" if vr in LONG else "<H", *([0, size] if vr in LONG else [size]))) + value


def numbers(**values: int) -> bytes:
    """The pixel description of an image of 2 × 2 samples."""
    known = {"samples": 0x02, "rows": 0x10, "columns": 0x11, "allocated": 0x100, "stored": 0x101, "sign": 0x103}
    given = {"samples": 1, "rows": 2, "columns": 2, "allocated": 8, "sign": 0} | values
    return b"".join(
        element(0x00280000 | tag, b"US", struct.pack("<H", given[name])) for name, tag in known.items() if name in given
    )


def image(
    path: Path, pixels: bytes, *, photometric: bytes = b"MONOCHROME2 ", syntax: str = EXPLICIT, **form: int
) -> Path:
    content = element(0x00280004, b"CS", photometric) + numbers(**form) + pixels
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        content = packer.compress(content) + packer.flush()
    path.write_bytes(part10(syntax, content))
    return path


def test_cut_pixels_have_no_first_item(tmp_path: Path) -> None:
    path = image(tmp_path / "cut.dcm", element(0x7FE00010, b"OW", b"\xfe\xff\x00\xe0", 6144))
    opened = open_data_set(path)
    try:
        assert opened.first_item(0x7FE00010) == {}
    finally:
        opened.close()


def test_deflated_pixels_that_cannot_be_shown_say_why(tmp_path: Path) -> None:
    pixels = element(0x7FE00010, b"OB", bytes(4))
    path = image(tmp_path / "palette.dcm", pixels, photometric=b"PALETTE COLOR ", syntax=DEFLATED)
    with pytest.raises(UndecodableError, match="palette"):
        grey_of(path)


def test_floating_point_pixels_have_no_colours(tmp_path: Path) -> None:
    pixels = element(0x7FE00008, b"OF", bytes(48))
    path = image(tmp_path / "colour.dcm", pixels, photometric=b"RGB ", samples=3, allocated=32)
    assert render(path, 16, frozenset())[1].reason == "floating point pixels have more than one sample"


def test_floating_point_pixels_as_far_apart_as_they_get_keep_their_order(tmp_path: Path) -> None:
    samples = np.array([-3e38, 3e38, 0, 1e38], np.float32)
    path = image(tmp_path / "wide.dcm", element(0x7FE00008, b"OF", samples.tobytes()), allocated=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grey = grey_of(path).ravel()
    assert list(np.argsort(grey)) == list(np.argsort(samples))


def test_steps_too_small_for_a_float_stay_in_order() -> None:
    samples = np.array([0, 30_000, 60_000, 90_000]) * 5e-324
    index = _indexed(samples)[0].tolist()
    assert index == sorted(index)


def test_rle_that_ends_within_a_sample_is_cut_short(tmp_path: Path) -> None:
    segments = struct.pack("<16L", 2, 64, 66, *(0,) * 13) + b"\xfd\x07" + b"\0\x07"
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(segments)) + segments
    pixels = element(0x7FE00010, b"OB", struct.pack("<HHL", 0xFFFE, 0xE000, 0) + item, 0xFFFFFFFF)
    path = image(tmp_path / "rle.dcm", pixels, syntax=RLE, allocated=16)
    assert render(path, 16, frozenset())[1].reason == "the RLE segments are cut short"


@pytest.mark.parametrize(("syntax", "rows"), [("1.2.840.10008.1.2.4.50", 2000), ("1.2.840.10008.1.2.4.70", 200)])
def test_a_jpeg_of_a_few_bytes_is_no_large_image(tmp_path: Path, syntax: str, rows: int) -> None:
    frame = next(frame for frame in codestreams() if (frame.syntax, frame.samples, frame.bits) == (syntax, 1, 8))
    data = claiming(frame, rows, 400).data
    data += bytes(len(data) % 2)
    items = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(data)) + data
    pixels = element(0x7FE00010, b"OB", items, 0xFFFFFFFF)
    path = image(tmp_path / "large.dcm", pixels, syntax=syntax, rows=rows, columns=400)
    assert render(path, 16, frozenset())[1].reason == "the codestream is cut short"
