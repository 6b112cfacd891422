"""Slices of a campaign: cases of one target for some seconds, what they found, and how much they took.

A case that breaks a promise becomes a file named by its place in the code, with its traceback beside it; the same
place again is only counted. A slice runs in a process of its own, so that nothing that it does ends the campaign.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.cases import case
from tests.fuzz.targets import IN_PROCESS, WrongError, forget

SLOWEST = 5.0
"""Seconds of CPU that a case may take in this process; the largest takes a tenth."""
GROWTH = 400 << 20
"""Bytes by which a case may raise this process's peak: what a deflated data set may become, and its copy."""
LIMIT = 1400 << 20
"""Address space beyond what there is at the start: what needs more gets a MemoryError, which is a finding."""


@dataclass
class Slice:
    """What one slice did; one line of `slices.jsonl`."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    bytes: int = 0
    findings: list[str] = field(default_factory=list)
    repeated: int = 0
    peak_mib: int = 0
    slowest_ms: float = 0.0
    slowest: int = -1
    outcomes: dict[str, int] = field(default_factory=dict)


class TooSlowError(WrongError):
    """A case that was still running when its time was over."""


def run_slice(target: str, seed: int, seconds: float, out: Path, root: Path, most: int = 1 << 62) -> Slice:
    """Cases 0, 1, 2… of `seed` until the time is over, or `most` of them; findings go to `out`/findings."""
    done = Slice(target, seed)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    clock = time.process_time if target in IN_PROCESS else time.monotonic
    with _target(target, done) as run, (out / f"current-{target}").open("wb", 0) as current:
        floor = _peak()
        while time.monotonic() - began < seconds and done.inputs < most:
            data = case(target, seed, done.inputs, root)
            current.seek(0)
            current.write(f"{seed} {done.inputs}\n".encode())
            start = clock()
            try:
                run(data)
                if _peak() > floor + GROWTH:
                    floor = _peak()
                    raise WrongError("a case needs more memory than its bound")
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                keep(error, data, done, out)
            took = 1000 * (clock() - start)
            if took > done.slowest_ms:
                done.slowest_ms, done.slowest = round(took, 1), done.inputs
            done.inputs += 1
            done.bytes += len(data)
    done.seconds = round(time.monotonic() - began, 1)
    done.peak_mib = max(done.peak_mib, _peak() >> 20)
    return done


def append(done: Slice, out: Path) -> None:
    with (out / "slices.jsonl").open("a") as lines:
        lines.write(json.dumps(asdict(done)) + "\n")


def keep(error: BaseException, data: bytes, done: Slice, out: Path) -> None:
    """Store a finding once for each place in our code that it comes from."""
    place = where(error)
    name = f"{done.target}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    folder = out / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{name}.bin").exists():
        done.repeated += 1
        return
    done.findings.append(name)
    (folder / f"{name}.bin").write_bytes(data)
    trace = "".join(traceback.format_exception(error))
    (folder / f"{name}.txt").write_text(f"{done.target} seed {done.seed} case {done.inputs}\n{trace}")


def where(error: BaseException) -> str:
    """The exception's class and the innermost lines of it: what makes two findings the same."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.name}:{f.line}" for f in frames if "/router/" in f.filename]
    return f"{type(error).__name__} {ours[-1] if ours else error}"


@contextmanager
def _target(name: str, done: Slice) -> Iterator[Callable[[bytes], None]]:
    if name in IN_PROCESS:
        run = IN_PROCESS[name]
        with _bounded():
            yield lambda data: _timed(run, data)
        forget()
    else:
        from tests.fuzz.pixels import Pixels

        pixels = Pixels()
        try:
            yield pixels
        finally:
            pixels.close()
            done.peak_mib = pixels.peak >> 20
            done.outcomes = dict(Counter(pixels.seen).most_common())


@contextmanager
def _bounded() -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, hard))
    before = signal.signal(signal.SIGPROF, _too_slow)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _timed(run: Callable[[bytes], None], data: bytes) -> None:
    signal.setitimer(signal.ITIMER_PROF, SLOWEST)
    try:
        run(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"a case takes more than {SLOWEST:g} s of CPU")


def _peak() -> int:
    """Most resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def total(out: Path) -> str:
    """The sum of all slices, a line for each target."""
    sums: dict[str, Slice] = {}
    outcomes: Counter[str] = Counter()
    lines = (out / "slices.jsonl").read_text().splitlines() if (out / "slices.jsonl").exists() else []
    for one in (Slice(**json.loads(line)) for line in lines):
        into = sums.setdefault(one.target, Slice(one.target, 0))
        into.inputs += one.inputs
        into.bytes += one.bytes
        into.seconds += one.seconds
        into.findings += one.findings
        into.peak_mib = max(into.peak_mib, one.peak_mib)
        into.slowest_ms = max(into.slowest_ms, one.slowest_ms)
        outcomes.update(one.outcomes)
    table = [
        f"{'target':12} {'inputs':>10} {'MB':>8} {'minutes':>8} {'findings':>8} {'peak MiB':>9} {'slowest ms':>10}"
    ]
    table += [
        f"{s.target:12} {s.inputs:10} {s.bytes / 1e6:8.0f} {s.seconds / 60:8.1f} {len(s.findings):8} {s.peak_mib:9} "
        f"{s.slowest_ms:10.0f}"
        for s in sums.values()
    ]
    return "\n".join(table + [f"  {count:8} {outcome}" for outcome, count in outcomes.most_common(20)])
