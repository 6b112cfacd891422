"""A process that has taken in all that a pixel worker needs, and makes pixel workers as copies of itself.

A copy costs a few milliseconds, a start of Python with its modules a third of a second of a processor. A worker is
replaced after each slow or hostile image, and two of them start with the node. This process has one thread and reads
no image, so a copy is safe and a worker that dies takes nothing along.

`inference.worker_handle` starts it. Requests come as datagrams on a socket, and each gets a number as its answer:
BIRTH with two descriptors the worker's process id, or 0; LOW_BIRTH the same of one of low priority; END and a process
id the worker's exit code.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from typing import NoReturn

from router.inference.child_start import at_most, have_low_priority, is_called, live_and_die_with

BIRTH, LOW_BIRTH, END = b"b", b"l", b"e"
"""Requests, by their first byte."""
NUMBER = 8
"""Bytes of a process id or an exit code."""
LOWEST = 10
"""The `nice` of a worker in the slow lane: it gets a tenth of a processor that others want too."""
DEATH_SECONDS = 1.0
"""A worker that was killed is gone by then. One that hangs in a file system is waited for at the next end."""


def main() -> None:
    parent, line, memory, size = (int(argument) for argument in sys.argv[1:5])
    live_and_die_with(parent)
    requests = socket.socket(fileno=line)
    import router.pixels  # noqa: F401 - all that a worker needs is mapped before the limit of its memory is set

    gc.collect()
    gc.freeze()  # else the first collection of each worker would copy all pages
    mine, ended = set[int](), set[int]()
    while True:
        request, descriptors, *_ = socket.recv_fds(requests, 1 + NUMBER, 2)
        if not request:
            return
        if request[:1] in (BIRTH, LOW_BIRTH):
            asks, answers = descriptors
            answer = _birth(requests, asks, answers, memory, size, is_low=request[:1] == LOW_BIRTH)
            mine.add(answer)
        else:
            # A worker of the nursery before this one has died with it, and another process may have its number.
            if (worker := int.from_bytes(request[1:])) in mine:
                mine.discard(worker)
                ended.add(worker)
            answer = _end(ended).get(worker, -signal.SIGKILL)
        requests.send(answer.to_bytes(NUMBER, signed=True))


def _birth(line: socket.socket, asks: int, answers: int, memory: int, size: int, *, is_low: bool) -> int:
    """The process id of a new worker that reads requests from `asks` and writes to `answers`; 0 if there is none."""
    mother = os.getpid()
    try:
        child = os.fork()
    except OSError:  # no memory, or too many processes
        child = 0
    else:
        if not child:
            line.close()
            _live(mother, asks, answers, memory, size, is_low=is_low)
    os.close(asks)
    os.close(answers)
    return child


def _live(mother: int, asks: int, answers: int, memory: int, size: int, *, is_low: bool) -> NoReturn:
    code = 1
    try:
        live_and_die_with(mother)
        is_called("pixel worker")
        if is_low:
            os.setsid()
            have_low_priority(LOWEST)
        from router.inference.pixel_worker import work

        at_most(memory)
        work(os.fdopen(asks, "rb"), os.fdopen(answers, "wb"), size)
        code = 0
    finally:
        os._exit(code)  # never back into the loop above


def _end(workers: set[int]) -> dict[int, int]:
    """Kill workers. Gives the exit codes of those that are gone, which leave the set.

    Nobody else can get the process id of one that has died before it is waited for here.
    """
    codes: dict[int, int] = {}
    until = time.monotonic() + DEATH_SECONDS
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    while workers and time.monotonic() < until:
        for worker in list(workers):
            found, status = os.waitpid(worker, os.WNOHANG)
            if found:
                codes[worker] = os.waitstatus_to_exitcode(status)
                workers.discard(worker)
        time.sleep(0.0005)
    return codes


if __name__ == "__main__":
    main()
