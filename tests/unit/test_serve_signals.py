"""Signals to `serve`: none is missed, whichever thread the kernel gives it to, and an end goes before a reload."""

from __future__ import annotations

import subprocess
import sys

ANOTHER_THREAD = """
import signal, threading, time
from router.cli.serve import next_signal, signal_pipe

def take():
    time.sleep(0.3)  # so that the main thread waits: nothing but the pipe can wake it
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)

signals = signal_pipe()
threading.Thread(target=take).start()
print(next_signal(signals) == signal.SIGHUP)
"""
ONE_AFTER_THE_OTHER = """
import os, select, signal
from router.cli.serve import next_signal, signal_pipe

signals = signal_pipe()
for names in ["SIGTERM SIGHUP", "SIGHUP SIGTERM", "SIGHUP SIGHUP SIGHUP", "SIGHUP SIGINT SIGHUP"]:
    for name in names.split():
        os.kill(os.getpid(), signal.Signals[name])
    while select.select([signals], [], [], 0)[0]:
        print(signal.Signals(next_signal(signals)).name, end=" ")
"""


def said(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_a_signal_that_another_thread_gets_wakes_the_main_thread() -> None:
    assert said(ANOTHER_THREAD) == "True"


def test_an_end_goes_before_a_reload_and_one_reload_does_for_all() -> None:
    assert said(ONE_AFTER_THE_OTHER) == "SIGTERM SIGTERM SIGHUP SIGINT"


HANGS = """
import time
from router.cli.serve import end_anyway

end_anyway(0.1)
time.sleep(60)
"""


def test_what_hangs_at_the_end_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "stopping took too long" in done.stdout + done.stderr
