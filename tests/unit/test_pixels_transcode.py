"""Transcoding keeps every element and every pixel, or refuses."""

from __future__ import annotations

import csv
import struct
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from router.dicom.uids import EXPLICIT, IMPLICIT, JPEG_LOSSLESS_SV1, RLE
from router.pixels import decode
from router.pixels import transcode as module
from router.pixels.transcode import transcode
from router.pixels.wrap import ENCODERS, wrap_image

GREY = np.random.default_rng(3).integers(0, 4096, (37, 22)).astype(np.uint16)
PIXELS = (0x00280004, 0x00280006, 0x7FE00001, 0x7FE00002, 0x7FE00010)


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, *ENCODERS])
def test_elements_and_pixels_are_those_of_the_source(tmp_path: Path, syntax: str, target: str) -> None:
    source = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=syntax, age="009Y")
    transcode(source, tmp_path / "b.dcm", target)
    before, after = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "b.dcm")
    assert after.file_meta.TransferSyntaxUID == target
    assert after.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID
    assert np.array_equal(after.pixel_array, GREY)
    del before.PixelData, after.PixelData
    assert after == before


def nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1" * depth, "Ä"
    if depth > 1:
        inner.PurposeOfReferenceCodeSequence = Sequence([nested(depth - 1), Dataset()])
    return inner


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_sequences_numbers_and_unknown_elements_survive_any_coding(tmp_path: Path, syntax: str, target: str) -> None:
    wrapped = pydicom.dcmread(wrap_image(GREY, tmp_path / "a.dcm"))
    data_set = Dataset({element.tag: element for element in wrapped})
    data_set.file_meta = wrapped.file_meta
    data_set.AnatomicRegionSequence = Sequence([nested(4), nested(1)])
    data_set.add_new("RedPaletteColorLookupTableDescriptor", "US", [256, 0, 16])
    data_set.GridSpacingMaterial, data_set.ImageComments = "", "x" * 9000
    data_set.add_new("PixelPaddingValue", "US", 0xFFFE)
    data_set.TableOfXBreakPoints = [1, 70000]
    data_set.FrameAcquisitionDuration = 0.1
    data_set.add_new(0x60000010, "US", 7)
    data_set.add_new(0x00091001, "UN", b"\1\2\3\4")
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax == ExplicitVRBigEndian:
        data_set.PixelData = GREY.astype(">u2").tobytes()
    pydicom.dcmwrite(
        tmp_path / "a.dcm",
        data_set,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    transcode(tmp_path / "a.dcm", tmp_path / "b.dcm", target)
    after = pydicom.dcmread(tmp_path / "b.dcm")
    assert np.array_equal(after.pixel_array, GREY)
    del data_set.PixelData, after.PixelData
    assert after == data_set


def test_a_result_that_differs_is_refused_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = wrap_image(GREY, tmp_path / "a.dcm")
    copy = module._copy

    def careless(*given: object) -> object:
        place, vr, digest = copy(*given)  # type: ignore[arg-type]
        return place, vr, digest if place != (0x00100010,) else "0" * 32

    monkeypatch.setattr(module, "_copy", careless)
    with pytest.raises(ValueError, match="does not compare equal"):
        transcode(source, tmp_path / "b.dcm", EXPLICIT)
    assert not (tmp_path / "b.dcm").exists()


def test_what_cannot_be_had_losslessly_is_refused_without_received_text(tmp_path: Path) -> None:
    source = wrap_image(GREY, tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="only Explicit and Implicit"):
        transcode(source, tmp_path / "b.dcm", "1.2.840.10008.1.2.5")
    source.write_bytes(source.read_bytes()[:-900])
    with pytest.raises(ValueError) as caught:
        transcode(source, tmp_path / "b.dcm", IMPLICIT)
    assert "PHANTOM" not in str(caught.value)
    assert not (tmp_path / "b.dcm").exists()


def with_vr(path: Path, tag: int, vr: bytes, value: bytes) -> Path:
    """An element in explicit VR, with a VR that its tag may not have, in front of the Study Instance UID."""
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x0d\x00UI")
    header = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value))
    path.write_bytes(content[:at] + header + value + content[at:])
    return path


def test_text_whose_tag_is_a_sequence_is_wrapped_in_implicit_vr(tmp_path: Path) -> None:
    source = with_vr(wrap_image(GREY, tmp_path / "a.dcm"), 0x00120064, b"LO", b"Some Anonymizer ")
    transcode(source, tmp_path / "b.dcm", IMPLICIT)
    (item,) = pydicom.dcmread(tmp_path / "b.dcm").DeidentificationMethodCodeSequence
    assert [item[tag].value.strip() for tag in (0x00090010, 0x00091000, 0x00091001)] == [
        "DICOM_ROUTER VR",
        b"LO",
        b"Some Anonymizer",
    ]
    transcode(source, tmp_path / "c.dcm", EXPLICIT)
    assert b"\x12\x00\x64\x00LO\x10\x00Some Anonymizer " in (tmp_path / "c.dcm").read_bytes()


@pytest.mark.dcmtk
def test_dcmtk_reads_a_copy_in_implicit_vr(tmp_path: Path) -> None:
    source = with_vr(wrap_image(GREY, tmp_path / "a.dcm"), 0x00120064, b"LO", b"Some Anonymizer ")
    transcode(source, tmp_path / "b.dcm", IMPLICIT)
    read = subprocess.run(["dcmdump", tmp_path / "b.dcm"], capture_output=True, text=True, check=False)
    assert (read.returncode, "E: " in read.stderr) == (0, False)
    assert "Some" in read.stdout or "53\\6f\\6d\\65" in read.stdout
    assert "PixelData" in read.stdout


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00181110, b"FL", b"\0\0\x80?"),
        (0x00181114, b"US", b"\1\0"),
        (0x00189345, b"DS", b"0.5 "),
        (0x00181110, b"US", b""),
    ],
)
def test_what_implicit_vr_would_turn_into_another_value_is_refused(
    tmp_path: Path, tag: int, vr: bytes, value: bytes
) -> None:
    source = with_vr(wrap_image(GREY, tmp_path / "a.dcm"), tag, vr, value)
    transcode(source, tmp_path / "b.dcm", EXPLICIT)
    if not value:
        transcode(source, tmp_path / "c.dcm", IMPLICIT)
        return
    with pytest.raises(ValueError, match="Implicit VR cannot say"):
        transcode(source, tmp_path / "c.dcm", IMPLICIT)


@pytest.mark.parametrize(("vr", "value"), [(b"SS", b"\x25\0"), (b"UL", b"\x25\0\0\0")])
def test_another_kind_of_number_is_copied(tmp_path: Path, vr: bytes, value: bytes) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    content = path.read_bytes()
    rows = b"\x28\x00\x10\x00US\x02\x00\x25\x00"
    assert content.count(rows) == 1
    path.write_bytes(content.replace(rows, rows[:4] + vr + struct.pack("<H", len(value)) + value))
    transcode(path, tmp_path / "b.dcm", IMPLICIT)
    assert np.array_equal(decode(tmp_path / "b.dcm"), GREY)


EIGHT = (GREY >> 4).astype(np.uint8)


@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("syntax", [s for s in ENCODERS if s != RLE])
def test_eight_bits_in_sixteen_become_native_ones(tmp_path: Path, syntax: str, target: str) -> None:
    source = wrap_image(EIGHT, tmp_path / "a.dcm", transfer_syntax=syntax)
    data_set = pydicom.dcmread(source)
    data_set.BitsAllocated = 16
    data_set.save_as(source)
    transcode(source, tmp_path / "b.dcm", target)
    after = pydicom.dcmread(tmp_path / "b.dcm")
    assert (after.pixel_array.dtype, after.BitsAllocated) == (np.dtype("u2"), 16)
    assert np.array_equal(after.pixel_array, EIGHT)


def test_samples_that_the_header_alone_calls_left_aligned_are_refused(tmp_path: Path) -> None:
    source = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=JPEG_LOSSLESS_SV1)
    data_set = pydicom.dcmread(source)
    data_set.HighBit = 15
    data_set.save_as(source)
    with pytest.raises(ValueError, match="left-aligned"):
        transcode(source, tmp_path / "b.dcm", EXPLICIT)


@pytest.mark.slow
@pytest.mark.shared
def test_every_syntax_of_the_corpus_can_be_had_in_little_endian(shared: Path, tmp_path: Path) -> None:
    refused = {"deflated_image_frame_1bit_seg.dcm", "j2k_embedded_seqdelim.dcm", "no_meta_header.dcm",
               "syn_encapsulated_uncompressed_u12_3f.dcm"}  # fmt: skip
    with (shared / "data" / "dicom" / "manifest.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["group"] == "2-syntaxes"]
    for number, row in enumerate(rows):
        source, target = shared / "data" / "dicom" / row["file"], tmp_path / "b.dcm"
        if source.name in refused:
            with pytest.raises(ValueError):
                transcode(source, target, EXPLICIT)
            continue
        transcode(source, target, (EXPLICIT, IMPLICIT)[number % 2])
        if row["expect"] == "decodes":
            assert np.array_equal(decode(source), decode(target)), row["file"]
