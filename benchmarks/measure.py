"""What a process tree costs (Linux /proc), the machine it ran on, and the arithmetic of repeated runs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue += children.get(current, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far, reaped children included."""
    total = 0
    for process in tree(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(fields[n]) for n in (11, 12, 13, 14))
    return total / TICK


def memory_mb(pid: int) -> tuple[float, float]:
    """(proportional set size now, sum of each process's peak resident size) of the tree, in MB."""
    pss = peak = 0
    for process in tree(pid):
        try:
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    pss += int(line.split()[1])
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak += int(line.split()[1])
        except OSError:
            continue
    return pss / 1024, peak / 1024


@dataclass(frozen=True)
class Spread:
    """Median of repeated figures, with the lowest and the highest."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}–{self.high:.1f})"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, object]:
    """What the figures depend on: processor, cores, memory, versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory = next(
        int(line.split()[1]) // 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    )
    versions = {}
    for name in ("pynetdicom", "pydicom", "torch", "openvino", "imagecodecs"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name, program in {"DCMTK": "/usr/bin/dcmsend", "Orthanc": "/usr/sbin/Orthanc"}.items():
        try:
            text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
            versions[name] = text.split("\n")[0].strip().strip("$").strip()
        except OSError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"), "processor": cpu, "cores": len(os.sched_getaffinity(0)), "memory_mb": memory,
        "kernel": platform.release(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def report(name: str, table: Mapping[str, Mapping[str, object]], to: Path | None, *, against: str = "") -> None:
    """Print a table of figures, with ratios to one of its rows, and write it as JSON with what it depends on."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    print(f"\n{name}\n{'':34s}" + "".join(f"{column:>26s}" for column in columns))
    for title, row in table.items():
        print(f"{title:34s}" + "".join(f"{_cell(row.get(c), table.get(against, {}).get(c)):>26s}" for c in columns))
    if to is not None:
        record = {"benchmark": name, "machine": machine(), "results": table}
        to.write_text(json.dumps(record, default=plain, indent=1) + "\n")


def _cell(value: object, base: object) -> str:
    if isinstance(value, Spread) and isinstance(base, Spread) and value is not base:
        return f"{value} {value.median / base.median:.2f}×"
    return str(value)


def plain(value: object) -> object:
    """Dataclasses to dictionaries, for JSON."""
    return asdict(value) if isinstance(value, Spread) else str(value)
