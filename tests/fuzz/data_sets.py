"""A grammar of data sets: elements in four codings, sequences, pixels native and in fragments; right, or twisted.

A twisted data set is wrong while it is written, so that what stands around a wrong length or VR is still right.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.mutate import LONG_NUMBERS, ODD_VRS, mutate

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
CODINGS = (IMPLICIT, EXPLICIT, EXPLICIT, DEFLATED, BIG)
DX, CR, SR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.88.11"
UNDEFINED = 0xFFFFFFFF
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True)
class Writer:
    """Writes elements in one coding; each header goes wrong with probability `twist`."""

    rng: Random
    explicit: bool
    order: str
    twist: float

    def header(self, tag: int, vr: bytes, length: int) -> bytes:
        if self.rng.random() < self.twist:
            which = self.rng.randrange(4)
            if which == 0:
                length = self.rng.choice(LONG_NUMBERS)
            elif which == 1:
                length = (length + self.rng.choice((-4, -2, -1, 1, 2, 4, 8, 12))) % (1 << 32)
            elif which == 2:
                vr = self.rng.choice(ODD_VRS)
            else:
                tag ^= 1 << self.rng.randrange(32)
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit or tag >> 16 == 0xFFFE:
            return head + struct.pack(self.order + "L", length)
        if vr in LONG or length > 0xFFFF:
            return head + vr + b"\0\0" + struct.pack(self.order + "L", length)
        return head + vr + struct.pack(self.order + "H", length)

    def element(self, tag: int, vr: bytes, value: bytes | str | Sequence[int]) -> bytes:
        raw = value.encode("latin-1") if isinstance(value, str) else value
        if not isinstance(raw, bytes):
            raw = struct.pack(f"{self.order}{len(raw)}{'L' if vr == b'UL' else 'H'}", *raw)
        raw += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(raw) % 2)
        return self.header(tag, vr, len(raw)) + raw

    def sequence(self, tag: int, items: Sequence[bytes]) -> bytes:
        """Items and the sequence itself with a length or without."""
        content = b"".join(self.item(item) for item in items)
        if self.rng.random() < 0.5:
            return self.header(tag, b"SQ", len(content)) + content
        return self.header(tag, self.rng.choice((b"SQ", b"SQ", b"UN")), UNDEFINED) + content + self.end(0xFFFEE0DD)

    def item(self, content: bytes) -> bytes:
        if self.rng.random() < 0.5:
            return self.header(0xFFFEE000, b"", len(content)) + content
        return self.header(0xFFFEE000, b"", UNDEFINED) + content + self.end(0xFFFEE00D)

    def end(self, tag: int) -> bytes:
        return b"" if self.rng.random() < self.twist else self.header(tag, b"", 0)


def writer(rng: Random, syntax: str, twist: float) -> Writer:
    return Writer(rng, syntax != IMPLICIT, ">" if syntax == BIG else "<", twist)


def uid(rng: Random) -> str:
    return f"2.25.{rng.getrandbits(100)}"


def data_set(
    rng: Random, syntax: str, twist: float, *, sop_class: str = DX, instance: str = "", pixels: bytes | None = None
) -> bytes:
    """A whole data set in `syntax`; `pixels` are the elements of the pixel description and the pixels themselves."""
    out = writer(rng, syntax, twist)
    parts = [
        out.element(0x00080005, b"CS", rng.choice(("ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87", "ISO_IR 6\\X"))),
        out.element(0x00080016, b"UI", sop_class),
        out.element(0x00080018, b"UI", instance or uid(rng)),
        *(maybe(rng, out) for maybe in OPTIONAL if rng.random() < 0.7),
        native(rng, out) if pixels is None else pixels,
    ]
    if rng.random() < 0.2:
        parts.append(out.element(0x7FE10010, b"LO", "MAKER"))
    if rng.random() < twist:
        rng.shuffle(parts)
    content = b"".join(parts)
    if syntax in (DEFLATED,):
        packer = zlib.compressobj(wbits=rng.choice((-15, -15, -15, 15, 31)))
        content = packer.compress(content) + packer.flush()
    return content


def nested(rng: Random, out: Writer, depth: int) -> bytes:
    """Sequences in sequences, and items that hold a little."""
    content = out.element(0x00080100, b"SH", "T-D1100")
    for _ in range(depth):
        content = out.sequence(0x00082218, [content] + [b""] * rng.choice((0, 0, 1, 3)))
        if len(content) > 200_000:
            break
    return content


OPTIONAL: tuple[Callable[[Random, Writer], bytes], ...] = (
    lambda rng, out: out.element(0x00080060, b"CS", rng.choice(("DX", "CR", "", "MG\\X"))),
    lambda rng, out: nested(rng, out, rng.choice((0, 1, 2, 5, 60, 70, 255, 257, 2000 if rng.random() < 0.05 else 3))),
    lambda rng, out: out.element(0x00091010, b"UN", rng.randbytes(rng.choice((0, 8, 200)))),
    lambda rng, out: out.element(0x00091011, b"QX", bytes(40)),
    lambda rng, out: out.element(0x00100010, b"PN", "A^" * rng.choice((0, 1, 40, 4000))),
    lambda rng, out: out.element(0x00100030, b"DA", rng.choice(("20000101", "", "99999999", "1"))),
    lambda rng, out: out.element(0x00101010, b"AS", rng.choice(("016Y", "000Y", "9999", "-1Y"))),
    lambda rng, out: out.element(0x0020000D, b"UI", rng.choice((*[uid(rng)] * 30, "", "../../x", "1" * 70, "1..2"))),
    lambda rng, out: out.element(0x0020000E, b"UI", uid(rng)),
    lambda rng, out: out.element(0x00281050, b"DS", rng.choice(("100", "1e30\\2", "nan", "-inf", "", "x" * 20))),
    lambda rng, out: out.element(0x00281051, b"DS", rng.choice(("100", "0", "-1", "1e-30\\2", ""))),
    lambda rng, out: out.element(0x00281052, b"DS", rng.choice(("0", "-1024", "1e300"))),
    lambda rng, out: out.element(0x00281053, b"DS", rng.choice(("1", "0", "nan", "1e-300"))),
    lambda rng, out: lut(rng, out, 0x00283010),
    lambda rng, out: lut(rng, out, 0x00283000),
    lambda rng, out: overlay(rng, out),
)


def lut(rng: Random, out: Writer, tag: int) -> bytes:
    """A VOI or Modality LUT, with descriptors that may promise more than there is (PS3.3 C.11)."""
    count, first, bits = rng.choice((0, 1, 16, 4096)), rng.choice((0, 1, 0x8000, 0xFFFF)), rng.choice((8, 12, 16, 0))
    table = np.linspace(0, 255, count or 16).astype(np.uint16)
    item = out.element(0x00283002, b"US", (count, first, bits)) + out.element(0x00283006, b"US", table.tolist())
    return out.sequence(tag, [item] * rng.choice((0, 1, 1, 2)))


def overlay(rng: Random, out: Writer) -> bytes:
    rows, columns = rng.choice((0, 16, 24, 0xFFFF)), rng.choice((0, 16, 24, 0xFFFF))
    return (
        out.element(0x60000010, b"US", (rows,)) + out.element(0x60000011, b"US", (columns,))
        + out.element(0x60000050, b"SS", rng.choice(((1, 1), (0xFFFF, 0), (0x7FFF, 0x8000))))
        + out.element(0x60000100, b"US", (rng.choice((1, 0, 16)),))
        + out.element(0x60000102, b"US", (rng.randrange(17),))
        + out.element(0x60003000, b"OW", bytes(rng.choice((0, 32, 48, 72))))
    )  # fmt: skip


def description(
    rng: Random, out: Writer, rows: int, columns: int, samples: int, bits: int, *, photometric: str = ""
) -> bytes:
    """The pixel description; twisted, one of its numbers is another."""
    numbers = {0x0002: samples, 0x0010: rows, 0x0011: columns, 0x0100: bits, 0x0101: bits, 0x0102: bits - 1, 0x0103: 0}
    if samples == 3:
        numbers[0x0006] = rng.choice((0, 0, 1))
    if rng.random() < 4 * out.twist:
        numbers[rng.choice(list(numbers))] = rng.choice((0, 1, 3, 7, 8, 12, 16, 17, 32, 0x7FFF, 0xFFFF))
    words = photometric or rng.choice(("RGB", "YBR_FULL", "YBR_FULL_422") if samples == 3 else GREYS)
    written = {element: out.element(0x00280000 | element, b"US", (n % 65536,)) for element, n in numbers.items()}
    written[0x0004] = out.element(0x00280004, b"CS", words)
    if rng.random() < 0.3:
        written[0x0008] = out.element(0x00280008, b"IS", rng.choice(("1", "2", "0", "-1", "999999999", "", "x")))
    if words == "PALETTE COLOR":
        for element in (0x1101, 0x1102, 0x1103):
            entries = rng.choice((0, 1, 256))
            written[element] = out.element(0x00280000 | element, b"US", (entries, 0, rng.choice((8, 16))))
            size = 2 * (entries or rng.choice((4, 65536)))
            written[element + 0x100] = out.element(0x00280000 | element + 0x100, b"OW", bytes(size))
    return b"".join(written[element] for element in sorted(written))


GREYS = ("MONOCHROME1", "MONOCHROME2", "MONOCHROME2", "PALETTE COLOR")


def native(rng: Random, out: Writer) -> bytes:
    """A small image without compression, of any depth."""
    rows, columns = rng.choice((1, 7, 16, 24, 64)), rng.choice((1, 7, 16, 24, 64))
    samples, bits = rng.choice((1, 1, 1, 3)), rng.choice((1, 8, 16, 16, 32))
    size = -(-rows * columns * samples * bits // 8) + rng.choice((0, 0, 0, 1, -1, 100))
    vr = rng.choice((b"OW", b"OW", b"OB", b"UN"))
    return description(rng, out, rows, columns, samples, bits) + out.element(
        rng.choice((0x7FE00010,) * 12 + (0x7FE00008, 0x7FE00009)), vr, rng.randbytes(max(0, size))
    )


@dataclass(frozen=True)
class Compressed:
    """One frame as an encoder writes it, and what its header must say."""

    syntax: str
    rows: int
    columns: int
    samples: int
    bits: int
    data: bytes


@cache
def codestreams() -> tuple[Compressed, ...]:
    """Small frames in every compressed syntax that an encoder is at hand for."""
    import imagecodecs

    made: list[Compressed] = []
    base = "1.2.840.10008.1.2.4."
    for rows, columns in ((16, 24), (64, 40)):
        ramp = np.add.outer(np.arange(rows) * 5, np.arange(columns) * 3)
        for bits, samples in ((8, 1), (8, 3), (16, 1)):
            image = (ramp % (1 << bits)).astype(np.uint8 if bits == 8 else np.uint16) * (1 if bits == 8 else 37)
            image = np.repeat(image[..., None], 3, axis=2) if samples == 3 else image
            encoders: dict[str, Callable[[Any], bytes | bytearray]] = {
                f"{base}70": lambda i: imagecodecs.ljpeg_encode(i),
                f"{base}80": lambda i: imagecodecs.jpegls_encode(i),
                f"{base}81": lambda i: imagecodecs.jpegls_encode(i, level=2),
                f"{base}90": lambda i: imagecodecs.jpeg2k_encode(i, level=0, codecformat="j2k"),
                f"{base}91": lambda i: imagecodecs.jpeg2k_encode(i, level=30),
                f"{base}201": lambda i: imagecodecs.htj2k_encode(i),
                f"{base}110": lambda i: imagecodecs.jpegxl_encode(i, lossless=True),
            }
            if bits == 8:
                encoders[f"{base}50"] = lambda i: imagecodecs.jpeg8_encode(i)
            for syntax, encode in encoders.items():
                try:
                    made.append(Compressed(syntax, rows, columns, samples, bits, bytes(encode(image))))
                except Exception:
                    continue
        made.append(Compressed("1.2.840.10008.1.2.5", rows, columns, 1, 8, _rle(rows * columns)))
    return tuple(made)


def _rle(count: int) -> bytes:
    """One segment of a constant image (PS3.5 annex G)."""
    runs = b"".join(bytes((257 - min(128, count - at), 7)) for at in range(0, count, 128))
    return struct.pack("<16L", 1, 64, *(0,) * 14) + runs + bytes(len(runs) % 2)


def claiming(frame: Compressed, rows: int, columns: int) -> Compressed:
    """The same few bytes, of which codestream and header say with one voice that they are a large image."""
    data = bytearray(frame.data)
    found = re.search(rb"\xff[\xc0-\xc3\xf7]..[\x02-\x10]", data, re.DOTALL)
    if data[:4] == b"\xff\x4f\xff\x51":
        struct.pack_into(">LL", data, 8, columns, rows)
        struct.pack_into(">LL", data, 24, columns, rows)
    elif found is not None and data[:2] == b"\xff\xd8":
        struct.pack_into(">HH", data, found.end(), rows, columns)
    return replace(frame, rows=rows, columns=columns, data=bytes(data))


def compressed(rng: Random, twist: float, *, changed: float = 0.7) -> tuple[str, bytes]:
    """Transfer syntax and data set of a compressed image, its codestream mutated with probability `changed`."""
    frame = rng.choice(codestreams())
    if rng.random() < 0.04:
        frame = claiming(frame, *rng.choice(((20_000, 7_500), (7_500, 20_000), (20_000, 1), (1, 20_000), (8192, 8192))))
    data = frame.data
    if rng.random() < changed:
        data = mutate(rng, data, [other.data for other in rng.sample(codestreams(), 2)])
    syntax = frame.syntax if rng.random() < 0.95 else rng.choice(codestreams()).syntax
    out = writer(rng, EXPLICIT, twist)
    pieces = [data] if rng.random() < 0.7 or len(data) < 4 else [data[: len(data) // 4 * 2], data[len(data) // 4 * 2 :]]
    fragments = [rng.choice((b"", b"", bytes(4), rng.randbytes(8))), *pieces] * rng.choice((1, 1, 1, 1, 2))
    if rng.random() < 0.02:
        fragments = [b""] * rng.choice((1000, 20_000))
    pixels = out.header(0x7FE00010, b"OB", UNDEFINED)
    pixels += b"".join(out.header(0xFFFEE000, b"", len(f) + len(f) % 2) + f + bytes(len(f) % 2) for f in fragments)
    form = description(rng, out, frame.rows, frame.columns, frame.samples, frame.bits)
    whole = data_set(rng, EXPLICIT, twist, pixels=form + pixels + out.end(0xFFFEE0DD))
    return syntax, whole


def part10(syntax: str, content: bytes, sop_class: str = DX) -> bytes:
    out = Writer(Random(0), True, "<", 0)
    meta = out.element(0x00020002, b"UI", sop_class) + out.element(0x00020010, b"UI", syntax)
    return bytes(128) + b"DICM" + out.element(0x00020000, b"UL", (len(meta),)) + meta + content
