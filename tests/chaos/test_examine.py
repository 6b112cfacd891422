"""What a power cut left, held against the promises: nothing that is still owed may be missing, for any reason."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from router.config.settings import SpoolSettings
from router.spool import DeliveryState, Spool, SpoolError, open_spool
from tests.chaos import power_cut
from tests.chaos.history import Sent
from tests.chaos.power_cut import CrashPoint
from tests.chaos.recording import Recording
from tests.unit.spooling import decide, settings_of, stored

UID, PLACE = "1.2.3", "one"


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return settings_of(tmp_path / "spool")


def full(*_: object) -> int:
    raise SpoolError("the database has no room")


def left(settings: SpoolSettings, *, done: bool, early: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """A spool with one acknowledged instance, and its digest. `early`: no change of the database found room, but the
    node made some."""
    spool = open_spool(settings)
    digest = stored(spool, UID).digest
    decide(spool, PLACE)
    if done:
        deliver(spool)
    if early:
        with monkeypatch.context() as patch:
            patch.setattr(spool.retention, "remove_finished", full)
            with pytest.raises(SpoolError, match="no room"):
                spool.retention.sweep_early()
    spool.close()
    return digest


def deliver(spool: Spool) -> None:
    (one,) = spool.deliveries.claim(PLACE, 1)
    assert spool.deliveries.close(one, DeliveryState.DONE).result()


def faults(settings: SpoolSettings, digest: str, *, arrived: bool, failing: bool) -> list[str]:
    sent = {UID: Sent(UID, digest, frozenset({PLACE}), tries=1, acknowledged=True)}
    there = Counter({(UID, digest, PLACE): 1} if arrived else {})
    run = Recording(settings.path.parent, [], [(0, UID)], sent, [], failing)
    return power_cut.examine(run, CrashPoint(0, time.time(), frozenset({UID}), there), settings.path)


def remove_blob(settings: SpoolSettings) -> None:
    (blob,) = (settings.path / "blobs").glob("*/*")
    blob.unlink()


def test_on_a_failing_disk_a_blob_may_go_before_its_finished_row_says_so(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = left(settings, done=True, early=True, monkeypatch=monkeypatch)
    assert not list((settings.path / "blobs").glob("*/*"))
    assert faults(settings, digest, arrived=True, failing=True) == []
    assert faults(settings, digest, arrived=True, failing=False) == [f"delivered already, and its blob is gone: {UID}"]
    assert f"lost: the blob of {UID}" in faults(settings, digest, arrived=False, failing=True)


def test_what_is_owed_keeps_its_blob_on_a_failing_disk(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = left(settings, done=False, early=True, monkeypatch=monkeypatch)
    assert faults(settings, digest, arrived=False, failing=True) == []
    remove_blob(settings)
    assert faults(settings, digest, arrived=False, failing=True) == [f"lost: the blob of {UID}"]
    assert faults(settings, digest, arrived=True, failing=True) == [f"delivered already, and its blob is gone: {UID}"]


def test_what_is_known_no_more_is_lost_unless_it_is_everywhere(settings: SpoolSettings) -> None:
    open_spool(settings).close()
    assert faults(settings, "0" * 32, arrived=True, failing=False) == [f"delivered already, and forgotten: {UID}"]
    assert faults(settings, "0" * 32, arrived=False, failing=True) == [f"lost: {UID}"]
