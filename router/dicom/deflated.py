"""Inflates deflated data sets (PS3.5 §A.5) within limits, with or without a zlib header."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from router.dicom.elements import UnparseableError

MOST_INFLATED = 512 * 1024**2
"""The most bytes that a data set may have when inflated."""
SURELY_INFLATED, MOST_RATIO = 64 * 1024**2, 100
"""An inflated data set may always have so many bytes. A longer one may have so many times its deflated size: no picture
deflates better."""


def inflater_for(head: bytes) -> zlib._Decompress:
    """An inflater for a stream with these first bytes. It may have a zlib header, though PS3.5 A.5 wants none."""
    zlib_header = len(head) >= 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)


def inflate(stream: BinaryIO) -> io.BytesIO:
    """Inflate a data set (PS3.5 A.5) from here on, also with a zlib header. Raises UnparseableError for a bomb."""
    start = stream.tell()
    most = min(MOST_INFLATED, max(SURELY_INFLATED, MOST_RATIO * (stream.seek(0, io.SEEK_END) - start)))
    stream.seek(start)
    inflater = inflater_for(stream.read(2))
    stream.seek(start)
    out = io.BytesIO()
    try:
        while not inflater.eof:
            piece = inflater.unconsumed_tail or stream.read(1 << 16)
            if not piece:
                raise UnparseableError("the deflated data set is cut short")
            out.write(inflater.decompress(piece, 1 << 20))
            if out.tell() > most:
                raise UnparseableError("the deflated data set inflates beyond the limit")
    except zlib.error:
        raise UnparseableError("the data set does not inflate") from None
    return out
