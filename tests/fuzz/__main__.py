"""`python -m tests.fuzz --minutes 120`: a campaign, slice after slice; it goes on where the last one stopped."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import structlog

from tests.conftest import SHARED
from tests.fuzz.campaign import Slice, append, keep, run_slice, total
from tests.fuzz.cases import case
from tests.fuzz.targets import WrongError

TARGETS = ("association", "pixels", "picture", "header", "pixels", "requestor", "node")
"""In turn; pixels twice, for most of the code that reads strangers' bytes is in the decoders."""
SLICE = 60.0
ROOT = SHARED / "data" / "dicom"


def main() -> int:
    options = _options()
    out, target = Path(options.out), options.target
    out.mkdir(parents=True, exist_ok=True)
    if options.one:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        append(_run(target, options.seed, 60 * options.minutes, out), out)
        return 0
    end = time.monotonic() + 60 * options.minutes
    number = _done(out)
    while (left := end - time.monotonic()) > 1:
        chosen = target or TARGETS[number % len(TARGETS)]
        _child(chosen, options.seed + number, min(SLICE, left), out)
        number += 1
        print(total(out), "\n", flush=True)
    print(f"findings in {out / 'findings'}: {len(list(out.glob('findings/*.bin')))}")
    return int(any(out.glob("findings/*.bin")))


def _run(target: str, seed: int, seconds: float, out: Path) -> Slice:
    if target == "node":
        from tests.fuzz.node import run_node

        return run_node(seed, seconds, out, ROOT)
    return run_slice(target, seed, seconds, out, ROOT)


def _child(target: str, seed: int, seconds: float, out: Path) -> None:
    """One slice in a process of its own; how it dies is a finding like any other."""
    command = [sys.executable, "-m", "tests.fuzz", "--one", "--target", target, "--seed", str(seed),
               "--minutes", str(seconds / 60), "--out", str(out)]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(seconds + 1800)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)  # with whatever it has started
        code = child.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    if code:
        done = Slice(target, seed, seconds=time.monotonic() - began)
        at = (out / f"current-{target}").read_text().split() if (out / f"current-{target}").exists() else []
        data = case(target, int(at[0]), int(at[1]), ROOT) if len(at) == 2 and target != "node" else b""
        keep(WrongError(f"the process of a slice ended with {code}"), data, done, out)
        append(done, out)


def _done(out: Path) -> int:
    """How many slices there are: seeds and targets go on from there."""
    lines = out / "slices.jsonl"
    return len(lines.read_text().splitlines()) if lines.exists() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", choices=sorted(set(TARGETS)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="runs/fuzz")
    parser.add_argument("--one", action="store_true", help="one slice in this process")
    options = parser.parse_args()
    if options.one and not options.target:
        parser.error("--one needs --target")
    return options


if __name__ == "__main__":
    sys.exit(main())
