"""What the header says: values as trimmed text for the rules, and the layout of the pixels for the decoders.

No value is read beyond a fixed size, even if its length is larger. A wrong value raises no error: the rules see it as
unreadable. Source: PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.5 §6.1, §6.2.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, private_dictionary_VR

from router.dicom.data_set import DataSet
from router.dicom.elements import PIXELS, Element
from router.flow import Header

MOST_VALUES, MOST_CHARACTERS = 64, 256
MOST_BYTES = 4 * MOST_VALUES * MOST_CHARACTERS

NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d", "AT": "HH"}
INTEGERS = ("US", "SS", "UL", "SL", "UV", "SV")
MOST_INTEGER, MOST_DIGITS = 0xFFFF, 16
"""The largest number of the pixel description, all of which are US (PS3.3 C.7.6.3), and the longest text of one."""
WRITTEN = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""VRs whose text is in the instance's own character set; all others are ASCII (PS3.5 §6.1.2.3)."""
ONE_VALUE = frozenset(("LT", "ST", "UT", "UR"))
OPAQUE = frozenset(("SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN"))
CHARACTER_SET = 0x00080005
MOST_CREATOR = 64
"""Bytes of a private creator's name (PS3.5 §7.8.1: VR LO)."""


class UndecodableError(ValueError):
    """The pixels cannot become a picture. The message is a few words of our own, never received text."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The Image Pixel module (PS3.3 C.7.6.3). Its values agree with each other: a decoder can rely on it.

    `kind` is how a sample is stored: "u" and "i" for integers of `allocated` bits, "f" for IEEE 754. `low` is how many
    bits lie below a native sample's own: 0 unless samples are left-aligned. `notes` are fixed texts: what the header
    left out or contradicted, and what was assumed.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    kind: str
    planar: int
    photometric: str
    low: int = 0
    notes: tuple[str, ...] = ()

    @property
    def frame_bits(self) -> int:
        """Bits that one frame takes in native pixel data."""
        if self.photometric == "YBR_FULL_422":
            return self.rows * self.columns * 2 * self.allocated
        return self.rows * self.columns * self.samples * self.allocated


def values(data_set: DataSet, tags: Iterable[int]) -> Header:
    """The values of these tags, as `flow.Header` says. An element is unreadable if the data set breaks off before it,
    and if it is there twice: nobody knows which one is meant."""
    encodings = _encodings(data_set)
    found: dict[int, tuple[str, ...] | None] = {}
    for tag in tags:
        element = data_set.meta.get(tag) or data_set.elements.get(tag)
        if tag in data_set.repeated:
            found[tag] = None
        elif element is not None:
            found[tag] = _value(data_set, element, encodings)
        elif data_set.broken and tag > 0x0002FFFF:
            found[tag] = None
    return found


def _value(data_set: DataSet, element: Element, encodings: list[str]) -> tuple[str, ...] | None:
    if element.length == 0 or (element.undefined and element.length <= 8):
        return ()
    if element.offset + element.length > data_set.size and element.tag not in PIXELS:
        return None
    vr = value_representation(element, data_set)
    if vr == "UN":
        return None
    if vr in OPAQUE:
        return ("",)
    raw = data_set.value(element, MOST_BYTES)
    if vr in NUMBERS:
        return _numbers(raw, element.length, vr, data_set.coding.order)
    text = _text(raw, encodings if vr in WRITTEN else ["latin-1"])
    if not text.strip(" \0"):
        return ()
    parts = [text] if vr in ONE_VALUE else text.split("\\", MOST_VALUES)
    return tuple(part.strip(" \0\r\n\t")[:MOST_CHARACTERS] for part in parts[:MOST_VALUES])


def value_representation(element: Element, data_set: DataSet) -> str:
    """The VR written, or the dictionary's for implicit VR and UN; UN for what is unknown."""
    if element.vr not in ("", "UN"):
        return element.vr
    if element.undefined:
        return "SQ"
    try:
        private = element.tag >> 16 & 1
        vr = _private_vr(element.tag, data_set) if private else dictionary_VR(element.tag)
    except KeyError:
        return "UN"
    if " or " in vr:
        return "OW" if "OW" in vr and element.length > 2 else signed_or_not(data_set)
    return vr


def _private_vr(tag: int, data_set: DataSet) -> str:
    """The VR that pydicom's dictionary of private elements has for a tag of its creator. Raises KeyError."""
    if tag & 0xFFFF < 0x1000:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    creator = data_set.elements.get(tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8)
    if creator is None or creator.length > MOST_CREATOR:
        return "UN"
    name = data_set.value(creator, MOST_CREATOR).decode("latin-1").strip(" \0")
    return private_dictionary_VR(tag, name)


def signed_or_not(data_set: DataSet) -> str:
    return "SS" if integer(data_set, 0x00280103) == 1 else "US"


def _numbers(raw: bytes, length: int, vr: str, order: str) -> tuple[str, ...] | None:
    code = NUMBERS[vr]
    step = struct.calcsize(order + code)
    if length % step:
        return None
    numbers = struct.iter_unpack(order + code, raw[: min(len(raw), MOST_VALUES * step) // step * step])
    if vr == "AT":
        return tuple(f"({group:04x},{element:04x})" for group, element in numbers)
    return tuple(f"{number:.9g}" if isinstance(number, float) else str(number) for (number,) in numbers)


def _encodings(data_set: DataSet) -> list[str]:
    element = data_set.elements.get(CHARACTER_SET)
    if element is None:
        return ["latin-1"]
    names = data_set.value(element, 256).decode("latin-1").strip(" \0").split("\\")[:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(convert_encodings([name.strip() for name in names])) or ["latin-1"]
        except Exception:
            return ["latin-1"]


def _text(raw: bytes, encodings: list[str]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_bytes(raw, encodings, {ord(c) for c in "\r\n\t\f"})
        except Exception:
            return raw.decode("latin-1")


def text(data_set: DataSet, tag: int) -> str:
    """The first value of a text element, or nothing."""
    element = data_set.elements.get(tag)
    found = _value(data_set, element, ["latin-1"]) if element is not None else None
    return found[0] if found else ""


def integer(data_set: DataSet, tag: int) -> int | None:
    """The one value of a US element, or of another kind of number that some write in its place (SS, UL, IS).

    None when it is absent or empty. Raises UndecodableError for anything else.
    """
    element = data_set.elements.get(tag)
    if element is None or element.length == 0:
        return None
    if element.vr in ("", "UN", "US"):
        code = {2: "H", 4: "L"}.get(element.length, "") if element.vr != "US" else "H"
    else:
        code = NUMBERS.get(element.vr, "")
    size = struct.calcsize("<" + code)
    if code and size == element.length and element.vr in (*INTEGERS, "", "UN"):
        (number,) = struct.unpack(data_set.coding.order + code, data_set.value(element, size))
    elif element.vr in ("IS", "DS") and element.length <= MOST_DIGITS:
        written = data_set.value(element, MOST_DIGITS).strip(b" \0")
        number = int(written) if written.isdigit() else -1
    else:
        number = -1
    if not 0 <= number <= MOST_INTEGER:
        raise UndecodableError("a number of the pixel description is not one unsigned number")
    return int(number)


def decimals(data_set: DataSet, tag: int) -> list[float]:
    """The values of a DS, IS or FD element as finite floats; none when one of them is not a number."""
    element = data_set.elements.get(tag)
    found = _value(data_set, element, ["latin-1"]) if element is not None else None
    try:
        numbers = [float(value) for value in found or ()]
    except ValueError:
        return []
    return numbers if all(abs(number) < 1e30 for number in numbers) else []


def layout(data_set: DataSet) -> Layout:
    """The pixel description of a data set. Raises UndecodableError if it is incomplete or contradicts itself."""
    rows, columns = integer(data_set, 0x00280010), integer(data_set, 0x00280011)
    if not rows or not columns:
        raise UndecodableError("the image has no size")
    samples = integer(data_set, 0x00280002)
    samples = 1 if samples is None else samples
    photometric, notes = _photometric(data_set, samples)
    if SAMPLES.get(photometric) != samples:
        raise UndecodableError("photometric interpretation and samples per pixel do not belong together")
    planar = integer(data_set, 0x00280006) or 0
    if planar > 1:
        raise UndecodableError("the planar configuration is not one of the standard's")
    kind, allocated, stored, low = _sample(data_set)
    if low:
        notes = (*notes, "samples are left-aligned: the high bit says so")
    if kind == "f" and samples > 1:
        raise UndecodableError("floating point pixels have more than one sample")
    if photometric == "YBR_FULL_422" and ((columns % 2 and not encapsulated(data_set)) or planar):
        raise UndecodableError("a subsampled image has an odd width or planes")
    frames = _frames(data_set)
    return Layout(rows, columns, samples, frames, allocated, stored, kind, planar, photometric, low, notes)


SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
"""The Presentation LUT Shape that goes with each photometric interpretation (PS3.3 C.8.11.3.1.2)."""


def _photometric(data_set: DataSet, samples: int) -> tuple[str, tuple[str, ...]]:
    """The photometric interpretation, and notes on it.

    It says what the stored values are. So it counts if Presentation LUT Shape (PS3.3 C.11.6) contradicts it. If it is
    missing, the shape says which end of a grey image is white, and colour is RGB.
    """
    written, shape = text(data_set, 0x00280004).upper(), text(data_set, 0x20500020).upper()
    if not written:
        polarity = {shape: name for name, shape in SHAPES.items()}
        taken = polarity.get(shape, "MONOCHROME2") if samples == 1 else "RGB"
        return taken, (f"no photometric interpretation: taken as {taken}",)
    if shape in SHAPES.values() and shape != SHAPES.get(written, shape):
        return written, (f"Presentation LUT Shape {shape} contradicts {written}: {written} was followed",)
    return written, ()


SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
    "XYB": 3,
}
"""Photometric interpretations that we can show, with their samples per pixel (PS3.3 C.7.6.3.1.2)."""


def _sample(data_set: DataSet) -> tuple[str, int, int, int]:
    """Kind, bits allocated and bits stored of one sample, and the bits below them."""
    pixels = pixel_element(data_set)
    allocated = integer(data_set, 0x00280100)
    floating = {0x7FE00008: 32, 0x7FE00009: 64}.get(pixels.tag)
    if floating:
        if allocated != floating:
            raise UndecodableError("floating point pixels with the wrong number of bits")
        return "f", floating, floating, 0
    if allocated not in (1, 8, 16, 32, 64):
        raise UndecodableError("the number of bits allocated is not one of the standard's")
    stored, high = integer(data_set, 0x00280101), integer(data_set, 0x00280102)
    if stored is None:
        stored = allocated if high is None else high + 1
    if not 1 <= stored <= allocated:
        raise UndecodableError("more bits stored than allocated, or none")
    if high is not None and high < stored - 1:
        raise UndecodableError("the high bit lies below the bits stored")
    sign = integer(data_set, 0x00280103)
    if sign is None and pixels.undefined:
        raise UndecodableError("the header does not say whether samples are signed")
    low = 0 if high is None or high >= allocated else high + 1 - stored
    return ("i" if sign == 1 else "u"), allocated, stored, low


def _frames(data_set: DataSet) -> int:
    element = data_set.elements.get(0x00280008)
    if element is None:
        return 1
    found = _value(data_set, element, ["latin-1"])
    if found == ():
        return 1
    if found is None or len(found) != 1 or not found[0].isascii() or not found[0].isdecimal() or len(found[0]) > 9:
        raise UndecodableError("the number of frames is not a number")
    return max(1, int(found[0]))  # some writers say 0 though there is an image


def pixel_element(data_set: DataSet) -> Element:
    """The element with the pixels. If, wrongly, both are there, integers go before floating point."""
    for tag in reversed(PIXELS):
        if tag in data_set.elements:
            return data_set.elements[tag]
    raise UndecodableError("there are no pixels")


def encapsulated(data_set: DataSet) -> bool:
    """Whether the pixels lie in fragments (PS3.5 A.4)."""
    return pixel_element(data_set).undefined
