"""A data set of odd length is padded value by value, and nothing else of it changes."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest

from router.dicom.part10 import file_meta
from router.dicom.uids import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, OWN_SYNTAX
from router.flow import Caller
from router.inference import pixel_worker
from router.pixels import even
from router.pixels.even import even_out

DX, UID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.826.0.1.3680043.8.498.81"
JPEG = "1.2.840.10008.1.2.4.50"
CALLER = Caller("MODALITY", "ROUTER", "127.0.0.1")
OPEN = 0xFFFFFFFF


class Writer:
    """Elements as they are given, odd or not."""

    def __init__(self, syntax: str) -> None:
        self.order, self.explicit = (">" if syntax == BIG_ENDIAN else "<"), syntax != IMPLICIT

    def element(self, tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
        length = len(value) if length is None else length
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return head + struct.pack(self.order + "L", length) + value
        if vr in ("OB", "OW", "SQ", "UN", "UT"):
            return head + vr.encode() + b"\0\0" + struct.pack(self.order + "L", length) + value
        return head + vr.encode() + struct.pack(self.order + "H", length) + value

    def item(self, content: bytes, tag: int = 0xFFFEE000, *, is_open: bool = False) -> bytes:
        head = struct.pack(self.order + "HHL", tag >> 16, tag & 0xFFFF, OPEN if is_open else len(content))
        return head + content + (self.item(b"", 0xFFFEE00D) if is_open else b"")

    def sequence(self, tag: int, vr: str, *items: bytes, is_open: bool = False) -> bytes:
        content = b"".join(items)
        if is_open:
            return self.element(tag, vr, content + self.item(b"", 0xFFFEE0DD), OPEN)
        return self.element(tag, vr, content)


def beginning(w: Writer) -> bytes:
    return w.element(0x00080016, "UI", DX.encode() + b"\0") + w.element(0x00080018, "UI", UID.encode())


def part10(folder: Path, syntax: str, data_set: bytes) -> Path:
    path = folder / "odd.dcm"
    path.write_bytes(file_meta(DX, UID, syntax, CALLER) + data_set)
    return path


def padded(folder: Path, syntax: str, data_set: bytes) -> bytes:
    """The data set of the copy."""
    head = len(file_meta(DX, UID, syntax, CALLER))
    even_out(part10(folder, syntax, data_set), folder / "even")
    return (folder / "even").read_bytes()[head:]


ALL = [EXPLICIT, IMPLICIT, BIG_ENDIAN]


@pytest.mark.parametrize("syntax", ALL)
@pytest.mark.parametrize(
    ("tag", "vr", "pad"),
    [(0x00080060, "CS", b" "), (0x0020000D, "UI", b"\0"), (0x00189004, "CS", b" "), (0x00420011, "OB", b"\0"),
     (0x00091001, "UN", b"\0"), (0x00104000, "LT", b" "), (0x00280010, "US", b"\0")],
)  # fmt: skip
def test_an_odd_value_gets_the_pad_of_its_kind(tmp_path: Path, syntax: str, tag: int, vr: str, pad: bytes) -> None:
    w = Writer(syntax)
    after = w.element(0x7FE00010, "OW", bytes(range(64)))
    came = beginning(w) + w.element(tag, vr, b"odd") + after
    assert padded(tmp_path, syntax, came) == beginning(w) + w.element(tag, vr, b"odd" + pad) + after


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("syntax", "tag", "vr"),
    [*((syntax, 0x00081140, "SQ") for syntax in ALL), (EXPLICIT, 0x00091002, "UN"), (IMPLICIT, 0x00091002, "UN")],
)
def test_what_holds_an_odd_value_grows_with_it(tmp_path: Path, syntax: str, is_open: bool, tag: int, vr: str) -> None:
    w = Writer(syntax)
    inner = Writer(IMPLICIT) if vr == "UN" else w

    def data_set(value: bytes) -> bytes:
        deep = inner.sequence(
            0x00081199, "SQ", inner.item(inner.element(0x00080060, "CS", value), is_open=is_open), is_open=is_open
        )
        items = [inner.item(inner.element(0x00080060, "CS", b"CR")), inner.item(deep, is_open=is_open)]
        sequence = w.sequence(tag, vr, *items, is_open=is_open)
        return beginning(w) + sequence + w.element(0x00280010, "US", b"\0\1")

    assert padded(tmp_path, syntax, data_set(b"odd")) == data_set(b"odd ")


def test_the_last_odd_fragment_is_padded_and_others_where_no_table_names_them(tmp_path: Path) -> None:
    w = Writer(EXPLICIT)

    def data_set(table: bytes, *fragments: bytes) -> bytes:
        items = [w.item(table), *map(w.item, fragments)]
        return beginning(w) + w.sequence(0x7FE00010, "OB", *items, is_open=True)

    table = struct.pack("<LL", 0, 12)
    assert padded(tmp_path, JPEG, data_set(table, b"even", b"odd")) == data_set(table, b"even", b"odd\0")
    assert padded(tmp_path, JPEG, data_set(b"", b"odd", b"even")) == data_set(b"", b"odd\0", b"even")
    with pytest.raises(ValueError, match="table"):
        even_out(part10(tmp_path, JPEG, data_set(table, b"odd", b"even")), tmp_path / "even")
    assert not (tmp_path / "even").exists()


@pytest.mark.parametrize(
    ("syntax", "data_set"),
    [
        (EXPLICIT, beginning(Writer(EXPLICIT)) + Writer(EXPLICIT).element(0x00080060, "CS", b"odd", 30)),
        (EXPLICIT, beginning(Writer(EXPLICIT)) + Writer(EXPLICIT).element(0x00081140, "SQ", b"no items!")),
        (EXPLICIT, beginning(Writer(EXPLICIT)) + Writer(EXPLICIT).element(0x00104000, "LT", b"x" * 65535)),
        (EXPLICIT, b"\0"),
        (DEFLATED, bytes.fromhex("030000")),
    ],
)
def test_what_cannot_be_padded_leaves_nothing(tmp_path: Path, syntax: str, data_set: bytes) -> None:
    with pytest.raises(ValueError):
        even_out(part10(tmp_path, syntax, data_set), tmp_path / "even")
    assert not (tmp_path / "even").exists()


def test_a_copy_that_differs_is_refused_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = Writer(EXPLICIT)
    monkeypatch.setattr(even.Part, "pad", property(lambda part: b"\0" * (part.length % 2 and part.leaf)))
    write = even._write

    def wrong(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        arguments[2].seek(-1, 2)  # type: ignore[attr-defined]
        arguments[2].write(b"!")  # type: ignore[attr-defined]

    monkeypatch.setattr(even, "_write", wrong)
    came = beginning(w) + w.element(0x00080060, "CS", b"odd") + w.element(0x7FE00010, "OW", bytes(64))
    with pytest.raises(ValueError, match="compare"):
        even_out(part10(tmp_path, EXPLICIT, came), tmp_path / "even")
    assert not (tmp_path / "even").exists()


def test_pydicom_reads_the_same_values(tmp_path: Path) -> None:
    w = Writer(EXPLICIT)
    came = beginning(w) + w.element(0x00080060, "CS", b"CR ") + w.element(0x7FE00010, "OW", bytes(range(64)))
    even_out(part10(tmp_path, EXPLICIT, came), tmp_path / "even")
    one, other = pydicom.dcmread(tmp_path / "odd.dcm"), pydicom.dcmread(tmp_path / "even")
    assert one == other
    assert (tmp_path / "even").stat().st_size % 2 == 0


def test_a_pixel_worker_pads_where_it_is_asked_for_no_other_syntax(tmp_path: Path) -> None:
    w = Writer(EXPLICIT)
    path, target = part10(tmp_path, EXPLICIT, beginning(w) + w.element(0x00080060, "CS", b"odd")), tmp_path / "even"
    request = {"op": "transcode", "path": str(path), "target": str(target), "syntax": OWN_SYNTAX}
    assert pixel_worker._answer(request, 8) == ({"done": True}, b"")
    assert target.stat().st_size == path.stat().st_size + 1
    path.write_bytes(path.read_bytes()[:-2])
    assert pixel_worker._answer(request, 8) == ({"error": "an element is longer than the data set"}, b"")
