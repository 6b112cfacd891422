"""The head of a blob: preamble and file meta information (PS3.10 §7.1), written from what was negotiated."""

from __future__ import annotations

from router.association.negotiation import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Everything before the data set of a Part 10 file; the three UIDs must be ASCII and were checked before."""
    group = b"".join(
        (
            b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01",
            _short(0x02, b"UI", sop_class, b"\0"),
            _short(0x03, b"UI", sop_instance, b"\0"),
            _short(0x10, b"UI", transfer_syntax, b"\0"),
            _short(0x12, b"UI", IMPLEMENTATION_UID, b"\0"),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION, b" "),
        )
    )
    return bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + len(group).to_bytes(4, "little") + group


def _short(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return b"\x02\0" + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value
