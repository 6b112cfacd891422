"""A short campaign: some hundred cases of each target, the same in every run, and one of what they would find."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.association import negotiation, pdu
from router.association.dimse import encode_command
from tests.conftest import ROOT as REPOSITORY
from tests.conftest import SHARED
from tests.fuzz import campaign, targets
from tests.fuzz.campaign import run_slice
from tests.fuzz.node import acknowledged, run_node

ROOT = SHARED / "data" / "dicom"
SEED = 20
TARGETS = ("association", "requestor", "header", "picture", "pixels", "node")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "inputs"), [("association", 300), ("requestor", 1000), ("header", 300), ("picture", 300)]
)
def test_readers_raise_only_what_they_say(target: str, inputs: int, tmp_path: Path) -> None:
    done = run_slice(target, SEED, math.inf, tmp_path, ROOT, inputs)
    assert (done.findings, done.inputs) == ([], inputs)


@pytest.mark.slow
def test_a_pixel_worker_keeps_its_limits(tmp_path: Path) -> None:
    done = run_slice("pixels", SEED, math.inf, tmp_path, ROOT, 150)
    assert (done.findings, done.inputs) == ([], 150)
    assert done.outcomes["decoded"] > 10
    assert done.outcomes["copied"] > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_keeps_what_it_acknowledged_and_nothing_else(tmp_path: Path) -> None:
    done = run_node(SEED, math.inf, tmp_path, ROOT, 300)
    assert done.findings == [], [path.read_text() for path in tmp_path.glob("findings/*.txt")]
    assert done.outcomes["node: stored"] > 20


@pytest.mark.slow
def test_a_case_is_its_number_in_every_process() -> None:
    digests = {_digests(hash_seed) for hash_seed in ("1", "2")}
    assert len(digests) == 1
    assert len(set(digests.pop().split())) == 2 * len(TARGETS)


def _digests(hash_seed: str) -> str:
    """Of two cases of each target, made by another interpreter."""
    code = f"""
from pathlib import Path
from xxhash import xxh3_64_hexdigest
from tests.fuzz.cases import case
for target in {TARGETS}:
    for number in (7, 8):
        print(xxh3_64_hexdigest(case(target, {SEED}, number, Path({str(ROOT)!r}))))
"""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_an_exception_that_is_not_documented_is_a_finding_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "_read_user_information", lambda value, user, roles: [][1])
    done = run_slice("association", SEED, math.inf, tmp_path, ROOT, 40)
    assert len(done.findings) == 1
    assert done.repeated > 5
    assert "IndexError" in (tmp_path / "findings" / f"{done.findings[0]}.txt").read_text()


def test_a_case_that_takes_long_or_much_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(data: bytes) -> None:
        bytearray(campaign.GROWTH + (64 << 20))[::4096] = b"x" * ((campaign.GROWTH + (64 << 20)) // 4096)

    def endless(data: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(campaign, "SLOWEST", 0.2)
    for run in (greedy, endless):
        monkeypatch.setitem(targets.IN_PROCESS, "header", run)
        assert len(run_slice("header", SEED, math.inf, tmp_path / run.__name__, ROOT, 1).findings) == 1


def test_what_a_node_acknowledged_is_read_from_its_answers() -> None:
    answer: dict[int, int | str] = {0x0100: 0x8001, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0, 0x1000: "1.2.3"}
    refused = answer | {0x0900: 0xA700, 0x1000: "1.2.4"}
    sent = b"".join(pdu.command_pdus(3, encode_command(one), 40) for one in (answer, refused))
    assert acknowledged(sent) == {"1.2.3"}
