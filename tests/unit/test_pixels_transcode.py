"""Transcoding keeps every element and every pixel, or refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from router.pixels import decode
from router.pixels import transcode as module
from router.pixels.elements import EXPLICIT, IMPLICIT
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
    data_set.file_meta.TransferSyntaxUID = syntax
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
