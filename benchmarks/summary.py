"""benchmarks/results/*.json to docs/performance.md and its chart: no figure there is typed by hand.

python -m benchmarks.summary
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
ELSEWHERE = ("capacity", "replicas", "backlog")
"""Results of which `benchmarks.capacity_model` makes a page."""
CHART = ROOT / "docs" / "performance.png"
LOADS = {
    "dx": "DX, 2500 × 2048, 16 bit, uncompressed (10 MB)",
    "dx-4": "DX over four associations at once",
    "dx-jpegll": "DX, JPEG Lossless",
    "dx-j2k": "DX, JPEG 2000 lossless",
    "cr": "CR, 1760 × 2140, uncompressed",
    "small": "512 × 512, uncompressed (0.5 MB)",
}
HEAD = """# Performance

`make benchmark` measures these figures, and `python -m benchmarks.summary` writes this page from
`benchmarks/results/*.json`. No figure is typed by hand. For each table one machine ran sender, router and sink, which
share its cores and speak over loopback. Routers take turns within each round, so quote the ratios: absolute figures
change by 20 % and more from run to run. The wait is the time from the end of the sender to the arrival at the sink. A
router that forwards an instance before it answers the sender shows 0. What several machines need is on
[the page on capacity](capacity.md).
"""


def main() -> None:
    records = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    routes = {name.removeprefix("route-"): record for name, record in records.items() if name.startswith("route-")}
    here = machine(records["route-dx"]["machine"])
    parts = [HEAD, here, "## The whole way\n"]
    draw({load: routes[load] for load in LOADS if load in routes})
    parts.append(
        "This node stores each instance durably, classifies it, decides and forwards it. "
        "The other routers only forward: they do not look at pixels.\n"
    )
    parts.append("![instances a second for each router and load](performance.png)\n")
    parts += [route(LOADS[load], routes[load]) + elsewhere(routes[load], here) for load in LOADS if load in routes]
    parts.append("## Each stage alone\n")
    parts += [stage(record) + elsewhere(record, here) for name, record in records.items()
              if not name.startswith("route-") and name not in ELSEWHERE]  # fmt: skip
    PAGE.write_text("\n".join(parts))


def machine(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory_mb'] // 1024} GB; Python {about['python']}, "
        f"{versions}; {about['date']}.\n"
    )


def elsewhere(record: dict[str, Any], here: str) -> str:
    """A line where something was measured on another machine, or on another day, than the page says at its head."""
    there = machine(record["machine"])
    return "" if there == here else f"\nMeasured on: {there}"


def route(title: str, record: dict[str, Any]) -> str:
    rows = record["results"]
    ours = rows["ours"]["instances_per_s"]["median"]
    lines = [
        f"### {title}\n",
        "| router | instances/s | CPU ms each | last byte in to last byte out, ms (p50 / p95 / p99) | lost | ours is |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        waits = " / ".join(str(value) for value in row["latency_ms"].values())
        ratio = ours / row["instances_per_s"]["median"]
        lines.append(
            f"| {name} | {spread(row['instances_per_s'])} | {spread(row['cpu_ms_per_instance'])} | {waits} | "
            f"{row['lost']} | {ratio:.2f}× |"
        )
    rounds = rows["ours"]["instances_per_s"]["n"]
    return "\n".join(
        [*lines, f"\n{rounds} rounds, {record['associations']} association(s); median (lowest–highest).\n"]
    )


def stage(record: dict[str, Any]) -> str:
    rows = record["results"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [
        f"### {record['benchmark']}\n",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(spread(row.get(column, "")) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def spread(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.1f} ({value['low']:.1f}–{value['high']:.1f})"
    return str(value)


def draw(routes: dict[str, Any]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(routes), figsize=(4.2 * len(routes), 3.2), squeeze=False)
    for axis, (load, record) in zip(axes[0], routes.items(), strict=True):
        names = list(record["results"])[::-1]
        figures = [record["results"][name]["instances_per_s"] for name in names]
        medians = [f["median"] for f in figures]
        errors = [[m - f["low"] for m, f in zip(medians, figures, strict=True)],
                  [f["high"] - m for m, f in zip(medians, figures, strict=True)]]  # fmt: skip
        colours = ["#1f6f8b" if name.startswith("ours") else "#b8b8b8" for name in names]
        axis.barh(names, medians, xerr=errors, color=colours, error_kw={"lw": 1})
        axis.set_title(LOADS[load].split(",")[0] + f" ({load})", fontsize=10)
        axis.set_xlabel("instances/s")
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(CHART, dpi=90)


if __name__ == "__main__":
    main()
