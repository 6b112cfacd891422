"""Which instances a data set refers to: real reports, captures and segmentations, and hostile ones."""

from __future__ import annotations

import importlib
import random
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from router.dicom import references
from router.dicom.references import MOST_REFERENCES
from router.dicom.uids import RESULTS, STORAGE
from router.flow import Seen
from router.inference.framing import pack, unpack
from router.pixels import render

SR = "1.2.840.10008.5.1.4.1.1.88.33"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def item(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def refers(uid: str) -> Dataset:
    made = item(ReferencedSOPClassUID=DX)
    made.add(DataElement(0x00081155, "UI", uid, validation_mode=IGNORE))
    return made


EVIDENCE: dict[str, object] = {
    "CurrentRequestedProcedureEvidenceSequence": Sequence([
        item(ReferencedSeriesSequence=Sequence([
            item(ReferencedSOPSequence=Sequence([refers("1.2.1"), refers("1.2.2")]), SeriesInstanceUID="1.7")
        ]), StudyInstanceUID="1.8"),
    ])
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, object], set[str]]] = {
    "evidence": (EVIDENCE, {"1.2.1", "1.2.2"}),
    "series": (
        {"ReferencedSeriesSequence": Sequence([item(ReferencedInstanceSequence=Sequence([refers("1.2.3")]))])},
        {"1.2.3"},
    ),
    "presentation state": (
        {"ReferencedSeriesSequence": Sequence([item(ReferencedImageSequence=Sequence([refers("1.2.4")]))])},
        {"1.2.4"},
    ),
    "source image": ({"SourceImageSequence": Sequence([refers("1.2.5")])}, {"1.2.5"}),
    "content": (
        {"ContentSequence": Sequence([
            item(ValueType="CONTAINER", ContentSequence=Sequence([
                item(ValueType="IMAGE", ReferencedSOPSequence=Sequence([refers("1.2.6")]))
            ]))
        ])},
        {"1.2.6"},
    ),
    "segments": (
        {"PerFrameFunctionalGroupsSequence": Sequence([
            item(DerivationImageSequence=Sequence([item(SourceImageSequence=Sequence([refers("1.2.7")]))]))
        ])},
        {"1.2.7"},
    ),
    "nothing": ({}, set()),
    "no UIDs": ({"SourceImageSequence": Sequence([refers("not a uid"), refers(""), refers("1..2")])}, set()),
    "too many": (
        {"SourceImageSequence": Sequence([refers(f"1.2.{n}") for n in range(MOST_REFERENCES + 200)])},
        {f"1.2.{n}" for n in range(MOST_REFERENCES)},
    ),
}  # fmt: skip


def written(
    path: Path, values: dict[str, object], sop_class: str = SR, syntax: str = ExplicitVRLittleEndian,
    *, undefined: bool = False,
) -> Path:  # fmt: skip
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID("1.9.9")
    meta.TransferSyntaxUID = UID(syntax)
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    made = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=implicit, is_little_endian=little
    )
    made.SOPClassUID, made.SOPInstanceUID, made.StudyInstanceUID, made.Modality = sop_class, "1.9.9", "1.8", "SR"
    for name, value in values.items():
        setattr(made, name, value)
    if undefined:
        for element in made.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for one in element.value:
                    one.is_undefined_length_sequence_item = True
    made.save_as(path, enforce_file_format=True)
    return path


def seen_in(path: Path) -> Seen:
    return render(path, 64, frozenset({0x00080060}))[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_each_kind_in_each_coding(tmp_path: Path, kind: str, syntax: str, undefined: bool) -> None:
    values, wanted = KINDS[kind]
    found = seen_in(written(tmp_path / "a.dcm", values, syntax=syntax, undefined=undefined))
    assert (found.pixels, set(found.references)) == ("none", wanted)
    assert len(found.references) == len(wanted)
    assert unpack(pack(found)) == found


def test_an_x_ray_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: object) -> tuple[str, ...]:
        raise AssertionError("it was looked into")

    monkeypatch.setattr(importlib.import_module("router.pixels.render"), "references", looked)
    assert seen_in(written(tmp_path / "a.dcm", EVIDENCE, DX)).references == ()


def test_what_results_are() -> None:
    assert {SR, "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.11.1",
            "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.104.1"} < RESULTS  # fmt: skip
    assert RESULTS.isdisjoint({DX, "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2"})
    assert RESULTS < STORAGE


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_one_is_read_as_far_as_it_goes(tmp_path: Path, seed: int) -> None:
    """Bytes are changed, cut and repeated: what comes out are UIDs, not too many, and no error."""
    chance = random.Random(seed)
    values = {**KINDS["evidence"][0], **KINDS["content"][0], **KINDS["segments"][0]}
    whole = bytearray(written(tmp_path / "whole.dcm", values, undefined=seed % 2 == 0).read_bytes())
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(400, len(whole))
        match chance.randrange(3):
            case 0:
                whole[at] = chance.randrange(256)
            case 1:
                whole[at : at + 4] = b"\xff\xff\xff\xff"
            case _:
                del whole[at : at + chance.randint(1, 40)]
    path = tmp_path / "damaged.dcm"
    path.write_bytes(whole)
    found = seen_in(path)
    assert all(set(uid) <= set("0123456789.") and 0 < len(uid) <= 64 for uid in found.references)


def test_the_number_of_headers_is_limited_over_all_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Sequence([item(ValueType="TEXT") for _ in range(30)])
    values: dict[str, object] = {"SourceImageSequence": many, "ContentSequence": Sequence([*many, refers("1.2.3")])}
    path = written(tmp_path / "a.dcm", values)
    assert seen_in(path).references == ("1.2.3",)
    monkeypatch.setattr(references, "MOST_HEADERS", 100)
    assert seen_in(path).references == ()


def test_nested_deeply(tmp_path: Path) -> None:
    inner = Sequence([refers("1.2.3")])
    for _ in range(100):
        inner = Sequence([item(ContentSequence=inner)])
    assert seen_in(written(tmp_path / "a.dcm", {"ContentSequence": inner})).references == ("1.2.3",)
