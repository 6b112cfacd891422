"""What an answer means, and how long to wait: tables and properties without a network."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.settings import HOUR, MINUTE
from router.flow import Caller, Instance
from router.forward import backoff
from router.forward.outcomes import Fate, outcome_of
from router.forward.transcoding import Copies

CHANCE = st.floats(0, 1)
DONE = {0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0x0111}


@pytest.mark.parametrize("high", range(256))
def test_every_status(high: int) -> None:
    """PEERS 15, 16, 41: delivered is a status of the success table, and nothing else."""
    for status in range(high << 8, (high + 1) << 8):
        outcome = outcome_of(status)
        assert (outcome.fate is Fate.DONE) == (status in DONE)
        assert (outcome.fate is Fate.LATER) == (status >> 8 == 0xA7 or status in (0x0110, 0x0213))
        assert outcome.fate is not Fate.BURY
        assert (outcome.status, outcome.sign) == (status, "answered")
        assert outcome.fate is Fate.DONE or f"0x{status:04X}" in outcome.reason


@pytest.mark.parametrize("status", sorted(DONE - {0}))
def test_a_warning_is_kept_as_a_flag(status: int) -> None:
    assert outcome_of(status).reason
    assert not outcome_of(0).reason


@given(st.integers(0, 10**9), CHANCE)
def test_retries_have_bounds(tries: int, chance: float) -> None:
    assert 4 <= backoff.retry_after(tries, chance) <= 1.125 * HOUR


@given(st.integers(0, 60), CHANCE, CHANCE)
def test_waits_grow_until_they_are_longest(failures: int, one: float, other: float) -> None:
    for wait, longest in ((backoff.retry_after, HOUR), (backoff.circuit_after, 10 * MINUTE)):
        now, next_one = wait(failures, one), wait(failures + 1, other)
        assert next_one > now or now >= 0.875 * longest


@given(st.integers(0, 10**9), CHANCE)
def test_a_circuit_is_half_open_within_an_hour(failures: int, chance: float) -> None:
    assert 1 <= backoff.circuit_after(failures, chance) <= HOUR
    assert 4 * MINUTE <= backoff.circuit_after(failures, chance, for_good=True) <= HOUR  # PEERS 38: no hot loop


@given(CHANCE)
def test_few_tries_spread_over_hours(chance: float) -> None:
    waits = [backoff.few_retry_after(n, chance) for n in range(6)]
    assert waits[4:] == [None, None]
    spread = [wait for wait in waits if wait is not None]
    assert spread == sorted(spread)
    assert 4 * HOUR < sum(spread) < 8 * HOUR


# -- copies ----------------------------------------------------------------------------------------------------------

PART10 = b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0" + (10).to_bytes(4, "little") + b"\2\0\x10\0UI\2\0" + b"1\0"
INSTANCE = Instance("0" * 32, 0.0, Caller("A", "B", "127.0.0.1"), "1.2", "1.2.3", "1.2.4", 0, 1, "")


class Transcoder:
    """Writes what it is told to, or fails."""

    def __init__(self, problem: str = "", error: Exception | None = None) -> None:
        self.problem, self.error = problem, error
        self.calls: list[tuple[Path, Path, str]] = []
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def transcode(self, path: Path, target: Path, syntax: str, caller: Caller) -> Future[str]:
        self.calls.append((path, target, syntax))
        self.started.set()
        assert self.go.wait(10)
        future: Future[str] = Future()
        if self.error:
            future.set_exception(self.error)
        else:
            target.write_bytes(PART10 + b"native" + syntax.encode())
            future.set_result(self.problem)
        return future


@contextmanager
def enough(instance: Instance, target: Path) -> Iterator[None]:
    """Room for any copy."""
    assert not target.exists()
    yield


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_copy_is_made_once_for_each_syntax(tmp_path: Path) -> None:
    transcoder, blob = Transcoder(), tmp_path / "a.dcm"
    copies = Copies(transcoder, enough)
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"):
        for _ in range(2):
            copy = copies.get(INSTANCE, blob, syntax)
            assert (copy.sop_class, copy.sop_instance, copy.transfer_syntax) == ("1.2", "1.2.3", syntax)
            assert copy.path.read_bytes()[copy.offset : copy.offset + copy.size] == b"native" + syntax.encode()
            assert copy.offset + copy.size == copy.path.stat().st_size
            assert copy.path.stat().st_mode & 0o777 == 0o600
    assert len(transcoder.calls) == 2
    assert files(tmp_path) == ["a.1.native", "a.2.native"]


@pytest.mark.parametrize(
    ("transcoder", "words"),
    [
        (Transcoder("the pixels differ"), "the pixels differ"),
        (Transcoder(error=OSError("disk")), "OSError"),
        (Transcoder(error=ValueError("lossy")), "lossy"),
    ],
)
def test_a_copy_that_cannot_be_made_leaves_nothing(tmp_path: Path, transcoder: Transcoder, words: str) -> None:
    copies = Copies(transcoder, enough)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            copies.get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2")
    assert files(tmp_path) == []
    assert len(transcoder.calls) == 2


def test_a_copy_without_room_is_not_begun(tmp_path: Path) -> None:
    def full(instance: Instance, target: Path) -> AbstractContextManager[None]:
        raise OSError(errno.ENOSPC, "no room")

    transcoder = Transcoder()
    with pytest.raises(OSError, match="no room"):
        Copies(transcoder, full).get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2")
    assert transcoder.calls == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_a_copy_is_made_is_no_fault_of_the_instance(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match="full") as caught:
        Copies(Transcoder(error=OSError(number, "full")), enough).get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2")
    assert caught.value.errno == number
    assert files(tmp_path) == []


def test_a_transcoder_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        def transcode(self, path: Path, target: Path, syntax: str, caller: Caller) -> Future[str]:
            return Future()

    monkeypatch.setattr("router.forward.transcoding.LIMIT_SECONDS", 0.01)
    with pytest.raises(ValueError, match="TimeoutError"):
        Copies(Never(), enough).get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2")


def test_two_workers_that_need_the_same_copy(tmp_path: Path) -> None:
    transcoder = Transcoder()
    transcoder.go.clear()
    copies, got = Copies(transcoder, enough), []

    def get() -> None:
        got.append(copies.get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2"))

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert transcoder.started.wait(10)
    transcoder.go.set()
    for thread in threads:
        thread.join(10)
    assert len(transcoder.calls) == 1
    assert len(got) == 4
    assert len(set(got)) == 1


def test_no_two_makings_share_a_file(tmp_path: Path) -> None:
    """One that took too long may still be writing when the next begins."""
    transcoder = Transcoder("no")
    copies = Copies(transcoder, enough)
    for _ in range(2):
        with pytest.raises(ValueError):
            copies.get(INSTANCE, tmp_path / "a.dcm", "1.2.840.10008.1.2")
    assert transcoder.calls[0][1] != transcoder.calls[1][1]
