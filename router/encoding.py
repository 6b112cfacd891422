"""Constants of PS3.5 that all readers and writers of data sets share."""

from __future__ import annotations

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Implicit and Explicit VR Little Endian."""
OWN_SYNTAX = ""
"""Asked for in place of a transfer syntax: the copy keeps the one that the instance has, and only pads odd values."""
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with a length of four bytes (table 7.1-1)."""
