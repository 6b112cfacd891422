"""Pixel workers are copies of one process: made at once, ended for certain, and made again when it was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.inference.nursery import LOWEST
from router.inference.worker_handle import Nursery, PixelWorker, WorkerDiedError
from tests.peers import descendants, wait_for

TRANSCODE = {"op": "transcode", "path": "/nowhere", "target": "/nowhere", "syntax": "1.2.840.10008.1.2.1"}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery(8, 1 << 30)
    yield nursery
    nursery.stop()


def answers(worker: PixelWorker) -> bool:
    worker.start()
    worker.ask(TRANSCODE)
    return bool(worker.answer(30)[0]["errno"] == 2)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def mother(worker: PixelWorker) -> int:
    return int(Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_worker_is_a_copy_that_ends_when_it_is_told(nursery: Nursery) -> None:
    one, other = PixelWorker(nursery), PixelWorker(nursery)
    assert answers(one)
    assert answers(other)
    assert mother(one) == mother(other) in descendants(os.getpid())
    pid = one.pid
    one.stop()
    assert gone(pid)
    assert one.exit_code == -signal.SIGKILL
    assert not one.is_warm
    assert answers(other)
    other.stop()


def test_what_a_worker_died_of_is_known(nursery: Nursery) -> None:
    worker = PixelWorker(nursery)
    worker.start()
    os.kill(worker.pid, signal.SIGSEGV)
    worker.ask(TRANSCODE)
    with pytest.raises(WorkerDiedError):
        worker.answer(30)
    worker.stop()
    assert worker.exit_code == -signal.SIGSEGV


def test_one_that_died_while_nobody_asked_is_replaced(nursery: Nursery) -> None:
    worker = PixelWorker(nursery)
    worker.start()
    died = worker.pid
    os.kill(died, signal.SIGKILL)
    wait_for(worker._has_died, 10, "its end of the answers to close")
    assert answers(worker)
    assert worker.pid != died
    worker.stop()


def test_a_nursery_that_is_killed_takes_its_workers_along_and_is_replaced(nursery: Nursery) -> None:
    one, other = PixelWorker(nursery), PixelWorker(nursery)
    one.start()
    was = one.pid
    killed = mother(one)
    os.kill(killed, signal.SIGKILL)
    assert answers(other)
    assert mother(other) != killed
    wait_for(lambda: gone(was), 10, "its worker to end")
    assert answers(one)
    assert mother(one) == mother(other)
    one.stop()
    other.stop()


def test_nothing_is_left_of_many(nursery: Nursery) -> None:
    worker = PixelWorker(nursery)
    worker.start()
    here, there = Path("/proc/self/fd"), Path(f"/proc/{mother(worker)}/fd")
    before = len(list(here.iterdir())), len(list(there.iterdir()))
    for _ in range(10):
        worker.stop()
        worker.start()
    assert (len(list(here.iterdir())), len(list(there.iterdir()))) == before
    nurse = mother(worker)
    assert descendants(nurse) == [worker.pid]
    worker.stop()
    assert descendants(nurse) == []


def test_a_worker_has_nothing_open_but_its_own(nursery: Nursery) -> None:
    """Not even another's questions: it reads hostile bytes."""
    one, other = PixelWorker(nursery), PixelWorker(nursery)
    one.start()
    other.start()
    targets = [os.readlink(path) for path in Path(f"/proc/{other.pid}/fd").iterdir()]
    assert sum(target.startswith("pipe:") for target in targets) == 2
    assert not any(target.startswith("socket:") for target in targets)
    one.stop()
    other.stop()


def test_one_of_low_priority_is_so_for_the_whole_machine(nursery: Nursery) -> None:
    """`nice` counts within a session only where Linux shares the processors among sessions."""
    worker = PixelWorker(nursery)
    worker.start()
    usual = worker.pid
    assert os.getsid(usual) == os.getsid(0)
    worker.start(is_low=True)
    assert worker.pid != usual
    assert worker.is_lowered
    assert os.getsid(worker.pid) == worker.pid
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == LOWEST + os.nice(0)
    shares = Path(f"/proc/{worker.pid}/autogroup")
    assert not shares.exists() or shares.read_text().split("nice")[1].strip() == str(LOWEST)
    kept = worker.pid
    worker.start()
    assert worker.pid == kept
    worker.stop()
