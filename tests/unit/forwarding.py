"""What the tests of forwarding share: a real spool, deliveries owed in it, and a stage with short waits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.config.settings import DestinationSettings, Settings, SpoolSettings
from router.flow import Caller, Decision, Instance, Seen, StoredFile
from router.forward import Forwarder
from router.spool import DeliveryRow, EventRow, Spool, open_spool
from tests.unit.peer import DX, EXPLICIT, Peer, wait_for
from tests.unit.receiving import settings

HEAD = b"\xee" * 200
NUMBERS = itertools.count(1)
SOMEBODY = Caller("XRAY", "ROUTER", "10.9.9.9")


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of hundredths of a second instead of minutes; growth and bounds are tested by themselves."""
    for name, value in {
        "FIRST": 0.02, "LONGEST": 0.05, "FEW_TRIES": (0.01,) * 4, "CIRCUIT_FIRST": 0.05, "CIRCUIT_LONGEST": 0.1,
        "CIRCUIT_FOR_GOOD": 0.3,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"router.forward.backoff.{name}", value)


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails is not tried again while the test runs."""
    quick(monkeypatch)
    for name in ("FIRST", "LONGEST", "CIRCUIT_FIRST", "CIRCUIT_LONGEST", "CIRCUIT_FOR_GOOD"):
        monkeypatch.setattr(f"router.forward.backoff.{name}", 300.0)
    monkeypatch.setattr("router.forward.backoff.FEW_TRIES", (300.0,) * 4)


def no_transcoder(*_: object) -> StoredFile:
    raise AssertionError("nothing was to be transcoded")


def copied(instance: Instance, path: Path, offset: int, size: int, syntax: str) -> StoredFile:
    """A copy of an instance in a file; in its own transfer syntax where none is named."""
    written = syntax or instance.transfer_syntax
    return StoredFile(path, offset, size, instance.sop_class, instance.sop_instance, written)


@dataclass
class Stage:
    """A spool and the forwarding stage on it."""

    folder: Path
    destinations: dict[str, DestinationSettings] = field(default_factory=dict)
    transcode: Callable[..., StoredFile] = no_transcoder

    def open(self) -> Spool:
        self.spool = open_spool(SpoolSettings(path=self.folder, reserve=0))
        return self.spool

    def settings(self) -> Settings:
        return replace(settings(), destinations=self.destinations)

    def start(self) -> Forwarder:
        self.forwarder = Forwarder(self.spool, self.settings, self.transcode)
        self.forwarder.start()
        return self.forwarder

    def stop(self) -> None:
        self.forwarder.stop(time.monotonic() + 10)

    def change(self, name: str, **changes: Any) -> None:
        """As a reload does."""
        self.destinations = self.destinations | {name: replace(self.destinations[name], **changes)}
        self.forwarder.apply_settings()

    def owe(self, *to: str, data: bytes = b"data set", count: int = 1, **changes: Any) -> list[Instance]:
        """Instances that came and were decided; the last are owed as the first."""
        for _ in range(count):
            self._receive(data, changes)
        claims = self.spool.decisions.claim(count)
        futures = [self.spool.decisions.record(c, Seen("none"), Decision("rule", to, "because"), {}) for c in claims]
        assert [future.result(10) for future in futures] == [True] * count
        return [claim.instance for claim in claims]

    def _receive(self, data: bytes, changes: dict[str, Any]) -> None:
        blob = self.spool.intake.begin(HEAD)
        blob.write(memoryview(data))
        blob.seal()
        values: dict[str, Any] = {
            "id": blob.id, "received_at": time.time(), "caller": SOMEBODY, "sop_class": DX,
            "sop_instance": f"1.2.3.{next(NUMBERS)}", "transfer_syntax": EXPLICIT, "offset": blob.offset,
            "size": blob.size, "digest": blob.digest(),
        }  # fmt: skip
        self.spool.intake.accept(blob, Instance(**(values | changes)))

    def rows(self, to: str | None = None) -> list[DeliveryRow]:
        states = ("open", "done", "buried", "skipped")
        return self.spool.views.deliveries(states=states, to=to, limit=10_000)

    def states(self, to: str | None = None) -> list[str]:
        return [row.state for row in self.rows(to)]

    def until(self, state: str, count: int = 1, to: str | None = None) -> list[DeliveryRow]:
        """Wait until so many deliveries are in a state; these."""
        wait_for(lambda: self.states(to).count(state) >= count, 20)
        return [row for row in self.rows(to) if row.state == state]

    def events(self, kind: str) -> list[EventRow]:
        return [event for event in self.spool.views.events(limit=10_000) if event.kind == kind]

    def is_open(self, name: str = "dest") -> bool:
        return self.forwarder.open_circuits()[name]


@contextmanager
def forwarding(
    folder: Path, *peers: Peer, start: bool = True, transcode: Callable[..., Any] = no_transcoder, **changes: Any
) -> Iterator[Stage]:
    """A stage whose destinations are `dest` (the first peer), `dest2` and so on."""
    names = ["dest", *(f"dest{n}" for n in range(2, len(peers) + 1))]
    destinations = {
        name: peer.destination(**({"name": name} | changes)) for name, peer in zip(names, peers, strict=True)
    }
    stage = Stage(folder / "spool", destinations, transcode)
    stage.open()
    if start:
        stage.start()
    try:
        yield stage
    finally:
        if hasattr(stage, "forwarder"):
            stage.stop()
        stage.spool.close()
