"""Deflated data sets (PS3.5 §A.5): inflated within limits, with or without a zlib header."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from router.dicom.elements import UnparseableError

MOST_INFLATED = 512 * 1024**2
"""Bytes that a deflated data set may become at the most."""
SURELY_INFLATED, MOST_RATIO = 64 * 1024**2, 100
"""A deflated data set may become so many bytes, or so many times its size; pictures do not deflate better."""


def inflater_for(head: bytes) -> zlib._Decompress:
    """For what begins with these bytes: deflated as PS3.5 A.5 wants it, or, as some write it, with a zlib header."""
    zlib_header = len(head) >= 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)


def inflate(stream: BinaryIO) -> io.BytesIO:
    """A deflated data set (PS3.5 A.5) from here on; with a zlib header, too. Raises UnparseableError for a bomb."""
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
