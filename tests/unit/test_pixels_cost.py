"""What is surely expensive is told from a few kilobytes, before a decoder begins; what is honest is not."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from router.dicom import uids
from router.dicom.uids import EXPLICIT
from router.inference.lanes import PATIENCE_LOOK
from router.pixels import ExpensiveError, cost, render
from router.pixels.decoders import DECODERS, NATIVE
from router.pixels.header import Layout
from router.pixels.wrap import wrap_image

MODEL_SIZE, SIDE = 224, 12_240
DX = Layout(3000, 2500, 1, 1, 16, 12, "u", 0, "MONOCHROME2")
BOMB = replace(DX, rows=SIDE, columns=SIDE)
HALVED = 3
"""How often a DX is halved for the network."""


def j2k(rows: int, columns: int, *, levels: int, tile: int = 0) -> bytes:
    """The head of a codestream of that size (T.800 A.4–A.6), and its end."""
    side = tile or max(rows, columns)
    size = struct.pack(">H8LH3B", 0, columns, rows, 0, 0, side, side, 0, 0, 1, 15, 1, 1)
    style = struct.pack(">BBHBBBBBB", 0, 0, 1, 0, levels, 4, 4, 0, 1)
    segments = b"".join(
        struct.pack(">HH", marker, len(body) + 2) + body for marker, body in ((0xFF51, size), (0xFF52, style))
    )
    return b"\xff\x4f" + segments + b"\xff\x90\xff\xd9"


def progressive(scans: int) -> bytes:
    """A progressive JPEG of 150 million pixels; its first scan again and again."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(out, "JPEG", progressive=True)
    small = bytearray(out.getvalue())
    frame = small.index(b"\xff\xc2")
    small[frame + 5 : frame + 9] = struct.pack(">HH", SIDE, SIDE)
    first = small.index(b"\xff\xda")
    second = small.find(b"\xff\xda", first + 2)
    scan = small[first : second if second > 0 else -2]
    return bytes(small[:first] + scan * scans + b"\xff\xd9")


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (uids.JPEG_2000_LOSSLESS, j2k(SIDE, SIDE, levels=0)),
        (uids.JPEG_2000, j2k(SIDE, SIDE, levels=1)),
        (uids.HTJ2K, j2k(SIDE, SIDE, levels=0)),
        (uids.JPEG_2000, j2k(SIDE, SIDE, levels=6, tile=50)),
        (uids.JPEG_BASELINE, progressive(60)),
        (uids.JPEG_EXTENDED, progressive(60)),
        (uids.JPEG_LOSSLESS_SV1, b""),
        (uids.JPEG_XL, b""),
    ],
    ids=_name,
)
def test_a_bomb_of_a_few_kilobytes_is_expensive(syntax: str, stream: bytes) -> None:
    assert len(stream) < 10_000
    with pytest.raises(ExpensiveError):
        cost.check(stream, syntax, BOMB, HALVED, PATIENCE_LOOK)


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (uids.JPEG_2000_LOSSLESS, j2k(DX.rows, DX.columns, levels=5)),
        (uids.JPEG_2000_LOSSLESS, j2k(DX.rows, DX.columns, levels=5, tile=256)),
        (uids.JPEG_2000_LOSSLESS, j2k(DX.rows, DX.columns, levels=0)),
        (uids.HTJ2K_LOSSLESS, j2k(DX.rows, DX.columns, levels=5)),
        (uids.JPEG_BASELINE, progressive(10)),
        (uids.JPEG_LOSSLESS_SV1, bytes(8_000_000)),
        (uids.JPEG_LS, bytes(8_000_000)),
        (uids.JPEG_XL, bytes(8_000_000)),
        (uids.RLE, bytes(10_000_000)),
        (EXPLICIT, bytes(15_000_000)),
    ],
    ids=_name,
)
def test_an_honest_dx_is_not(syntax: str, stream: bytes) -> None:
    cost.check(stream, syntax, DX, HALVED, PATIENCE_LOOK)


def test_all_that_is_decoded_has_a_price() -> None:
    assert set(cost.BY_SAMPLE) | set(cost.JPEG_BY_SCAN) == set(DECODERS) | NATIVE
    assert not set(cost.BY_SAMPLE) & set(cost.JPEG_BY_SCAN)


def test_render_gives_up_before_it_decodes_and_does_not_where_it_has_patience(tmp_path: Path) -> None:
    path = wrap_image(np.zeros((300, 200), np.uint16), tmp_path / "x.dcm")
    data = pydicom.dcmread(path)
    stream = imagecodecs.jpeg2k_encode(
        np.zeros((300, 200), np.uint16), level=0, reversible=True, codecformat="j2k", resolutions=1
    )
    data.PixelData = encapsulate([bytes(stream)])
    data["PixelData"].is_undefined_length, data["PixelData"].VR = True, "OB"
    data.file_meta.TransferSyntaxUID = UID(uids.JPEG_2000_LOSSLESS)
    data.save_as(path)
    with pytest.raises(ExpensiveError):
        render(path, MODEL_SIZE, frozenset(), patience=0.001)
    assert render(path, MODEL_SIZE, frozenset(), patience=1)[1].pixels == "decoded"
    assert render(path, MODEL_SIZE, frozenset())[1].pixels == "decoded"
