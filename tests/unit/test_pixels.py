"""From stored samples to the picture: polarity, windows, tables, padding, overlays, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from router.association import negotiation
from router.dicom import uids
from router.dicom.data_set import open_data_set
from router.dicom.deflated import inflate
from router.dicom.elements import UnparseableError
from router.dicom.part10 import data_set_offset
from router.dicom.uids import EXPLICIT, IMPLICIT, KNOWN_SYNTAXES, LONG_VRS, LOSSY
from router.pixels import decode, decoders, grey_of, render, samples
from router.pixels.grey import Grey, to_grey
from router.pixels.header import Layout, UndecodableError, layout
from router.pixels.images import load_image
from router.pixels.prepare import prepare
from router.pixels.samples import first_frame
from router.pixels.transcode import transcode
from router.pixels.wrap import ENCODERS, wrap_image

NOTHING: frozenset[int] = frozenset()
RNG = np.random.default_rng(7)


def radiograph(top: int = 4096, shape: tuple[int, int] = (240, 180)) -> NDArray[np.uint16]:
    """A bright limb on a dark ground, with noise, over the whole range."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / shape[1]
    limb = np.exp(-((x - 0.5 - 0.1 * np.sin(5 * y)) ** 2) / 0.02) * (0.7 + 0.3 * np.sin(30 * y) ** 2)
    noisy = limb * 0.95 + RNG.random(shape) * 0.04
    return np.asarray(noisy / noisy.max() * (top - 1), np.uint16)


GREY = radiograph()
ROWS, COLUMNS = GREY.shape


def changed(path: Path, **elements: Any) -> Path:
    """The file with elements set, or taken away where None is given."""
    data_set = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            delattr(data_set, keyword)
        elif isinstance(value, tuple):
            data_set.add_new(keyword, *value)
        else:
            setattr(data_set, keyword, value)
    data_set.save_as(path)
    return path


def picture(path: Path, size: int = 96) -> NDArray[np.int16]:
    found, seen = render(path, size, NOTHING)
    assert found is not None, seen.reason
    return found.astype(np.int16)


def differ(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Mean difference of two pictures in grey values."""
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("modality", ["DX", "CR"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, *ENCODERS])
@pytest.mark.parametrize("grey", [GREY, (GREY >> 4).astype(np.uint8), GREY[:61, :47] * 15, GREY[:5, :3]])
def test_what_is_wrapped_decodes_to_itself(tmp_path: Path, grey: NDArray[Any], syntax: str, modality: str) -> None:
    path = wrap_image(grey, tmp_path / "a.dcm", transfer_syntax=syntax, modality=modality)
    decoded = decode(path)
    assert decoded.dtype == grey.dtype
    assert np.array_equal(decoded, grey)


def test_wrapped_instances_are_complete_and_only_seeds_repeat(tmp_path: Path) -> None:
    one, other = (pydicom.dcmread(wrap_image(GREY, tmp_path / f"{n}.dcm", age="030Y")) for n in "ab")
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.PresentationIntentType == "FOR PRESENTATION"
    assert one.PatientName.family_name == "PHANTOM"
    assert int(one.StudyDate[:4]) - int(one.PatientBirthDate[:4]) in (29, 30)
    for element in one:
        assert len(element.tag.json_key) == 8
    again = [pydicom.dcmread(wrap_image(GREY, tmp_path / "s.dcm", seed="x")).SOPInstanceUID for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(ValueError):
        wrap_image(GREY.astype(np.float32), tmp_path / "f.dcm")


@pytest.mark.parametrize("syntax", [uids.JPEG_2000_LOSSLESS, uids.HTJ2K_LOSSLESS])
def test_a_reduced_resolution_shows_the_same_picture(tmp_path: Path, syntax: str) -> None:
    grey = np.array(Image.fromarray(GREY).resize((1400, 1900), Image.Resampling.BICUBIC), np.uint16)
    grey[300:350, 400:600] = 4095
    grey[:240] = 0
    whole, seen = render(wrap_image(grey, tmp_path / "a.dcm"), 128, NOTHING)
    reduced, also = render(wrap_image(grey, tmp_path / "b.dcm", transfer_syntax=syntax), 128, NOTHING)
    assert whole is not None
    assert reduced is not None
    assert differ(whole, reduced) < 3
    assert seen.facts.crop is not None
    assert also.facts.crop is not None
    assert also.facts.crop[0] > 200
    assert max(abs(a - b) for a, b in zip(seen.facts.crop, also.facts.crop, strict=True)) <= 24


def test_bone_is_white_whatever_the_polarity(tmp_path: Path) -> None:
    white = picture(wrap_image(GREY, tmp_path / "a.dcm"))
    black = wrap_image(4095 - GREY, tmp_path / "b.dcm")
    changed(black, PhotometricInterpretation="MONOCHROME1")
    assert differ(white, picture(black)) < 1
    processing = wrap_image(4095 - GREY, tmp_path / "c.dcm")
    changed(processing, PresentationIntentType="FOR PROCESSING", PixelIntensityRelationshipSign=1)
    assert differ(white, picture(processing)) < 1
    assert differ(white, picture(wrap_image(4095 - GREY, tmp_path / "d.dcm"))) > 60


@pytest.mark.parametrize(
    ("centre", "width"),
    [(None, None), ("", ""), (900000, 10), (2048, 0), (2048, -5), ("nan", 4096), (1, 2), (2048, 4000000)],
)
def test_an_absent_or_senseless_window_gives_way_to_percentiles(tmp_path: Path, centre: Any, width: Any) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    good = picture(path)
    data_set = pydicom.dcmread(path)
    del data_set.WindowCenter, data_set.WindowWidth
    if centre is not None:
        for tag, value in ((0x00281050, centre), (0x00281051, width)):
            data_set.add(pydicom.DataElement(tag, "LO", str(value)))
    data_set.save_as(path)
    found, seen = render(path, 96, NOTHING)
    assert found is not None
    assert seen.facts.window is not None
    assert 0 <= seen.facts.window[0] < seen.facts.window[1] <= 4095
    assert differ(good, found) < 12


def test_a_window_and_its_function_are_applied(tmp_path: Path) -> None:
    path = changed(wrap_image(GREY, tmp_path / "a.dcm"), WindowCenter=1000.0, WindowWidth=2001.0)
    _, seen = render(path, 96, NOTHING)
    assert seen.facts.window == (-0.5, 1999.5)
    shown = grey_of(path).astype(float)
    expected = np.clip((GREY.astype(float) + 0.5) / 2000, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.5
    changed(path, VOILUTFunction="SIGMOID")
    sigmoid = 255 / (1 + np.exp(-4 * (GREY.astype(float) - 1000) / 2001))
    assert np.abs(grey_of(path) - sigmoid).max() <= 0.51
    changed(path, WindowCenter=[99999.0, 1000.0], WindowWidth=[10.0, 2001.0], VOILUTFunction="LINEAR_EXACT")
    exact = np.clip((GREY.astype(float) + 0.5) / 2001, 0, 1) * 255
    assert np.abs(grey_of(path) - exact).max() <= 0.51


def opened(path: Path) -> Grey:
    """The grey image of a file with its mask."""
    data_set = open_data_set(path)
    try:
        form = layout(data_set)
        return to_grey(data_set, form, first_frame(data_set, form))
    finally:
        data_set.close()


def table(values: NDArray[Any], first: int = 0, bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


def test_tables_replace_window_and_rescale(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    square = (np.arange(4096) ** 2 // 256).astype(np.uint16)
    changed(path, VOILUTSequence=Sequence([table(square)]), WindowCenter=None, WindowWidth=None)
    expected = square[GREY].astype(float) / square.max() * 255
    assert np.abs(grey_of(path) - expected).max() <= 0.51
    modality = wrap_image(GREY, tmp_path / "b.dcm", modality="CR")
    changed(modality, ModalityLUTSequence=Sequence([table(square, first=100)]), WindowCenter=32768, WindowWidth=65536)
    expected = square[np.clip(GREY.astype(int) - 100, 0, 4095)] / 65535 * 255
    assert np.abs(grey_of(modality) - expected).max() <= 0.51
    rescaled = changed(wrap_image(GREY, tmp_path / "c.dcm"), RescaleSlope=-2, RescaleIntercept=100)
    changed(rescaled, WindowCenter=-3995.5, WindowWidth=8191)
    assert np.abs(grey_of(rescaled) - (255 - GREY / 4095 * 255)).max() < 1
    hounsfield = changed(wrap_image(GREY, tmp_path / "h.dcm"), RescaleIntercept=-2048)
    changed(hounsfield, VOILUTSequence=Sequence([table(square, first=-2048 % 65536)]))
    expected = square[GREY].astype(float) / square.max() * 255
    assert np.abs(grey_of(hounsfield) - expected).max() <= 0.51
    short = table(square)
    short.LUTData = short.LUTData[:100]
    broken = changed(wrap_image(GREY, tmp_path / "d.dcm"), VOILUTSequence=Sequence([short]))
    assert differ(picture(broken), picture(wrap_image(GREY, tmp_path / "e.dcm"))) == 0


def test_padding_is_black_and_outside_the_crop(tmp_path: Path) -> None:
    grey = GREY.copy() + 50
    grey[:80] = 4095
    path = changed(wrap_image(grey, tmp_path / "a.dcm"), PixelPaddingValue=("US", 4095))
    _, seen = render(path, 96, NOTHING)
    assert seen.facts.crop is not None
    assert seen.facts.crop[0] >= 78
    shown = opened(path)
    assert (shown.image[:80] == 0).all()
    assert shown.mask is not None
    assert np.array_equal(shown.mask, grey != 4095)
    changed(path, PixelPaddingValue=("US", 4000), PixelPaddingRangeLimit=("US", 4095))
    assert (grey_of(path)[:80] == 0).all()
    whole = changed(
        wrap_image(grey, tmp_path / "b.dcm"), PixelPaddingValue=("US", 0), PixelPaddingRangeLimit=("US", 4200)
    )
    assert grey_of(whole).max() == 255


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_in_unused_bits_are_cut(tmp_path: Path, signed: bool) -> None:
    marked = GREY.copy()
    marked[10:200, 10:100] |= 0x8000
    path = changed(wrap_image(marked, tmp_path / "a.dcm"), BitsStored=12, HighBit=11, PixelRepresentation=int(signed))
    expected = ((GREY << 4).view(np.int16) >> 4) if signed else GREY
    assert np.array_equal(decode(path), expected)


def test_floating_point_pixels_of_any_size_give_a_picture(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    good = picture(path)
    for values in (GREY / 4095.0, GREY * 1e-308, np.where(GREY > 3000, np.inf, GREY / 4095)):
        changed(path, PixelData=None, BitsAllocated=64, DoubleFloatPixelData=values.astype("<f8").tobytes(),
                WindowCenter=0, WindowWidth=0)  # fmt: skip
        assert picture(path).shape == good.shape
        wrap_image(GREY, path)
    changed(path, PixelData=None, BitsAllocated=64, DoubleFloatPixelData=(GREY / 7.0).tobytes(), WindowWidth=0)
    assert differ(picture(path), good) < 3


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (40, 30, 3), np.uint8)
    path = changed(
        wrap_image(rgb[..., 0], tmp_path / "a.dcm"), SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, PixelData=rgb.tobytes(),
    )  # fmt: skip
    luminance = rgb @ np.array((0.299, 0.587, 0.114))
    assert np.abs(grey_of(path) - luminance).max() < 2
    assert np.array_equal(decode(path), rgb)
    changed(path, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(grey_of(path), rgb[..., 0])


def test_only_the_first_frame_is_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    alone = picture(path)
    changed(path, NumberOfFrames=3, PixelData=GREY.tobytes() + bytes(2 * GREY.nbytes))
    found, seen = render(path, 96, NOTHING)
    assert found is not None
    assert seen.facts.frames == 3
    assert differ(alone, found) == 0


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 481}, "cut short"),
        ({"NumberOfFrames": 2}, "cut short"),
        ({"BitsAllocated": 24}, "bits allocated"),
        ({"BitsStored": 17}, "bits stored"),
        ({"SamplesPerPixel": 3}, "do not belong together"),
        ({"PhotometricInterpretation": "SECRET"}, "do not belong together"),
        ({"Rows": None}, "no size"),
        ({"PixelData": b""}, "cut short"),
        ({"Rows": 65535, "Columns": 65535}, "larger than the limit"),
    ],
)
def test_a_description_that_contradicts_itself_is_undecodable(
    tmp_path: Path, elements: dict[str, Any], reason: str
) -> None:
    path = changed(wrap_image(GREY, tmp_path / "a.dcm"), **elements)
    found, seen = render(path, 96, frozenset((0x00080060,)))
    assert found is None
    assert seen.pixels == "undecodable"
    assert reason in seen.reason
    assert "SECRET" not in repr(seen)
    assert seen.header == {0x00080060: ("DX",)}
    with pytest.raises(ValueError):
        decode(path)


@pytest.mark.parametrize("syntax", [s for s in ENCODERS if s != uids.RLE])
def test_a_codestream_of_another_size_or_cut_short_is_never_decoded(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=syntax)
    coded = pydicom.encaps.get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    for name in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
        monkeypatch.setattr(imagecodecs, name, None)
    form = Layout(ROWS, COLUMNS, 1, 1, 16, 12, "u", 0, "MONOCHROME2")
    decoder = decoders.DECODERS[syntax][1]
    with pytest.raises(UndecodableError, match="cut short"):
        decoder(coded[: len(coded) * 9 // 10], form, 0)
    for rows, columns in ((GREY.shape[1], GREY.shape[0]), (GREY.shape[0] + 1, GREY.shape[1])):
        with pytest.raises(UndecodableError, match="disagree about the size"):
            decoder(coded, Layout(rows, columns, 1, 1, 16, 12, "u", 0, "MONOCHROME2"), 0)
    with pytest.raises(UndecodableError, match="disagree about the components"):
        decoder(coded, Layout(ROWS, COLUMNS, 3, 1, 16, 12, "u", 0, "RGB"), 0)
    with pytest.raises(UndecodableError, match="disagree about the bits"):
        decoder(coded, Layout(ROWS, COLUMNS, 1, 1, 8, 8, "u", 0, "MONOCHROME2"), 0)


def coded(syntax: str, grey: NDArray[Any] = GREY) -> bytes:
    bits = 8 if grey.dtype == np.uint8 else 12
    if syntax == uids.JPEG_BASELINE:
        return bytes(imagecodecs.jpeg8_encode(grey, level=90))
    return ENCODERS[syntax](grey, bits)


def frame_of(stream: bytes, syntax: str, stored: int) -> NDArray[Any]:
    form = Layout(ROWS, COLUMNS, 1, 1, 16, stored, "u", 0, "MONOCHROME2")
    return decoders.DECODERS[syntax][1](stream, form, 0).samples


EIGHT = (GREY >> 4).astype(np.uint8)
WITH_AN_END = [
    uids.JPEG_BASELINE, uids.JPEG_LOSSLESS_SV1, uids.JPEG_LS, uids.JPEG_2000_LOSSLESS,
    uids.HTJ2K_LOSSLESS,
]  # fmt: skip


@pytest.mark.parametrize("syntax", WITH_AN_END)
def test_where_only_the_end_marker_is_missing_the_picture_is_whole(syntax: str) -> None:
    grey, stored = (EIGHT, 8) if syntax == uids.JPEG_BASELINE else (GREY, 12)
    stream = coded(syntax, grey)
    whole = frame_of(stream, syntax, stored)
    body = stream[: stream.rindex(b"\xff\xd9")]
    for end in (b"", bytes(2), bytes(64)):
        assert np.array_equal(frame_of(body + end, syntax, stored), whole)
    if syntax in (uids.JPEG_2000_LOSSLESS, uids.HTJ2K_LOSSLESS):
        assert np.array_equal(frame_of(body + b"\x80\x80\xff\xd9", syntax, stored), whole)


@pytest.mark.parametrize("syntax", WITH_AN_END)
@pytest.mark.parametrize("ended", [False, True])
def test_what_is_cut_is_not_whole_whatever_stands_at_its_end(syntax: str, ended: bool) -> None:
    grey, stored = (EIGHT, 8) if syntax == uids.JPEG_BASELINE else (GREY, 12)
    stream = coded(syntax, grey)
    for share in (30, 50, 80, 95, 99):
        for end in (b"", bytes(2), b"\x55" * 8):
            cut = stream[: len(stream) * share // 100] + end
            if ended and syntax in (uids.JPEG_LS, uids.JPEG_2000_LOSSLESS, uids.HTJ2K_LOSSLESS):
                cut += b"\xff\xd9"
            elif ended:  # libjpeg-turbo makes up what is missing, as it always has
                continue
            with pytest.raises((UndecodableError, imagecodecs.JpeglsError, imagecodecs.Jpeg2kError)):
                frame_of(cut, syntax, stored)


def test_a_jpeg_with_restart_markers_or_several_passes_needs_its_end() -> None:
    plain = bytes(imagecodecs.jpeg8_encode(EIGHT, level=90))
    restarts = plain[:2] + b"\xff\xdd\x00\x04\x00\x10" + plain[2:-2]
    progressive = plain[:-2].replace(b"\xff\xc0", b"\xff\xc2", 1)
    for stream in (restarts, progressive):
        with pytest.raises(UndecodableError, match="cut short"):
            frame_of(stream, uids.JPEG_BASELINE, 8)


@pytest.mark.parametrize("syntax", [uids.JPEG_BASELINE, *ENCODERS])
def test_eight_bits_stored_in_sixteen_allocated(tmp_path: Path, syntax: str) -> None:
    stream = coded(syntax, EIGHT.astype(np.uint16) if syntax == uids.RLE else EIGHT)
    samples = frame_of(stream, syntax, 8)
    assert np.abs(samples.astype(int) - EIGHT).max() <= (16 if syntax == uids.JPEG_BASELINE else 0)
    with pytest.raises(UndecodableError, match="about the bits" if syntax != uids.RLE else "RLE"):
        frame_of(coded(syntax, EIGHT), syntax, 12)


def test_one_table_says_which_syntaxes_are_lossy() -> None:
    assert vars(negotiation)["LOSSY"] is vars(samples)["LOSSY"] is LOSSY
    known = {uid for uid in KNOWN_SYNTAXES if uid.startswith("1.2.840.10008.1.2.4.")}
    lossless = {f"1.2.840.10008.1.2.4.{n}" for n in (57, 58, 65, 66, 70, 80, 90, 92, 110, 201, 202)}
    assert known - LOSSY == lossless
    assert {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 81, 91, 111, 112, 203)} == LOSSY & set(
        decoders.DECODERS
    )


def test_left_aligned_samples_are_moved_down(tmp_path: Path) -> None:
    right = wrap_image(GREY, tmp_path / "right.dcm")
    left = changed(
        wrap_image(GREY << 4, tmp_path / "left.dcm"), BitsStored=12, HighBit=15, WindowCenter=2048, WindowWidth=4096
    )
    changed(right, WindowCenter=2048, WindowWidth=4096)
    assert np.array_equal(decode(left), decode(right))
    for size in (96, 32):  # the second by a mean of neighbours
        assert np.array_equal(picture(left, size), picture(right, size))
    assert render(left, 96, NOTHING)[1].facts.notes == ("samples are left-aligned: the high bit says so",)


@pytest.mark.parametrize(("vr", "value"), [("SS", 240), ("UL", 240), ("IS", "240"), ("SL", 240), ("DS", "240")])
def test_the_size_may_be_another_kind_of_number(tmp_path: Path, vr: str, value: Any) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    before = picture(path)
    assert np.array_equal(picture(changed(path, Rows=(vr, value))), before)


@pytest.mark.parametrize(("vr", "value"), [("SS", -240), ("UL", 65536), ("IS", "-24"), ("US", [240, 1])])
def test_a_size_that_is_no_number_of_pixels_is_undecodable(tmp_path: Path, vr: str, value: Any) -> None:
    path = changed(wrap_image(GREY, tmp_path / "a.dcm"), Rows=(vr, value))
    assert "not one unsigned number" in render(path, 96, NOTHING)[1].reason


def test_no_frames_are_one(tmp_path: Path) -> None:
    path = changed(wrap_image(GREY, tmp_path / "a.dcm"), NumberOfFrames=0)
    assert render(path, 96, NOTHING)[1].facts.frames == 1


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "note"),
    [
        ("MONOCHROME2", "IDENTITY", False, ""),
        ("MONOCHROME1", "INVERSE", True, ""),
        ("MONOCHROME2", "INVERSE", False, "Presentation LUT Shape INVERSE contradicts MONOCHROME2"),
        ("MONOCHROME1", "IDENTITY", True, "Presentation LUT Shape IDENTITY contradicts MONOCHROME1"),
        ("MONOCHROME1", "LIN OD", True, ""),
        (None, "INVERSE", True, "no photometric interpretation: taken as MONOCHROME1"),
        (None, "IDENTITY", False, "no photometric interpretation: taken as MONOCHROME2"),
        (None, "", False, "no photometric interpretation: taken as MONOCHROME2"),
    ],
)
def test_photometric_interpretation_decides_and_a_contradiction_is_noted(
    tmp_path: Path, photometric: str | None, shape: str, inverted: bool, note: str
) -> None:
    plain = picture(changed(wrap_image(GREY, tmp_path / "a.dcm"), PresentationLUTShape="", WindowCenter=2048))
    path = changed(tmp_path / "a.dcm", PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    _, seen = render(path, 96, NOTHING)
    assert (differ(picture(path), plain) > 20) is inverted
    assert [words.partition(":")[0] for words in seen.facts.notes] == ([note.partition(":")[0]] if note else [])
    assert all(note in words for words in seen.facts.notes)


@pytest.mark.parametrize(
    "offsets", [(0,), (1, 64), (2, 64, 9999999), (2, 600, 64), (2, 0, 64), (3, 64, 100, 200), (16, *range(64, 79))]
)
def test_run_length_segments_must_fit_the_image(offsets: tuple[int, ...]) -> None:
    form = Layout(ROWS, COLUMNS, 1, 1, 16, 12, "u", 0, "MONOCHROME2")
    header = struct.pack("<16L", *offsets, *[0] * (16 - len(offsets)))
    with pytest.raises(UndecodableError, match="RLE segments"):
        decoders.rle(header + bytes(1000), form, 0)


def test_whatever_a_decoder_raises_becomes_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=uids.RLE)

    class PanicError(BaseException):
        pass

    for problem in (PanicError("PHANTOM"), RecursionError("PHANTOM"), MemoryError(), ZeroDivisionError()):

        def fail(*given: Any, problem: BaseException = problem) -> None:
            raise problem

        monkeypatch.setitem(decoders.DECODERS, uids.RLE, ("dicomrle", fail))
        found, seen = render(path, 96, NOTHING)
        assert found is None
        assert seen.pixels == "undecodable"
        assert seen.reason
        assert "PHANTOM" not in seen.reason


def test_header_values_are_bounded_trimmed_text(tmp_path: Path) -> None:
    path = changed(
        wrap_image(GREY, tmp_path / "a.dcm", age="004M"),
        SpecificCharacterSet="ISO_IR 192",
        SeriesDescription=" Handgelenk á ",
        BodyPartExamined="",
        ImageComments="x" * 9000,
        OtherPatientNames=["a^b", "c"],
        AnatomicRegionSequence=Sequence([Dataset()]),
        PixelAspectRatio=list(range(100)),
        FrameAcquisitionDuration=0.5,
    )
    tags = {
        0x00101010: ("004M",),
        0x0008103E: ("Handgelenk á",),
        0x00180015: (),
        0x00204000: ("x" * 256,),
        0x00101001: ("a^b", "c"),
        0x00082218: ("",),
        0x00280034: tuple(str(n) for n in range(64)),
        0x00189220: ("0.5",),
        0x00280010: ("240",),
        0x00020010: (EXPLICIT,),
        0x7FE00010: ("",),
    }
    _, seen = render(path, 96, frozenset(tags) | {0x00100030, 0x00104000})
    assert {tag: seen.header[tag] for tag in tags} == tags
    assert 0x00104000 not in seen.header


@pytest.mark.parametrize(
    ("creator", "syntax", "vr", "value"),
    [
        ("ACME", EXPLICIT, "LO", ("PORTABLE",)),
        ("ACME", EXPLICIT, "UN", None),
        ("ACME", IMPLICIT, "LO", None),
        # In pydicom's dictionary: (0019,xx09) of this creator is LO.
        ("SIEMENS MR HEADER", IMPLICIT, "LO", ("PORTABLE",)),
    ],
)
def test_a_private_element_of_unknown_kind_is_there_and_unreadable(
    tmp_path: Path, creator: str, syntax: str, vr: str, value: tuple[str, ...] | None
) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=syntax)
    data_set = pydicom.dcmread(path)
    block = data_set.private_block(0x0019, creator, create=True)
    block.add_new(0x09, vr, b"PORTABLE" if vr == "UN" else "PORTABLE")
    data_set.save_as(path)
    tags = frozenset((0x00190010, 0x00191009))
    assert render(path, 96, tags)[1].header == {0x00190010: (creator,), 0x00191009: value}


def spliced(path: Path, before: int, raw: bytes) -> Path:
    """Bytes put in front of the element with this tag."""
    content = path.read_bytes()
    at = content.index(struct.pack("<HH", before >> 16, before & 0xFFFF), 200)
    path.write_bytes(content[:at] + raw + content[at:])
    return path


def explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    long = b"\0\0" + struct.pack("<L", len(value)) if vr in LONG_VRS else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + long + value


@pytest.mark.parametrize("vr", [b"??", b"\0\0", b"  ", b"1A", b"--"])
@pytest.mark.parametrize("side", [20, 700])
@pytest.mark.parametrize("again", [1, 2])
def test_a_vr_that_is_none_has_two_bytes_of_length_whatever_the_size(
    tmp_path: Path, vr: bytes, side: int, again: int
) -> None:
    path = wrap_image(np.tile(GREY, (4, 4))[:side, :side], tmp_path / "a.dcm")
    content = path.read_bytes()
    for tag in ((0x0008, 0x0070), (0x0008, 0x1090))[:again]:  # Manufacturer and Manufacturer's Model Name
        place = struct.pack("<HH", *tag) + b"LO"
        assert content.count(place) == 1
        content = content.replace(place, place[:4] + vr)
    path.write_bytes(content)
    found, seen = render(path, 32, frozenset((0x00080070, 0x00081090)))
    assert found is not None, seen.reason
    assert seen.header == {0x00080070: ("dicom-router",), 0x00081090: ("phantom",)}


def test_an_element_in_implicit_vr_among_explicit_ones(tmp_path: Path) -> None:
    raw = struct.pack("<HHL", 0x0010, 0x21B0, 6) + b"ABCDEF"
    _, seen = render(spliced(wrap_image(GREY, tmp_path / "a.dcm"), 0x00280002, raw), 32, frozenset((0x001021B0,)))
    assert (seen.pixels, seen.header) == ("decoded", {0x001021B0: ("ABCDEF",)})


ENDS = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
INNER = explicit(0x00080100, b"SH", b"AB")
WHOLE = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(INNER)) + INNER


@pytest.mark.parametrize("ends", [ENDS[:1], ENDS[1:], ENDS])
def test_delimiters_beside_lengths_are_passed_over(tmp_path: Path, ends: tuple[bytes, ...]) -> None:
    raw = explicit(0x00081140, b"SQ", WHOLE + WHOLE + b"".join(ends))
    path = spliced(wrap_image(GREY, tmp_path / "a.dcm"), 0x00280002, raw)
    assert picture(path).any()
    for syntax in (EXPLICIT, IMPLICIT):
        transcode(path, tmp_path / "copy.dcm", syntax)
        copy = pydicom.dcmread(tmp_path / "copy.dcm")
        assert [item.CodeValue for item in copy[0x00081140].value] == ["AB", "AB"]


@pytest.mark.parametrize("inner", [INNER, struct.pack("<HHL", 0x0008, 0x0100, 2) + b"AB"])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_sequence_in_un_is_in_implicit_vr_or_as_some_write_it(tmp_path: Path, inner: bytes, undefined: bool) -> None:
    length = b"\xff\xff\xff\xff" if undefined else struct.pack("<L", len(inner))
    item = b"\xfe\xff\x00\xe0" + length + inner + (ENDS[0] if undefined else b"")
    raw = explicit(0x20010010, b"LO", b"ACME") + b"\x01\x20\x5f\x10UN\0\0\xff\xff\xff\xff" + item + ENDS[1]
    path = spliced(wrap_image(GREY, tmp_path / "a.dcm"), 0x20500020, raw)
    assert picture(path).any()
    for syntax in (EXPLICIT, IMPLICIT):
        transcode(path, tmp_path / "copy.dcm", syntax)
        assert pydicom.dcmread(tmp_path / "copy.dcm")[0x2001105F][0].CodeValue == "AB"


def test_elements_of_a_files_head_within_the_data_set_are_its_own(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm", transfer_syntax=IMPLICIT)
    before = picture(path)
    content = path.read_bytes()
    start = data_set_offset(path)
    inside = struct.pack("<HHL", 2, 0x0001, 2) + b"\0\1" + struct.pack("<HHL", 2, 0x0010, 18) + b"1.2.840.10008.1.2\0"
    path.write_bytes(content[:start] + inside + content[start:])
    assert data_set_offset(path) == start
    assert np.array_equal(picture(path), before)
    transcode(path, tmp_path / "copy.dcm", EXPLICIT)
    assert np.array_equal(picture(tmp_path / "copy.dcm"), before)


def test_what_lies_behind_a_break_is_unreadable_not_absent(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(struct.pack("<HH", 0x0010, 0x0020))
    path.write_bytes(content[: at + 12])
    found, seen = render(path, 96, frozenset((0x00080060, 0x00101010)))
    assert found is None
    assert seen.pixels == "unparseable"
    assert seen.header == {0x00080060: ("DX",), 0x00101010: None}


def test_what_stands_there_twice_is_unreadable(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(struct.pack("<HH2s", 0x0008, 0x0060, b"CS"))
    path.write_bytes(content[:at] + struct.pack("<HH2sH2s", 0x0008, 0x0060, b"CS", 2, b"MG") + content[at:])
    found, seen = render(path, 96, frozenset((0x00080060, 0x00280010)))
    assert found is not None
    assert seen.header == {0x00080060: None, 0x00280010: ("240",)}


@pytest.mark.parametrize("content", [b"", b"x", bytes(128) + b"DICM", b"\x89PNG" * 60, bytes(5000), b"{}" * 999])
def test_what_is_no_dicom_is_unparseable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    found, seen = render(path, 96, frozenset((0x00080060,)))
    assert found is None
    assert seen.pixels == "unparseable"
    assert seen.header == {0x00080060: None}
    assert render(tmp_path / "missing.dcm", 96, NOTHING)[1].pixels == "unparseable"


def test_a_deflated_bomb_stops_at_its_limit(tmp_path: Path) -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(80)) + deflater.flush()
    (tmp_path / "bomb").write_bytes(bomb)
    with (tmp_path / "bomb").open("rb") as stream, pytest.raises(UnparseableError, match="beyond the limit"):
        inflate(stream)


NESTED_OPENING = struct.pack("<HH2sHLHHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
NESTED_CLOSING = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)


def _of_known_length(depth: int) -> bytes:
    nested = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(nested)) + nested
        nested = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    return nested


def _with_sequence(out: Path, sequence: bytes) -> Path:
    content = wrap_image(GREY, out).read_bytes()
    at = content.index(struct.pack("<HH", 0x0010, 0x0010))
    out.write_bytes(content[:at] + sequence + content[at:])
    return out


@pytest.mark.parametrize(
    ("sequence", "state"),
    [
        (NESTED_OPENING * 200 + NESTED_CLOSING * 200, "decoded"),
        (NESTED_OPENING * 3000 + NESTED_CLOSING * 3000, "unparseable"),
        (NESTED_OPENING * 3000, "unparseable"),
        (_of_known_length(200), "decoded"),
        (_of_known_length(3000), "unparseable"),
        (struct.pack("<HH2sHLHHL", 0x0008, 0x1140, b"SQ", 0, 8, 0xFFFE, 0xE000, 4), "unparseable"),
        (struct.pack("<HH2sHLHHLHHL", 0x0008, 0x1140, b"SQ", 0, 16, 0xFFFE, 0xE000, 0, 0xFFFE, 0xE0DD, 0), "decoded"),
        (struct.pack("<HH2sHLHHL4s", 0x0008, 0x1140, b"SQ", 0, 12, 0x0008, 0x0100, 4, b"ABCD"), "unparseable"),
    ],
)
def test_sequences_are_walked_without_a_stack_and_bounded(tmp_path: Path, sequence: bytes, state: str) -> None:
    _, seen = render(_with_sequence(tmp_path / "a.dcm", sequence), 96, frozenset((0x00081140, 0x00100020)))
    assert seen.pixels == state
    if state == "decoded":
        assert seen.header[0x00081140] == ("",)


@pytest.mark.parametrize(
    ("uid", "state"),
    [
        ("1.2.3", "decoded"), ("1.02.3", "decoded"), ("", "decoded"), ("1.2.3 ", "decoded"), ("2" * 65, "unparseable"),
        ("../../etc", "unparseable"), ("*", "unparseable"), ("1.2\\3.4", "unparseable"), ("1.\x002", "unparseable"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [0x000D, 0x000E])
def test_a_study_or_series_uid_that_is_none_is_unparseable(tmp_path: Path, number: int, uid: str, state: str) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    content, header = path.read_bytes(), struct.pack("<HH2s", 0x0020, number, b"UI")
    at = content.index(header) + len(header)
    end = at + 2 + int.from_bytes(content[at : at + 2], "little")
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    path.write_bytes(content[:at] + struct.pack("<H", len(raw)) + raw + content[end:])
    seen = render(path, 96, NOTHING)[1]
    assert seen.pixels == state
    assert "etc" not in seen.reason


def test_the_picture_is_what_prepare_makes_of_the_grey_image(tmp_path: Path) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    expected, crop = prepare(grey_of(path), size=200)
    found, seen = render(path, 200, NOTHING)
    assert found is not None
    assert np.array_equal(found, expected)
    assert seen.facts.crop == crop
    assert (seen.facts.rows, seen.facts.columns, seen.facts.frames) == (240, 180, 1)


def test_pictures_in_files_are_grey_of_8_or_16_bits(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png"), GREY)
    eight = (GREY >> 4).astype(np.uint8)
    Image.fromarray(np.dstack([eight] * 3 + [np.full_like(eight, 255)])).save(tmp_path / "b.png")
    found = load_image(tmp_path / "b.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, eight)
    Image.fromarray(eight).save(tmp_path / "c.jpg", quality=95)
    assert differ(load_image(tmp_path / "c.jpg"), eight) < 3
    for name, content in (("d.png", b"PHANTOM"), ("e.png", (tmp_path / "a.png").read_bytes()[:3000])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"neither a PNG nor a JPEG|damaged"):
            load_image(tmp_path / name)
    with pytest.raises(OSError):
        load_image(tmp_path / "missing.png")


def test_a_picture_beyond_the_limit_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr("router.pixels.images.MOST_PIXELS", GREY.size - 1)
    with pytest.raises(ValueError, match="larger than the limit"):
        load_image(tmp_path / "a.png")
