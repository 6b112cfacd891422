"""Sending files: their identity is the data set's own, and a broken file is nobody else's trouble."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID
from typer.testing import CliRunner

from router.cli import app
from router.commands.send_files import read_meta, send_files
from router.commands.walking import Found
from router.config.settings import DestinationSettings
from router.dicom.part10 import data_set_offset
from router.pixels.wrap import wrap_image
from router.spool import open_spool
from tests.unit.receiving import MemorySink, served
from tests.unit.spooling import settings_of

GREY = np.zeros((8, 8), np.uint8)


def test_the_identity_is_that_of_the_data_set(tmp_path: Path) -> None:
    data_set = pydicom.dcmread(wrap_image(GREY, tmp_path / "a.dcm"))
    data_set.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    data_set.save_as(tmp_path / "b.dcm")
    assert read_meta(tmp_path / "b.dcm").sop_instance == data_set.SOPInstanceUID
    content = (tmp_path / "b.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[: read_meta(tmp_path / "b.dcm").offset])
    assert read_meta(tmp_path / "b.dcm").sop_instance == "1.2.3"


def test_a_cut_or_nameless_file_does_not_keep_the_others(tmp_path: Path) -> None:
    good = [wrap_image(GREY, tmp_path / f"{n}.dcm") for n in range(2)]
    content = good[0].read_bytes()
    cut, nameless, other = (tmp_path / f"{name}.dcm" for name in ("cut", "nameless", "other"))
    cut.write_bytes(content[:160])
    nameless.write_bytes(content.replace(b"1.2.840.10008.5.1.4.1.1.1.1", b"1.2.840.\xba0008.5.1.4.1.1.1.1"))
    other.write_bytes(b"no DICOM" * 100)
    with served() as (port, handler):
        there = DestinationSettings(name="there", ae_title="THERE", host="127.0.0.1", port=port)
        sent = list(send_files(map(Found, [good[0], cut, nameless, other, good[1]]), there, "OURS"))
        assert [one.path for one in sent if one.arrived] == good
        requests = [sink.request.sop_instance for sink in handler.sinks if isinstance(sink, MemorySink)]
    assert requests == [read_meta(path).sop_instance for path in good]
    assert all(one.error and "\xba" not in one.error for one in sent if not one.arrived)


@pytest.mark.parametrize("cut_at", [132, 140, 150, 200, 250])
def test_wherever_the_meta_information_is_cut(tmp_path: Path, cut_at: int) -> None:
    path = wrap_image(GREY, tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:cut_at])
    assert data_set_offset(path) <= cut_at


def test_an_old_spool_is_sent_as_it_was_acknowledged(tmp_path: Path) -> None:
    """docs/operations.md, a damaged database: no half of an instance, no other form of it under the same UID."""
    content = wrap_image(GREY, tmp_path / "a.dcm").read_bytes()
    offset = data_set_offset(tmp_path / "a.dcm")
    spool = open_spool(settings_of(tmp_path / "old"))
    whole, half = spool.intake.begin(content[:offset]), spool.intake.begin(content[:offset])
    whole.write(memoryview(content)[offset:])
    whole.seal()
    half.write(memoryview(content)[offset : offset + 200])
    for ending in (".1.native", ".2.native", ".1.0123456789abcdef.part"):
        whole.path.with_suffix(ending).write_bytes(content[:-2])
    with served() as (port, handler):
        to = ("--to", f"ROUTER@127.0.0.1:{port}")
        done = CliRunner().invoke(app, ["send", str(tmp_path / "old" / "blobs"), *to])
        assert (done.exit_code, handler.stored) == (0, [content[offset:]]), done.output
    half.discard()
    spool.close()
