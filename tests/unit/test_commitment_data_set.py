"""The data sets of storage commitment against pydicom, both ways, and against bytes that are none."""

from __future__ import annotations

import random
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import decode as pydicom_decode

from router.commitment.data_set import MOST_REFERENCES, Commitment, DataSetError, decode, encode, report_of
from tests.unit.committing import dataset, failures, references

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
UIDS = st.lists(st.integers(0, 10**9), min_size=1, max_size=12).map(
    lambda parts: ".".join(map(str, parts))[:64].rstrip(".")
)
REFERENCES = st.dictionaries(st.tuples(UIDS, UIDS), st.integers(1, 0xFFFF), max_size=8)


def written(information: Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, syntax == IMPLICIT
    write_dataset(file, information)
    return file.getvalue()


@SYNTAXES
@given(UIDS, REFERENCES, REFERENCES)
def test_what_we_write_pydicom_reads_and_so_do_we(
    syntax: str, transaction: str, good: dict[tuple[str, str], int], failed: dict[tuple[str, str], int]
) -> None:
    commitment = Commitment(transaction, tuple(good), failed)
    data = encode(commitment, syntax)
    read = pydicom_decode(BytesIO(data), syntax == IMPLICIT, True)
    assert read.TransactionUID == transaction
    assert references(read) == list(good)
    assert failures(read) == {uid: reason for (_, uid), reason in failed.items()}
    assert decode(data, syntax) == commitment


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
def test_what_pydicom_writes_we_read_whatever_else_is_in_it(syntax: str, undefined: bool) -> None:
    information = dataset("1.2", [("1.3", "1.4"), ("1.3", "1.5")], {("1.6", "1.7"): 0x0112})
    information.RetrieveAETitle = "PACS"
    information.SpecificCharacterSet = "ISO_IR 100"
    nested = Dataset()
    nested.ReferencedSOPSequence = [dataset("1.9", [("9.9", "9.9")])]
    information.ReferencedStudySequence = [nested]
    information.ReferencedSOPSequence[0].ReferencedStudySequence = [nested]
    information.ReferencedSOPSequence[1].StorageMediaFileSetID = "X"
    if undefined:
        for element in information.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    read = decode(written(information, syntax), syntax)
    assert read == Commitment("1.2", (("1.3", "1.4"), ("1.3", "1.5")), {("1.6", "1.7"): 0x0112})


@SYNTAXES
def test_bytes_that_are_no_request_are_an_error_and_nothing_else(syntax: str) -> None:
    chance = random.Random(7)
    whole = written(dataset("1.2.3", [("1.3", f"1.4.{n}") for n in range(5)]), syntax)
    for _ in range(3000):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        data = bytes(broken[: chance.randrange(len(broken))] if chance.random() < 0.5 else broken)
        try:
            read = decode(data, syntax)
        except DataSetError:
            continue
        assert len(read.referenced) <= 5


@SYNTAXES
def test_sequences_that_nest_without_end_are_an_error(syntax: str) -> None:
    deep = b"\x08\x00\x99\x11" + (b"SQ\0\0" if syntax == EXPLICIT else b"") + b"\xff" * 4
    item = b"\xfe\xff\x00\xe0" + b"\xff" * 4
    with pytest.raises(DataSetError, match="too deep"):
        decode((deep + item) * 10_000, syntax)


def test_references_are_counted_and_repeated_ones_are_one() -> None:
    asked = tuple(("1.3", f"1.4.{n}") for n in range(MOST_REFERENCES))
    assert len(decode(encode(Commitment("1.2", asked), IMPLICIT), IMPLICIT).referenced) == MOST_REFERENCES
    with pytest.raises(DataSetError, match="too many"):
        decode(encode(Commitment("1.2", (*asked, ("1.3", "1.5"))), IMPLICIT), IMPLICIT)
    assert decode(encode(Commitment("1.2", asked[:1] * 3), IMPLICIT), IMPLICIT).referenced == asked[:1]


@pytest.mark.parametrize("transaction", ["", "1.2.x", "1..2", "1" * 65])
def test_a_transaction_needs_a_uid(transaction: str) -> None:
    with pytest.raises(DataSetError):
        decode(encode(Commitment(transaction, (("1.3", "1.4"),)), EXPLICIT), EXPLICIT)


def test_a_report_parts_the_good_from_the_failed() -> None:
    outcomes = [(("1.3", "1.4"), 0), (("1.3", "1.5"), 0x0112), (("1.3", "1.6"), 0)]
    assert report_of("1.2", outcomes) == Commitment("1.2", (("1.3", "1.4"), ("1.3", "1.6")), {("1.3", "1.5"): 0x0112})
