"""Decoders, header and rendering over the conformance corpus; hostile instances in processes with limits."""

from __future__ import annotations

import csv
import gzip
import hashlib
import multiprocessing
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from router.pixels import decode, render

pytestmark = [pytest.mark.shared, pytest.mark.slow]
ALL = bool(os.environ.get("DICOM_ROUTER_TEST_ALL"))
MEMORY = 2_000_000_000
SECONDS = 60
TAGS = frozenset((0x00080060, 0x00100010, 0x00101010, 0x0008103E, 0x00181164, 0x00280010, 0x00200013, 0x00081140))

LOSSY_12_BIT = {
    "cr_fuji_extremity_mono1_jpeg12.dcm": 2,
    "jpeg_extended_ct_12bit.dcm": 1,
    "syn_jpeg_extended_u12_3f_q95.dcm": 1,
    "syn_jpeg_extended_u12_ic.dcm": 1,
    "syn_jpeg_extended_u12_q95.dcm": 1,
}
"""Where the inverse transforms of independent decoders differ, too (the corpus' notes): most of difference."""
MEANT_TO_DECODE = {
    "k_ts_space.dcm", "g_rle_dicom_swapped.dcm",
    "h_frames_zero.dcm", "h_frames_j2k_zero.dcm",
    "i_missing_photo.dcm", "i_j2k_missing_photo.dcm", "i_photo_empty.dcm",
}  # fmt: skip
"""Padding of a UID with a space is common, RLE says nothing of its width, 0 frames are written for one, and grey
without a photometric interpretation is shown with a note: these are decoded."""


def rows_of(shared: Path, *groups: str) -> list[dict[str, str]]:
    with (shared / "data" / "dicom" / "manifest.csv").open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["group"] in groups]


def test_every_instance_decodes_to_the_pixels_of_the_reference(shared: Path) -> None:
    wrong, exact = [], 0
    for row in rows_of(shared, "1-radiographs", "2-syntaxes"):
        if row["expect"] != "decodes":
            continue
        array = decode(shared / "data" / "dicom" / row["file"])
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        if hashlib.sha256(little.data).hexdigest() == row["pixel_sha256"]:
            exact += 1
            continue
        most = LOSSY_12_BIT.get(Path(row["file"]).name)
        near = most is not None and all(
            abs(float(found) - float(row[name])) <= most
            for name, found in (("pixel_min", array.min()), ("pixel_max", array.max()))
        )
        if not near or abs(float(array.mean()) - float(row["pixel_mean"])) > 0.05:
            wrong.append(row["file"])
    assert wrong == []
    assert exact >= 200


def test_every_radiograph_and_syntax_gives_a_picture_or_a_reason(shared: Path) -> None:
    states = {"decodes": {"decoded"}, "no-pixels": {"none", "unparseable"}, "bury": {"undecodable"}}
    for row in rows_of(shared, "1-radiographs", "2-syntaxes"):
        picture, seen = render(shared / "data" / "dicom" / row["file"], 96, TAGS)
        assert seen.pixels in states.get(row["expect"], {"decoded"}), row["file"]
        assert (picture is None) == (seen.pixels != "decoded")
        if picture is not None:
            assert picture.shape == (96, 96)
            assert picture.dtype == np.uint8
            assert (str(seen.facts.rows), str(seen.facts.columns)) == (row["rows"], row["cols"])
            assert seen.facts.decoder
            assert seen.reason == ""
        else:
            assert seen.reason


@pytest.mark.filterwarnings("ignore:::pydicom")
def test_header_values_are_those_that_pydicom_reads(shared: Path) -> None:
    compared = 0
    for row in rows_of(shared, "1-radiographs", "2-syntaxes"):
        path = shared / "data" / "dicom" / row["file"]
        try:
            with pydicom.config.disable_value_validation():
                expected = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception:
            continue
        tags = frozenset(
            int(e.tag)
            for e in expected
            if e.VR in ("CS", "LO", "SH", "UI", "US", "DA", "AS", "PN") and e.tag.group % 2 == 0
        )
        _, seen = render(path, 32, tags)
        for tag in tags:
            try:
                value = expected[tag].value
            except Exception:
                continue
            several = list(value) if isinstance(value, list | pydicom.multival.MultiValue) else [value]
            texts = tuple(str(v).strip(" \0\r\n\t")[:256] for v in several)
            found = seen.header[tag]
            if expected[tag].VR == "PN":  # pydicom drops empty component groups at the end
                found = tuple(text.rstrip("=^") for text in found or ("",))
                texts = tuple(text.rstrip("=^") for text in texts)
            nothing = ("",), ("None",), ()
            assert (() if found in nothing else found) == (() if texts in nothing else texts), (
                f"{row['file']} {tag:08x}"
            )
            compared += 1
    assert compared > 3000


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _look(path: Path) -> tuple[str, bool, int]:
    """State, whether there is a picture, and how many tags of the header are known; unpacked first where packed."""
    if path.suffix == ".gz":
        with tempfile.NamedTemporaryFile(suffix=".dcm") as plain, gzip.open(path) as packed:
            shutil.copyfileobj(packed, plain)
            plain.flush()
            picture, seen = render(Path(plain.name), 96, TAGS)
    else:
        picture, seen = render(path, 96, TAGS)
    assert all(len(v) <= 64 and all(len(t) <= 256 for t in v) for v in seen.header.values() if v is not None)
    return seen.pixels, picture is not None, len(seen.header)


@pytest.fixture(scope="module")
def confined() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_limit) as pool:
        yield pool


def test_no_hostile_instance_raises_hangs_or_takes_the_memory(shared: Path, confined: ProcessPoolExecutor) -> None:
    rows = rows_of(shared, "3-hostile")[:: 1 if ALL else 5]
    waiting: list[tuple[dict[str, str], Future[tuple[str, bool, int]]]] = [
        (row, confined.submit(_look, shared / "data" / "dicom" / row["file"])) for row in rows
    ]
    believed = []
    for row, future in waiting:
        state, picture, _ = future.result(timeout=SECONDS)
        assert picture == (state == "decoded"), row["file"]
        if row["expect"] == "decodes":
            assert state == "decoded", row["file"]
        if row["expect"] == "bury" and state == "decoded":
            believed.append(Path(row["file"]).name)
    assert set(believed) <= MEANT_TO_DECODE
