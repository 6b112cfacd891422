"""Instances that the corpus lacks: what vendors write around the pixels, made small with pydicom."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedXAImageStorage

from router.dicom.part10 import data_set_offset
from router.dicom.uids import EXPLICIT, IMPLICIT
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import Case

GREY = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24)
PRIVATE, HOLDER = 0x0009, "FICTITIOUS VENDOR"


def make(folder: Path) -> list[Case]:
    """One file for each function below; all of them decode."""
    folder.mkdir()
    made = [
        (private_elements(folder / "private_explicit.dcm", EXPLICIT), EXPLICIT),
        (private_elements(folder / "private_implicit.dcm", IMPLICIT), IMPLICIT),
        (unknown_with_undefined_length(folder / "un_undefined.dcm"), EXPLICIT),
        (vr_of_the_future(folder / "vr_of_the_future.dcm"), EXPLICIT),
        (nested_without_lengths(folder / "nested_explicit.dcm", EXPLICIT), EXPLICIT),
        (nested_without_lengths(folder / "nested_implicit.dcm", IMPLICIT), IMPLICIT),
        (enhanced(folder / "enhanced_xa.dcm"), EXPLICIT),
    ]
    return [Case(path, syntax, "decodes") for path, syntax in made]


def private_elements(out: Path, syntax: str) -> Path:
    """A private block with text, numbers, binary, UN and a sequence; a private group behind the pixels."""
    data_set = pydicom.dcmread(wrap_image(GREY, out, transfer_syntax=syntax))
    block = data_set.private_block(PRIVATE, HOLDER, create=True)
    block.add_new(0x01, "LO", "text")
    block.add_new(0x02, "FD", [0.5, -2.0])
    block.add_new(0x03, "OB", bytes(range(256)))
    block.add_new(0x04, "UN", b"\xff\xfe\x00\xe0 not an item ")
    inner = Dataset()
    inner.add(DataElement(0x00091010, "LO", HOLDER))
    inner.add(DataElement(0x00091011, "US", 7))
    block.add_new(0x05, "SQ", Sequence([inner, Dataset()]))
    data_set.add(DataElement(0x7FE10010, "LO", HOLDER))
    data_set.add(DataElement(0x7FE11001, "OB", bytes(1024)))
    data_set.save_as(out)
    return out


def unknown_with_undefined_length(out: Path) -> Path:
    """(0009,1006) as UN of undefined length: a sequence in Implicit VR Little Endian (PS3.5 §6.2.2)."""
    item = struct.pack("<HHL4s", 0x0009, 0x1007, 4, b"ABCD")
    sequence = struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return _with_element(out, struct.pack("<HH2sHL", 0x0009, 0x1006, b"UN", 0, 0xFFFFFFFF) + sequence)


def vr_of_the_future(out: Path) -> Path:
    """A VR that nobody knows yet has four bytes of length (PS3.5 §7.1.2)."""
    return _with_element(out, struct.pack("<HH2sHL", 0x0009, 0x1008, b"QX", 0, 70000) + bytes(70000))


def nested_without_lengths(out: Path, syntax: str) -> Path:
    """Sequences and items of undefined length, five deep, one of them empty."""
    data_set = pydicom.dcmread(wrap_image(GREY, out, transfer_syntax=syntax))
    inner = Dataset()
    inner.CodeValue = "T-D1100"
    for _ in range(5):
        inner.is_undefined_length_sequence_item = True
        outer = Dataset()
        outer.AnatomicRegionSequence = Sequence([inner])
        outer["AnatomicRegionSequence"].is_undefined_length = True
        inner = outer
    data_set.AnatomicRegionSequence = inner.AnatomicRegionSequence
    data_set["AnatomicRegionSequence"].is_undefined_length = True
    data_set["AcquisitionContextSequence"].is_undefined_length = True
    data_set.save_as(out)
    return out


def enhanced(out: Path) -> Path:
    """An Enhanced XA image: 3 frames, shared and per-frame functional groups (PS3.3 A.47)."""
    data_set = pydicom.dcmread(wrap_image(GREY, out))
    data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = EnhancedXAImageStorage
    data_set.Modality, data_set.NumberOfFrames = "XA", 3
    data_set.PixelData = data_set.PixelData * 3
    shared = Dataset()
    shared.FrameAnatomySequence = Sequence([Dataset()])
    data_set.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in range(3):
        content = Dataset()
        content.FrameAcquisitionNumber, content.DimensionIndexValues = number, [1, number + 1]
        frame = Dataset()
        frame.FrameContentSequence = Sequence([content])
        frames.append(frame)
    data_set.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data_set.save_as(out)
    return out


def _with_element(out: Path, element: bytes) -> Path:
    """A DX with a private element of raw bytes where its group belongs, before (0010,0010)."""
    content = wrap_image(GREY, out).read_bytes()
    at = content.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"), data_set_offset(out))
    creator = struct.pack("<HH2sH", PRIVATE, 0x0010, b"LO", len(HOLDER) + 1) + HOLDER.encode() + b" "
    out.write_bytes(content[:at] + creator + element + content[at:])
    return out
