"""`classify` and `send` over many files: killed and run again, side by side, with whatever lies in an archive."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from router.association.messages import StoreRequest
from router.association.requestor import Requestor, connect
from router.cli import app
from router.cli.progress import Progress, duration
from router.commands import classify_files, send_files
from router.commands.classify_files import IN_FLIGHT, as_instance, in_order, look
from router.commands.send_files import GROUP, NobodyThereError, read_meta
from router.commands.walking import Found
from router.config.settings import DestinationSettings
from router.flow import Caller, Seen
from router.inference import InferenceError
from router.model.untrained import save_random_model
from router.pixels.wrap import wrap_image
from tests.peers import free_port
from tests.unit.peer import wait_for
from tests.unit.receiving import NODE, MemoryHandler, MemorySink, served

PROGRAM = (sys.executable, "-m", "router")
GREY = np.zeros((8, 8), np.uint8)
CALLER = Caller("", "", "")
DICOM = b"\0" * 128 + b"DICM"
LATIN_1 = os.fsdecode(b"r\xf6ntgen.dcm")


class Oracle:
    """Stands for inference. `ask` decides what becomes of a question: it may answer any that are open."""

    def __init__(self, ask: Callable[[Oracle, str], None]) -> None:
        self.is_ready = True
        self.asked: list[str] = []
        self.open: dict[str, Future[Seen]] = {}
        self._ask = ask

    def look(self, path: Path, tags: frozenset[int]) -> Future[Seen]:
        future: Future[Seen] = Future()
        self.asked.append(path.name)
        self.open[path.name] = future
        self._ask(self, path.name)
        return future

    def answer(self, name: str) -> None:
        self.open.pop(name).set_result(Seen("none", {}))

    def die(self) -> None:
        for name in [*self.open]:
            self.open.pop(name).set_exception(InferenceError("inference died"))


def archive(folder: Path, count: int) -> list[Found]:
    paths = [folder / f"{number:04}" for number in range(count)]
    for path in paths:
        path.write_bytes(DICOM)
    return [Found(path) for path in paths]


def first_is_slow(oracle: Oracle, name: str) -> None:
    if name != "0000":
        oracle.answer(name)


def test_what_is_slow_holds_up_nothing_else(tmp_path: Path) -> None:
    oracle, found = Oracle(first_is_slow), archive(tmp_path, 2 * IN_FLIGHT)
    looks = look(found, oracle, None, CALLER)  # type: ignore[arg-type]
    came = [looked.path.name for looked in islice(looks, 2 * IN_FLIGHT - 1)]
    assert "0000" not in came
    oracle.answer("0000")
    assert [looked.path.name for looked in looks] == ["0000"]


def test_order_costs_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the oldest answer takes, only so many others wait for it."""
    monkeypatch.setattr(classify_files, "AHEAD", IN_FLIGHT + 5)
    oracle, found = Oracle(first_is_slow), archive(tmp_path, 3 * IN_FLIGHT)
    looks = look(found, oracle, None, CALLER)  # type: ignore[arg-type]
    early = [*islice(looks, IN_FLIGHT + 5)]
    assert len(oracle.asked) == IN_FLIGHT + 6
    oracle.answer("0000")
    assert [looked.path for looked in in_order([*early, *looks])] == [one.path for one in found]


def test_what_kills_inference_does_not_take_others_with_it(tmp_path: Path) -> None:
    beside: dict[str, int] = {}

    def ask(oracle: Oracle, name: str) -> None:
        beside[name] = len(oracle.open) - 1
        if name == "0003":
            oracle.die()
        elif len(oracle.asked) > 4:
            oracle.answer(name)

    oracle, found = Oracle(ask), archive(tmp_path, 9)
    looked = [*in_order(look(found, oracle, None, CALLER))]  # type: ignore[arg-type]
    assert [one.error for one in looked] == ["none"] * 3 + ["inference died"] + ["none"] * 5
    assert [one.unreadable for one in looked].index(True) == 3
    assert beside["0003"] == 0


def test_inference_that_does_not_come_back_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(oracle: Oracle, name: str) -> None:
        oracle.is_ready = False
        oracle.die()

    monkeypatch.setattr(classify_files, "RESTART", 0.0)
    with pytest.raises(InferenceError):
        [*look(archive(tmp_path, 2), Oracle(ask), None, CALLER)]  # type: ignore[arg-type]


@pytest.mark.parametrize("read", [read_meta, lambda path: as_instance(path, path)])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.slow
def test_classify_that_is_killed_goes_on_and_does_no_file_twice(tmp_path: Path) -> None:
    save_random_model(tmp_path / "model", size=64)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(60):
        wrap_image(GREY, images / f"{number}.dcm")
    (images / LATIN_1).write_bytes((images / "0.dcm").read_bytes())
    (images / "text").write_text("no image")
    words = [*PROGRAM, "classify", str(images), "--model", str(tmp_path / "model"), "--workers", "1"]
    words += ["--json", "--csv", str(tmp_path / "out.csv")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = [json.loads(child.stdout.readline())["path"] for _ in range(20)]
        child.kill()
    assert not (tmp_path / "out.csv").exists()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    second = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert (done.returncode, set(first) & set(second)) == (1, set()), done.stderr
    assert "failed: 1 " in done.stderr
    with (tmp_path / "out.csv").open(newline="") as lines:
        rows = {row["path"]: row for row in csv.DictReader(lines)}
    assert len(rows) == 62
    assert sum(bool(row["top"]) for row in rows.values()) == 61
    # Nothing is left to do; that one file failed is said again.
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout, again.stderr) == (1, "", "failed: 1 noted by an earlier run\n")


# -- send --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """More than one group of instances, each with a UID of its own."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(GROUP + 20):
        wrap_image(GREY, folder / f"{number:03}.dcm")
    return folder


def to(port: int) -> DestinationSettings:
    return DestinationSettings(name="there", ae_title="THERE", host="127.0.0.1", port=port)


def received(handler: MemoryHandler) -> Counter[str]:
    sinks = [sink for sink in handler.sinks if isinstance(sink, MemorySink) and sink.ended == "finished"]
    return Counter(sink.request.sop_instance for sink in sinks)


def test_one_association_serves_many_groups(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Requestor] = []

    def count(*words: Any) -> Requestor:
        opened.append(connect(*words))
        return opened[-1]

    monkeypatch.setattr(send_files, "connect", count)
    with served() as (port, handler):
        sent = [*send_files.send_files(map(Found, sorted(images.iterdir())), to(port), "OURS")]
    assert (len(opened), [one.path for one in sent]) == (1, sorted(images.iterdir()))
    assert received(handler).total() == len(sent)


def test_a_peer_that_takes_fewer_associations_gets_every_file_all_the_same(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_files, "PAUSES", (0.01,))
    monkeypatch.setattr(send_files, "GROUP", 8)
    with served(replace(NODE, associations=1)) as (port, handler):
        sent = [*send_files.send_files(map(Found, images.iterdir()), to(port), "OURS", 3)]
    assert [one.error for one in sent if not one.arrived] == []
    assert received(handler).total() == len(sent) == GROUP + 20


@pytest.mark.parametrize("associations", [1, 2])
def test_a_peer_that_is_away_is_given_up(images: Path, monkeypatch: pytest.MonkeyPatch, associations: int) -> None:
    monkeypatch.setattr(send_files, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(send_files, "GROUP", 10)
    sent: list[send_files.Sent] = []
    sending = send_files.send_files(map(Found, images.iterdir()), to(free_port()), "OURS", associations)
    with pytest.raises(NobodyThereError, match="given up, no association in 3 tries"):
        sent.extend(sending)
    assert 30 <= len(sent) < GROUP + 20
    assert all(one.error for one in sent)


def test_a_file_that_vanishes_on_the_way_is_said_and_the_others_arrive(images: Path) -> None:
    gone = images / "001.dcm"

    def make(request: object) -> MemorySink:
        gone.unlink(missing_ok=True)
        return MemorySink(request)  # type: ignore[arg-type]

    with served(handler=MemoryHandler(make)) as (port, _):
        sent = [*send_files.send_files(map(Found, sorted(images.iterdir())), to(port), "OURS")]
    assert [(one.path, one.error) for one in sent if not one.arrived] == [(gone, "No such file or directory")]


def test_what_did_not_arrive_is_sent_again_and_the_rest_is_not(images: Path, tmp_path: Path) -> None:
    refuse = True
    handler = MemoryHandler(
        lambda request: 0xA700 if refuse and "1" in request.sop_instance[-1:] else MemorySink(request)
    )
    with served(handler=handler) as (port, _):
        words = ["send", str(images), "--to", f"X@127.0.0.1:{port}", "--parquet", str(tmp_path / "out")]
        first = CliRunner().invoke(app, words)
        refused = GROUP + 20 - received(handler).total()
        assert (first.exit_code, refused > 0) == (1, True), first.output
        assert f"failed: {refused} " in first.stderr
        refuse = False
        second = CliRunner().invoke(app, words)
    assert (second.exit_code, set(received(handler).values())) == (0, {1}), second.output
    assert f"{GROUP + 20} of {GROUP + 20} arrived" in second.stdout
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "out").to_pydict()
    assert (len(table["path"]), set(table["status"]), set(table["error"])) == (GROUP + 20, {"0x0000"}, {None})


@pytest.mark.slow
def test_send_that_is_killed_goes_on_with_what_did_not_arrive(images: Path, tmp_path: Path) -> None:
    (images / LATIN_1).write_bytes((images / "000.dcm").read_bytes())
    uids = {read_meta(path).sop_instance for path in images.iterdir()}
    killed = threading.Event()

    def make(request: StoreRequest) -> MemorySink:
        if received(handler).total() >= 30:
            killed.wait(60)
        return MemorySink(request)

    handler = MemoryHandler(make)
    with served(handler=handler) as (port, _):
        words = [*PROGRAM, "send", str(images), "--to", f"X@127.0.0.1:{port}", "--associations", "2"]
        words += ["--resume", str(tmp_path / "journal")]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as child:
            wait_for(lambda: received(handler).total() >= 30, 60)
            child.kill()
        killed.set()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        got = received(handler)
    assert (done.returncode, set(got)) == (0, uids), done.stderr
    assert "of them before)" in done.stdout
    # For each association: one that was not answered yet, one that was not noted yet, and one that waited to be noted.
    assert got.total() - (len(uids) + 1) <= 6


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_says_how_much_is_left(tmp_path: Path) -> None:
    archive(tmp_path, 10)
    progress = Progress([tmp_path])
    wait_for(lambda: "at least" not in progress.words())
    assert progress.words() == "0 of 10 files"
    progress.skip(failed=False)
    progress.advance(failed=True)
    assert progress.words().startswith("2 of 10 files, ")
    assert progress.words().endswith(" left, 1 failed")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (58, "59 s"), (59, "1 min"), (61, "2 min"), (7800, "2 h 11 min"), (100_000, "1 d 3 h")],
)
def test_a_duration_is_rounded_up(seconds: float, words: str) -> None:
    assert duration(seconds) == words
