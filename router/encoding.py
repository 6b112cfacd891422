"""Constants of PS3.5 that all readers and writers of data sets share, and which transfer syntaxes are lossy."""

from __future__ import annotations

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Implicit and Explicit VR Little Endian."""
OWN_SYNTAX = ""
"""In place of a transfer syntax: the copy keeps the instance's own, and only pads odd values."""
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with a length of four bytes (table 7.1-1)."""

_JPEG_FAMILY = f"{IMPLICIT}.4"
LOSSY = frozenset(
    f"{_JPEG_FAMILY}.{number}"
    for number in (
        *range(50, 57),  # JPEG baseline, extended, spectral selection and full progression
        *range(59, 65),  # the same, hierarchical
        81,  # JPEG-LS near-lossless
        91, 93,  # JPEG 2000
        100, 101, 102, 103, 104, 105, 106, 107, 108,  # MPEG-2, MPEG-4, HEVC
        "100.1", "101.1", "102.1", "103.1", "104.1", "105.1", "106.1",  # the same, fragmentable
        111, 112,  # JPEG XL: a JPEG packed anew has lost what that JPEG had lost
        203,  # HTJ2K
    )
)  # fmt: skip
"""Transfer syntaxes whose pixels may have lost something. Negotiation and decoders both use this table."""
