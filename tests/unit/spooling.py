"""What the tests of the spool share: callers, small instances, decisions, a clock to turn, what a model knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from router.config.settings import SpoolSettings
from router.dicom.part10 import file_meta
from router.dicom.uids import EXPLICIT
from router.flow import Caller, Decision, Instance, Seen
from router.spool import Accepted, Blob, Claim, DeliveryState, InstanceState, Spool, clock
from router.spool.notes import note_for

HEADER = b"a header of ours;"
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"
SEEN = Seen("none", reason="no pixel data")
CALLERS = (Caller("XRAY_1", "ROUTER", "10.0.0.1"), Caller("XRAY_2", "ROUTER", "10.0.0.2"))


def settings_of(path: Path, database: str = "sqlite", **changes: float) -> SpoolSettings:
    return SpoolSettings(path=path, database=database, **({"reserve": 0} | changes))  # type: ignore[arg-type]


def sealed(spool: Spool, data: bytes) -> Blob:
    """A blob in two fragments, synced and named."""
    blob = spool.intake.begin(HEADER)
    half = len(data) // 2
    blob.write(memoryview(data[:half]))
    blob.write(memoryview(data[half:]))
    blob.seal()
    return blob


def instance_for(blob: Blob, uid: str = "1.2.3", caller: Caller = CALLERS[0], at: float = 1.0) -> Instance:
    return Instance(
        id=blob.id, received_at=at, caller=caller, sop_class="1.2.840.10008.5.1.4.1.1.1.1", sop_instance=uid,
        transfer_syntax="1.2.840.10008.1.2.1", offset=blob.offset, size=blob.size, digest=blob.digest(),
    )  # fmt: skip


def received(spool: Spool, uid: str = "1.2.3", caller: Caller = CALLERS[0], before: bytes = b"") -> Instance:
    """A whole blob as receiving writes it, without a row. `before` stands before its elements."""
    return _received(spool, uid, caller, before)[1]


def stored(spool: Spool, uid: str = "1.2.3", caller: Caller = CALLERS[0]) -> Instance:
    """The same with a row: acknowledged."""
    blob, instance = _received(spool, uid, caller)
    assert not spool.intake.accept(blob, instance).merged
    return instance


def _received(spool: Spool, uid: str, caller: Caller, before: bytes = b"") -> tuple[Blob, Instance]:
    pixels = b"\1\0" * 8
    pixel_data = b"\xe0\x7f\x10\0OW\0\0" + len(pixels).to_bytes(4, "little") + pixels
    data_set = before + _uid(0x16, SOP_CLASS) + _uid(0x18, uid) + b"\x28\0\x10\0US\2\0\1\0" + pixel_data
    blob = spool.intake.begin(file_meta(SOP_CLASS, uid, EXPLICIT, caller))
    blob.write(memoryview(data_set))
    instance = replace(instance_for(blob, uid, caller), sop_class=SOP_CLASS)
    blob.seal(note_for(blob.header, instance))
    return blob, instance


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x08\0" + bytes([element]) + b"\0UI" + len(value).to_bytes(2, "little") + value


def accept(spool: Spool, data: bytes = b"pixels", uid: str = "1.2.3", caller: Caller = CALLERS[0]) -> Accepted:
    blob = sealed(spool, data)
    return spool.intake.accept(blob, instance_for(blob, uid, caller))


def decision(*destinations: str) -> Decision:
    return Decision("a rule", destinations, "a rule: class is spine", discard=not destinations)


def decide(spool: Spool, *destinations: str, **limits: int | None) -> Claim:
    """Claim the one instance that waits and record its decision."""
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, SEEN, decision(*destinations), limits).result()
    return claim


def files(root: Path) -> set[str]:
    """The names of all blobs. `rglob` takes twice as long for the 256 folders."""
    return {name for _, _, names in os.walk(root / "blobs") for name in names}


@dataclass
class Clock:
    """Stands until it is turned."""

    at: float = 200_000_000.0
    passed: float = 0.0

    def turn(self, seconds: float) -> None:
        """Time passes."""
        self.at += seconds
        self.passed += seconds

    def put(self, seconds: float) -> None:
        """Somebody sets the clock, forward or back, and no time passes."""
        self.at += seconds


@contextmanager
def turned_by_hand() -> Iterator[Clock]:
    """The spool goes by the clock that is given out."""
    hands = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda _: hands.at)
        patch.setattr(clock, "monotonic", lambda: hands.passed)
        yield hands


@dataclass
class Row:
    """What the model knows of an instance."""

    uid: str
    data: bytes
    caller: Caller
    state: str = InstanceState.NEW
    ready_at: float = 0.0
    token: int = 0
    tries: int = 0
    finished_at: float = 0.0


@dataclass
class Owed:
    """What the model knows of a delivery."""

    instance_id: str
    destination: str
    owed_since: float
    state: str = DeliveryState.OPEN
    ready_at: float = 0.0
    token: int = 0
    tries: int = 0
    buriable: int = 0


@dataclass
class Door:
    """A destination: paused, circuit open, and the seconds during which it was either."""

    paused: bool = False
    circuit: float = 0.0
    still: list[tuple[float, float]] = field(default_factory=list)
    since: float | None = None

    def changed(self, now: float) -> None:
        still = self.paused or self.circuit > 0
        if still and self.since is None:
            self.since = now
        elif not still and self.since is not None:
            self.still.append((self.since, now))
            self.since = None

    def still_after(self, start: float, now: float) -> float:
        spans = [*self.still, *([(self.since, now)] if self.since is not None else [])]
        return sum(max(0.0, end - max(begin, start)) for begin, end in spans)
