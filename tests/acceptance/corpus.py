"""The corpus of instances beside the checkout, the node that they are sent to, and what its spool says of them."""

from __future__ import annotations

import csv
import sqlite3
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid
from xxhash import xxh3_128_hexdigest

from router.association import transfer
from router.association.requestor import AssociationLostError, ConnectError, Requestor, connect
from router.commands.send_files import read_meta
from router.config.settings import DestinationSettings
from router.dicom.part10 import data_set_offset
from router.dicom.uids import BIG_ENDIAN, EXPLICIT, IMPLICIT
from router.flow import StoredFile
from router.model.untrained import save_random_model
from router.pixels.even import even_out
from tests.peers import NodeUnderTest, without_model

EXPECTED = {"decodes": "decoded", "no-pixels": "none", "bury": "undecodable"}
"""The manifest's `expect` of sound instances as the spool's `pixels`."""
DX = str(DigitalXRayImageStorageForPresentation)
IDENTITY = ["SOPClassUID", "SOPInstanceUID", "TransferSyntaxUID"]
Arrivals = Counter[tuple[str, str]]
"""(SOP Instance UID, digest of the data set), as often as it is there."""


@dataclass(frozen=True)
class Case:
    """One line of the manifest."""

    path: Path
    syntax: str
    expect: str
    photometric: str = ""
    pixel_sha256: str = ""


@dataclass(frozen=True)
class Row:
    """What the spool says of one instance and its deliveries."""

    id: str
    sop_instance: str
    syntax: str
    digest: str
    state: str
    pixels: str | None
    why: str | None
    calling_ae: str
    facts: str | None


def cases(shared: Path, *groups: str) -> list[Case]:
    with (shared / "data" / "dicom" / "manifest.csv").open(newline="") as lines:
        return [
            Case(
                shared / "data" / "dicom" / row["file"],
                row["transfer_syntax"],
                row["expect"],
                row["photometric"],
                row["pixel_sha256"],
            )
            for row in csv.DictReader(lines)
            if row["group"] in groups
        ]


def digest(path: Path) -> str:
    """Of the data set of a Part 10 file, as the spool computes it."""
    return xxh3_128_hexdigest(path.read_bytes()[described(path).offset :])


def arriving(path: Path, folder: Path) -> tuple[str, str]:
    """UID and digest as they arrive: what is of odd length and so cannot be sent is padded on its way."""
    meta = described(path)
    data = path.read_bytes()[meta.offset :]
    if len(data) % 2 == 0:
        return meta.sop_instance, digest(path)
    try:
        even_out(path, folder / "even.dcm")
    except ValueError:
        return meta.sop_instance, xxh3_128_hexdigest(data + b"\0")
    return meta.sop_instance, digest(folder / "even.dcm")


def quick_node(folder: Path, destinations: dict[str, int], *, rules: str, extra: str = "") -> NodeUnderTest:
    """A node with a stand-in for the model: it is sure of nothing, and starts at once. The rest is as users run it."""
    node = NodeUnderTest(folder, destinations, rules=rules, extra="model: {device: cpu, workers: 2}\n" + extra)
    node.environment = without_model()
    return node


def untrained_node(folder: Path, destinations: dict[str, int], *, rules: str) -> NodeUnderTest:
    """A node with an untrained model: what it predicts means nothing; time and memory are those of a real one."""
    save_random_model(folder / "model")
    model = f"model: {{path: {folder / 'model'}, device: cpu, engine: torch, threads: 1, workers: 2}}\n"
    return NodeUnderTest(folder, destinations, rules=rules, extra=model)


def node_as_destination(node: NodeUnderTest) -> DestinationSettings:
    return DestinationSettings(name="node", ae_title="ROUTER", host="127.0.0.1", port=node.port)


@contextmanager
def database(node: NodeUnderTest) -> Iterator[sqlite3.Connection]:
    """The node's database, read only, while it runs."""
    with closing(sqlite3.connect(f"file:{node.folder / 'spool' / 'node.db'}?mode=ro", uri=True)) as connection:
        yield connection


def rows(node: NodeUnderTest) -> list[Row]:
    columns = "id, sop_instance, transfer_syntax, digest, state, pixels, why_no_prediction, calling_ae, facts"
    with database(node) as connection:
        return [Row(*values) for values in connection.execute(f"SELECT {columns} FROM instance ORDER BY id")]


def settled(node: NodeUnderTest, count: int) -> bool:
    """Whether at least `count` instances are there and none of them is still on its way."""
    open_states = (
        "SELECT count(*) FROM instance WHERE state = 'new'",
        "SELECT count(*) FROM delivery WHERE state = 'open'",
    )
    with database(node) as connection:
        there = connection.execute("SELECT count(*) FROM instance").fetchone()[0]
        return there >= count and not any(connection.execute(query).fetchone()[0] for query in open_states)


def described(path: Path) -> StoredFile:
    """What a C-STORE needs, of any file at all: from its meta information, its data set, or made up."""
    begin = 132 if path.read_bytes()[128:132] == b"DICM" else 0
    try:
        meta = read_meta(path)
    except ValueError:
        offset, made_up = data_set_offset(path, begin), generate_uid(entropy_srcs=[path.name])
        meta = StoredFile(path, offset, path.stat().st_size - offset, DX, made_up, EXPLICIT)
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=IDENTITY)
            implicit, little = read.original_encoding
            syntax = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
            meta = replace(
                meta,
                sop_class=_on_the_wire(read.get("SOPClassUID"), DX, 64),
                sop_instance=_on_the_wire(read.get("SOPInstanceUID"), meta.sop_instance, 60_000),
                transfer_syntax=_on_the_wire(read.file_meta.get("TransferSyntaxUID"), syntax, 64),
            )
    return meta


def _on_the_wire(value: object, otherwise: str, most: int) -> str:
    """What was read where it can be sent at all, however wrong it is."""
    text = str(value or "")
    return text if text.isascii() and 0 < len(text) <= most else otherwise


def store(metas: Sequence[StoredFile], destination: DestinationSettings, calling_ae: str) -> dict[Path, int | str]:
    """C-STORE each file as it is, bytes raw; its status, or why there was none."""
    answers: dict[Path, int | str] = {}
    for start in range(0, len(metas), 60):
        group = metas[start : start + 60]
        association: Requestor | None = None
        for meta in group:
            try:
                association = association or connect(
                    destination, calling_ae, [(one.sop_class, one.transfer_syntax) for one in group]
                )
                answers[meta.path] = _store(meta, association)
            except (ConnectError, AssociationLostError) as error:
                answers[meta.path] = str(error)
                if association:
                    association.abort()
                association = None
        if association:
            association.release()
    return answers


def _store(meta: StoredFile, association: Requestor) -> int | str:
    if not association.accepts(meta.sop_class, meta.transfer_syntax):
        return "no presentation context"
    with _unpadded():
        return association.store(meta)


_patching, _unpadding = threading.Lock(), 0


@contextmanager
def _unpadded() -> Iterator[None]:
    """Data sets of odd length are sent as they are, as some real senders do. Several threads may be inside."""
    global _unpadding
    with _patching:
        _unpadding += 1
        transfer.PAD = b""
    try:
        yield
    finally:
        with _patching:
            _unpadding -= 1
            if not _unpadding:
                transfer.PAD = b"\0"
