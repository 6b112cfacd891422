"""The inference process: what it answers, and what happens when it, a worker or a decoder dies, hangs or lies."""

from __future__ import annotations

import errno
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.config.settings import ModelSettings
from router.flow import Seen
from router.inference import Inference, InferenceError, process, supervisor
from router.inference.framing import pack, unpack
from router.inference.lanes import Lanes
from router.inference.worker_handle import Nursery, PixelWorker
from router.model.untrained import save_random_model
from router.pixels import render
from router.pixels.wrap import wrap_image
from tests.peers import descendants
from tests.unit.peer import wait_for

pytestmark = pytest.mark.slow

MODALITY = 0x00080060


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = tmp_path_factory.mktemp("model")
    save_random_model(folder, size=64)
    return ModelSettings(path=folder, device="cpu", engine="torch", threads=1, workers=1)


@pytest.fixture(scope="module")
def running(settings: ModelSettings) -> Iterator[Inference]:
    inference = Inference(settings)
    inference.start()
    yield inference
    inference.stop(5)


@pytest.fixture
def dx(tmp_path: Path) -> Path:
    grey = np.random.default_rng(0).integers(0, 4096, (300, 200), np.uint16)
    return wrap_image(grey, tmp_path / "dx.dcm")


def test_a_process_that_was_begun_serves_the_first_model(settings: ModelSettings, dx: Path) -> None:
    process.begin()
    begun = process._early.get()
    process._early.put(begun)
    inference = Inference(settings)
    inference.start()
    try:
        assert inference.info()["pid"] == begun.process.pid
        assert inference.look(dx, frozenset()).result(60).prediction is not None
    finally:
        inference.stop(5)
    assert begun.process.poll() is not None


def test_a_process_that_was_begun_in_vain_ends() -> None:
    process.begin()
    begun = process._early.get()
    process._early.put(begun)
    process.never_mind()
    assert begun.process.poll() is not None
    assert process._early.empty()


def wait_until_ready(inference: Inference) -> None:
    deadline = time.monotonic() + 60
    while not inference.is_ready:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_path_in_a_prediction_out(running: Inference, dx: Path) -> None:
    seen = running.look(dx, frozenset({MODALITY})).result(60)
    assert seen.pixels == "decoded"
    assert seen.header == {MODALITY: ("DX",)}
    assert seen.prediction is not None
    assert sum(seen.prediction.probabilities) == pytest.approx(1)
    assert seen.prediction.model == running.info()["model"]
    assert (seen.facts.rows, seen.facts.columns) == (300, 200)


def test_a_path_from_the_current_folder(running: Inference, dx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dx.parent)
    assert running.look(Path(dx.name), frozenset()).result(60).pixels == "decoded"


def test_many_at_once_each_get_their_own_answer(running: Inference, tmp_path: Path) -> None:
    paths = [wrap_image(np.full((40, 30 + n), n, np.uint8), tmp_path / f"{n}.dcm") for n in range(40)]
    futures = [running.look(path, frozenset()) for path in paths]
    assert [future.result(60).facts.columns for future in futures] == [30 + n for n in range(40)]


def test_what_is_no_dicom_or_not_there_has_no_prediction_but_the_fact(running: Inference, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of the kind" * 100)
    for path in (tmp_path / "x", tmp_path / "absent"):
        seen = running.look(path, frozenset()).result(60)
        assert seen.pixels in ("unparseable", "undecodable")
        assert seen.prediction is None
        assert seen.reason


def test_killed_it_fails_what_was_asked_and_comes_back_by_itself(running: Inference, dx: Path) -> None:
    wait_until_ready(running)
    before = running.info()["pid"]
    os.kill(before, signal.SIGSTOP)
    asked = running.look(dx, frozenset())
    os.kill(before, signal.SIGKILL)
    with pytest.raises(InferenceError):
        asked.result(60)
    wait_until_ready(running)
    assert running.info()["pid"] != before
    assert running.look(dx, frozenset()).result(60).pixels == "decoded"


@pytest.fixture(scope="module")
def impatient(settings: ModelSettings) -> Iterator[Inference]:
    """It asks for a sign of life several times a second, and takes a question of half a second for too old."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "PING_EVERY", 0.3)
        patch.setattr(supervisor, "HUNG_AFTER", 0.5 - 60)
        inference = Inference(replace(settings, pixel_timeout=60), nice=3)
        inference.start()
        yield inference
        inference.stop(5)


def test_a_low_priority_is_so_for_the_whole_machine(impatient: Inference) -> None:
    """`nice` counts within a session only where Linux shares the processors among sessions."""
    wait_until_ready(impatient)
    pid = impatient.info()["pid"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == 3 + os.nice(0)
    shares = Path(f"/proc/{pid}/autogroup")
    assert not shares.exists() or shares.read_text().split("nice")[1].strip() == "3"


def test_stopped_it_is_killed_once_a_few_signs_of_life_are_missing(impatient: Inference) -> None:
    wait_until_ready(impatient)
    before = impatient.info()["pid"]
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: not _runs(before))
    wait_for(lambda: impatient.info()["pid"] != before, 60)  # until then it counts as ready


def test_with_a_question_that_is_too_old_it_is_killed_though_it_gives_signs_of_life(
    impatient: Inference, dx: Path
) -> None:
    """It waits for its pixel worker, and would for longer than this test does."""
    wait_until_ready(impatient)
    (worker,) = descendants(impatient.info()["pid"], "pixel worker")
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(InferenceError):
        impatient.look(dx, frozenset()).result(10)


def test_a_model_that_does_not_load_is_one_line(settings: ModelSettings, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=r"card\.json") as caught:
        Inference(replace(settings, path=tmp_path)).start()
    assert "\n" not in str(caught.value)


def test_nothing_is_left_when_the_node_is_killed(settings: ModelSettings, tmp_path: Path) -> None:
    """A stand-in for the node starts inference, says its process ids, and is killed."""
    program = (
        "import sys, time, pathlib\n"
        "from router.config.settings import ModelSettings\n"
        "from router.inference import Inference\n"
        f"path = pathlib.Path({str(settings.path)!r})\n"
        "i = Inference(ModelSettings(path=path, device='cpu', engine='torch', threads=1, workers=2)); i.start()\n"
        "print(i.info()['pid'], flush=True); time.sleep(600)\n"
    )
    node = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    line = node.stdout.readline()
    while not line.strip().isdecimal():
        line = node.stdout.readline()
    inference = int(line)
    family = [inference, *descendants(inference)]
    assert len(family) == 4  # the nursery and two workers
    assert len(descendants(inference, "pixel worker")) == 2
    node.kill()
    node.wait()
    node.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in family):
        assert time.monotonic() < deadline, "a process outlived the node"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def asked(
    path: Path, *, memory: int = 1 << 30, timeout: float = 60.0
) -> Iterator[tuple[PixelWorker, Callable[[], Seen]]]:
    """The only worker of the first lane, started, and what is seen of a file by one that is like it."""
    answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    made: list[PixelWorker] = []
    nursery = Nursery(64, memory)

    def make() -> PixelWorker:
        made.append(PixelWorker(nursery))
        return made[-1]

    lanes = Lanes(
        1, timeout, make, answered=lambda _, message, picture: answers.put(message | {"pixels": len(picture)}),
        failed=lambda _, reason: answers.put({"failed": reason}), slowed=lambda _: None,
    )  # fmt: skip
    lanes.start()

    def look() -> Seen:
        lanes.put({"op": "look", "path": str(path), "tags": [], "caller": ["A", "10.0.0.1"]})
        message = answers.get(timeout=60)
        seen = unpack(message["seen"])
        assert message["pixels"] == (64 * 64 if seen.pixels == "decoded" else 0)
        return seen

    try:
        yield made[0], look
    finally:
        nursery.stop()
        for worker in made:
            worker.stop()


def test_a_worker_that_hangs_is_replaced_and_the_instance_undecodable(dx: Path) -> None:
    with asked(dx, timeout=0.5) as (worker, look):
        os.kill(worker.pid, signal.SIGSTOP)
        assert "0.5 s" in look().reason


def test_a_worker_that_is_killed_is_replaced_and_the_instance_looked_at_again(dx: Path) -> None:
    """By the kernel where memory is short, or by a person: that is not the instance's doing."""
    with asked(dx) as (worker, look):
        killed = worker.pid
        os.kill(killed, signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (killed, signal.SIGKILL)).start()  # while it is asked
        assert look().pixels == "decoded"
        wait_for(lambda: not _runs(killed))
        assert look().pixels == "decoded"  # by the process that takes its place


def test_a_worker_keeps_within_its_memory(tmp_path: Path) -> None:
    """An image that needs more than the limit costs the worker's answer, not the machine."""
    big = wrap_image(np.zeros((6000, 6000), np.uint16), tmp_path / "big.dcm")
    with asked(big, memory=50 << 20) as (_, look):
        assert look().pixels == "undecodable"


def test_a_full_disk_while_a_copy_is_made_comes_back_as_what_it_is(
    running: Inference, dx: Path, tmp_path: Path
) -> None:
    """From the pixel worker through two processes; whoever asks tells it from pixels that cannot be had."""
    wait_until_ready(running)
    target = tmp_path / "copy"
    target.symlink_to("/dev/full")  # what failed is unlinked
    with pytest.raises(OSError, match="No space left on device") as caught:
        running.transcode(dx, target, "1.2.840.10008.1.2").result(60)
    assert caught.value.errno == errno.ENOSPC


def test_seen_survives_the_way_between_processes(dx: Path) -> None:
    _, seen = render(dx, 64, frozenset({MODALITY, 0x00101010, 0x7FE00010}))
    assert unpack(pack(seen)) == seen


def test_asked_before_the_start_it_says_so(settings: ModelSettings, dx: Path) -> None:
    with pytest.raises(InferenceError):
        Inference(settings).look(dx, frozenset()).result(1)
