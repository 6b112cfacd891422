"""What a compressed frame says about itself, read from its first bytes before any decoder sees it.

A few kilobytes can claim 65535 × 65535 pixels, and decoders believe them. So size, components and depth are read from
the codestream, compared with the header and with a limit, and only then decoded. The end is checked as well. A picture
that is cut counts as none, not as half a picture. If only its end marker is missing, it counts as whole.
Sources: T.81 (JPEG) B.2, T.87 (JPEG-LS) C.2, T.800 (JPEG 2000) A.4–A.5, PS3.5 Annex G (RLE).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from router.pixels.header import Layout, UndecodableError

MOST_SIDE = 20_000
MOST_PIXELS = 150_000_000
MOST_BYTES = 2_000_000_000
MOST_SCANS, MOST_SEGMENTS = 64, 4096
MOST_TILES = 65_535
MOST_TILE_PARTS = 1_000_000
EOI, PROGRESSIVE = 0xD9, 0xC2


@dataclass(frozen=True, slots=True)
class Stream:
    """Size, components and bits of a sample that a codestream announces; `levels` of lower resolution in it.

    `tiles` is the number of parts that JPEG 2000 codes separately. `process` is the JPEG frame marker (T.81 table B.1),
    0 for other codecs. `colour` says whether the components are luminance and chrominance. It is None if the codestream
    does not say. `ended`: the end marker is there. Without it the codestream may be whole or cut.
    """

    rows: int
    columns: int
    components: int
    depth: int
    signed: bool | None = None
    levels: int = 0
    process: int = 0
    colour: bool | None = None
    tiles: int = 1
    ended: bool = True


def check(rows: int, columns: int, samples: int, depth: int) -> None:
    """Raise UndecodableError for an image beyond our limits: side, pixels, decoded bytes of one frame."""
    if not (0 < rows <= MOST_SIDE and 0 < columns <= MOST_SIDE and rows * columns <= MOST_PIXELS):
        raise UndecodableError("the image is larger than the limit")
    if not 1 <= samples <= 4 or rows * columns * samples * max(1, depth // 8) > MOST_BYTES:
        raise UndecodableError("the decoded image is larger than the limit")


def agree(stream: Stream, layout: Layout) -> None:
    """Raise UndecodableError if codestream and header describe different images, or one beyond our limits."""
    check(stream.rows, stream.columns, stream.components, stream.depth)
    if (stream.rows, stream.columns) != (layout.rows, layout.columns):
        raise UndecodableError("codestream and header disagree about the size")
    if stream.components != layout.samples:
        raise UndecodableError("codestream and header disagree about the components")
    if stream.depth > layout.allocated or stream.depth <= 8 < layout.stored:
        raise UndecodableError("codestream and header disagree about the bits of a sample")


def jpeg(data: bytes) -> Stream:
    """JPEG, T.81: the first frame header. All its scans must be there, and not too many."""
    frame, adobe, jfif, scans, ids, ended = None, -1, False, 0, b"", False
    if data[:2] != b"\xff\xd8":
        raise UndecodableError("the frame is not JPEG")
    for marker, body in _segments(data):
        if marker in (0xC0, 0xC1, 0xC2, 0xC3) and frame is None and len(body) >= 6:
            depth, rows, columns, components = struct.unpack(">BHHB", body[:6])
            frame, ids = (rows, columns, components, depth, marker), body[6::3]
        elif 0xC5 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            raise UndecodableError("this JPEG process has no decoder")
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xDA:
            scans += 1
        ended = ended or marker == EOI
    if not ended and not _plain(data, ids):
        raise UndecodableError("the codestream is cut short")
    if frame is None or scans == 0:
        raise UndecodableError("the JPEG has no frame")
    if scans > MOST_SCANS:
        raise UndecodableError("the JPEG has more scans than the limit")
    rows, columns, components, depth, process = frame
    # A lossless sample, or a lossy block of 64, takes at least one bit. Decoders invent what is missing.
    if len(data) < rows * columns // (8 if process == 0xC3 else 512):
        raise UndecodableError("the codestream is cut short")
    colour = {0: False, 1: True}.get(adobe, False if ids[:3] == b"RGB" else (True if jfif else None))
    return Stream(rows, columns, components, depth, False, process=process, colour=colour, ended=ended)


def _plain(data: bytes, ids: bytes) -> bool:
    """Whether one can see that a JPEG without its end marker is not cut.

    One can if every component has its scan, in a process that needs no second one, and if there are no restart markers:
    behind those a decoder goes on without data.
    """
    scanned: set[int] = set()
    for marker, body in _segments(data):
        if marker == PROGRESSIVE or (marker == 0xDD and any(body[:2])):
            return False
        if marker == 0xDA and body:
            scanned.update(body[1 : 1 + 2 * body[0] : 2])
    return scanned == set(ids)


def jpeg_ls(data: bytes) -> Stream:
    """JPEG-LS, T.87: SOF55."""
    if data[:2] != b"\xff\xd8":
        raise UndecodableError("the frame is not JPEG-LS")
    found, ended = None, False
    for marker, body in _segments(data):
        if marker == 0xF7 and found is None and len(body) >= 6:
            depth, rows, columns, components = struct.unpack(">BHHB", body[:6])
            found = Stream(rows, columns, components, depth, False)
        ended = ended or marker == EOI
    if found is None:
        raise UndecodableError("the JPEG-LS has no frame")
    return replace(found, ended=ended)


MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")
"""Markers that mean something here; stuffed bytes and restart markers are part of the entropy-coded data."""


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker segments up to EOI, with EOI if it is there. Entropy-coded bytes are skipped.

    Raises UndecodableError for a segment that is cut.
    """
    position = 2
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(data, position)
        if found is None:
            return
        marker, position = found.group(1)[0], found.end()
        if marker == EOI:
            yield EOI, b""
            return
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2 or position + length > len(data):
            raise UndecodableError("the codestream is cut short")
        yield marker, data[position + 2 : position + length]
        position += length
    raise UndecodableError("the codestream has more segments than the limit")


def jpeg2000(data: bytes) -> Stream:
    """JPEG 2000 and HTJ2K, T.800: SIZ and COD, inside a JP2 box if there is one."""
    start = _codestream(data)
    if len(data) < start + 42:
        raise UndecodableError("the JPEG 2000 has no size")
    ended = data.rfind(b"\xff\xd9") >= start
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">8LH", data[start + 8 : start + 42])
    sizes = data[start + 42 : start + 42 + 3 * min(components, 4)]
    if not 1 <= components <= 4 or len(sizes) < 3 * components or x1 <= x0 or y1 <= y0 or not tile_x or not tile_y:
        raise UndecodableError("the JPEG 2000 has no possible size")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if tiles > MOST_TILES:
        raise UndecodableError("the JPEG 2000 has more tiles than the limit")
    if any(step != 1 for i in range(components) for step in sizes[3 * i + 1 : 3 * i + 3]):
        raise UndecodableError("the JPEG 2000 components are subsampled")
    if len({sizes[3 * i] for i in range(components)}) > 1:
        raise UndecodableError("the JPEG 2000 components differ in depth")
    levels, transform = _coding_style(data, start)
    depth, signed = (sizes[0] & 0x7F) + 1, sizes[0] >= 0x80
    if not ended and closed_jpeg2000(data) is None:
        raise UndecodableError("the codestream is cut short")
    return Stream(y1 - y0, x1 - x0, components, depth, signed, levels, colour=transform, tiles=tiles, ended=ended)


def closed_jpeg2000(data: bytes) -> bytes | None:
    """The codestream up to its last tile-part, and an end marker. None unless every tile-part of every tile is there.

    Tile-parts say how long they are (T.800 A.4.2). So only the end marker is missing behind the last one, and the bytes
    in its place are not part of the picture.
    """
    start = _codestream(data)
    x1, y1, _, _, tile_x, tile_y, tile_x0, tile_y0 = struct.unpack(">8L", data[start + 8 : start + 40])
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    position = data.find(b"\xff\x90", start)
    parts: dict[int, list[int]] = {}
    for _ in range(MOST_TILE_PARTS):
        head = data[position : position + 12]
        if position < 0 or len(head) < 12 or head[:2] != b"\xff\x90":
            break
        tile, length, _, count = struct.unpack(">HLBB", head[4:12])
        if length < 14 or position + length > len(data):
            return None
        parts.setdefault(tile, []).append(count)
        position += length
    whole = len(parts) == tiles and all(len(counts) == max(counts) for counts in parts.values())
    return data[start:position] + b"\xff\xd9" if whole else None


def _codestream(data: bytes) -> int:
    """Where the codestream begins: at once, or in the contiguous codestream box of a JP2 file."""
    if data[:4] == b"\xff\x4f\xff\x51":
        return 0
    position = 0
    for _ in range(64):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind == b"jp2c":
            start = position + (16 if length == 1 else 8)
            if data[start : start + 4] == b"\xff\x4f\xff\x51":
                return start
        if (position == 0 and kind != b"jP  ") or length < 8:
            break
        position += length
    raise UndecodableError("the frame is not JPEG 2000")


def _coding_style(data: bytes, start: int) -> tuple[int, bool]:
    """Decomposition levels, and whether the multiple component transform is used, from the main header's COD."""
    position = start + 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0x90:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == 0x52 and length >= 12 and len(data) > position + 9:
            return data[position + 9], data[position + 8] == 1
        position += 2 + length
    raise UndecodableError("the JPEG 2000 has no coding style")


def rle(data: bytes, layout: Layout) -> None:
    """Raise UndecodableError unless the RLE header has the segments that the image needs, in order (PS3.5 G.5)."""
    if len(data) < 64:
        raise UndecodableError("the RLE header is cut short")
    count, *offsets = struct.unpack("<16L", data[:64])
    if count != layout.samples * layout.allocated // 8:
        raise UndecodableError("the RLE segments do not fit the image")
    used = [*offsets[:count], len(data)]
    if used[0] != 64 or any(a >= b for a, b in pairwise(used)):
        raise UndecodableError("the RLE segments are out of order")


def jpeg_xl(data: bytes, layout: Layout) -> None:
    """Raise UndecodableError unless JPEG XL announces the header's size (ISO 18181-1, SizeHeader)."""
    start = 0
    if data[:12] == b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a":
        start = data.find(b"jxlc", 12, 4096) + 4
    if data[start : start + 2] != b"\xff\x0a" or (start < 5 and start):
        raise UndecodableError("the frame is not JPEG XL")
    bits = int.from_bytes(data[start + 2 : start + 18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    rows = side(small)
    ratio = take(3)
    across, down = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    columns = rows * across // down if ratio else side(small)
    if (rows, columns) != (layout.rows, layout.columns):
        raise UndecodableError("codestream and header disagree about the size")
