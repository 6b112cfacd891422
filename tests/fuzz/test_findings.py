"""What the campaign has found, one test for each finding, with bytes as small as they get."""

from __future__ import annotations

import struct
from pathlib import Path

from router.pixels.elements import open_data_set


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Explicit VR Little Endian, VRs with four bytes of length."""
    head = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value) if length is None else length)
    return head + value


def test_cut_pixels_have_no_first_item(tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    path.write_bytes(element(0x00080018, b"OB", b"1.2.3\0") + element(0x7FE00010, b"OW", b"\xfe\xff\x00\xe0", 6144))
    opened = open_data_set(path)
    try:
        assert opened.first_item(0x7FE00010) == {}
    finally:
        opened.close()
