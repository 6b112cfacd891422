"""The evaluation as one HTML file: tables, curves drawn as SVG, and the worst mistakes as the network saw them.

Nothing is loaded from anywhere, no script runs, and every text of a set is escaped: a file name may be hostile. The
file is its owner's alone (mode 0600), since a radiograph can carry a burnt-in name.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from router.training.evaluate import UNREADABLE, Answers, picture_of, private, worst
from router.training.routes import HEAD
from router.training.routes import rows as routes_rows

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: .6rem 0 1.6rem }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd }
td + td, th + th { text-align: right } h2 { margin-top: 2.2rem } .warn { background: #fff3cd; padding: .6rem 1rem }
figure { display: inline-block; margin: .5rem; width: 14rem; vertical-align: top; font-size: 13px }
figure img { width: 100% } figcaption { overflow-wrap: anywhere } svg { background: #fafafa; margin-right: 1rem }
.hit { background: #d9f2df } .miss { background: #fbdcdc }
"""
WARNING = (
    "The pictures below are parts of patients' images and can carry burnt-in names; file names can hold names, too. "
    "Keep and pass on this file as you would the images."
)
SIDE = 300


def write_report(found: dict[str, Any], answers: Answers, size: int, path: Path, *, pictures: bool = True) -> None:
    """Write the report of `evaluate`'s figures; `pictures` adds the worst mistakes at `size` pixels."""
    sections = [
        _summary(found), _routes(found), _table1(found), _table2(found), _confusion(found), _views(found),
        _routing(found), _curves(found), _sources(found), _mistakes(answers, size, pictures), _skipped(found),
    ]  # fmt: skip
    title = f"Evaluation: {escape(found['model']['network'])}"
    head = f'<meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{_policy()}"><title>{title}</title>'
    page = f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body><h1>{title}</h1>"
    with private(path) as file:
        file.write(page + "".join(sections) + "</body></html>\n")


def _policy() -> str:
    return "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _summary(found: dict[str, Any]) -> str:
    model, took = found["model"], found["milliseconds"]
    return _table(("what", ""), [
        ("split", found.get("split", "all")), ("images", found["n"]), ("patients", found["patients"]),
        ("network", f"{model['network']}, {model['size']} px, {model['parameters']:,} parameters"),
        ("weights (SHA-256)", model["digest"][:16] or "not published"),
        ("time an image", f"{took['network']:.1f} ms, and {took['prepare']:.1f} ms to read and prepare"),
        ("device", took["device"]),
    ])  # fmt: skip


def _routes(found: dict[str, Any]) -> str:
    """By class for each kind of header, and by source where the header says nothing."""
    if "routes" not in found:
        return ""
    note = (
        "<p>By the rules of the routing.yaml that was given. Simulated: the header names the right body part in 85 %, "
        "none in 10 % and another in 5 % of the images. In brackets: Clopper–Pearson intervals at 95 %.</p>"
    )
    plain = next(iter(found["routes"].values()))
    rows = [[str(row[key]) for key in ("source", "class", "n", "right", "wrong", "people")] for row in plain["sources"]]
    return (
        "<h2>Who gets what</h2>" + note + _table(HEAD, routes_rows(found["routes"]))
        + _table(("source", "class", "n", "right", "wrong", "to people"), rows)
    )  # fmt: skip


def _views(found: dict[str, Any]) -> str:
    if not found.get("views"):
        return ""
    head = ("view", "n", "right", "wrong", "uncertain")
    return "<h2>Views</h2>" + _table(head, [[str(row[key]) for key in head] for row in found["views"]])


def _table1(found: dict[str, Any]) -> str:
    splits = list(found["table1"]["total"]["splits"])
    rows = [
        (name, *(row["splits"][split] for split in splits), row["images"], row["patients"],
         ", ".join(f"{source} {n}" for source, n in row["sources"].items()))
        for name, row in found["table1"].items()
    ]  # fmt: skip
    return "<h2>Table 1: the set</h2>" + _table(("class", *splits, "images", "patients", "sources"), rows)


def _table2(found: dict[str, Any]) -> str:
    rows: list[Sequence[Any]] = []
    for key, title in (("pixels", "macro, pixels alone"), ("with_age", "macro, with header age where known")):
        cells = [f"{v['value']:.4f} ({v['low']:.3f}–{v['high']:.3f})" for v in
                 (found[key][name] for name in ("recall", "precision", "f1"))]  # fmt: skip
        rows.append((title, *cells, found[key]["n"]))
    for name, row in found["classes"].items():
        rows.append((name, *(f"{row[k]:.4f}" for k in ("recall", "precision", "f1")), row["n"]))
    note = (
        "<p>In brackets: 95 % bootstrap intervals, patients drawn with replacement within each class. "
        f"{found['with_age']['chests_with_age']} chests have an age in the header.</p>"
    )
    return "<h2>Table 2: figures</h2>" + _table(("", "recall", "precision", "F1", "n"), rows) + note


def _confusion(found: dict[str, Any]) -> str:
    names = list(found["classes"])
    rows = []
    for place, (name, counts) in enumerate(zip(names, found["confusion"], strict=True)):
        shades = ("hit" if i == place else "miss" if n else "" for i, n in enumerate(counts))
        cells = "".join(f"<td class='{shade}'>{n}</td>" for shade, n in zip(shades, counts, strict=True))
        rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("label ↓ prediction →", *names))
    return f"<h2>Confusion</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def right_of_answered(routing: dict[str, Any]) -> str:
    """A share for people; a dash where nothing was answered, since 0 % would say that all was wrong."""
    return f"{routing['precision']:.2%}" if routing["answered"] else "–"


def _routing(found: dict[str, Any]) -> str:
    routing = found["routing"]
    rows = [
        (name, row["taken"], row["others"], f"{row['share']:.2%}", f"{row['upper_bound']:.2%}")
        for name, row in routing["wrong_routes"].items()
    ]
    head = ("a rule on class", "wrongly takes", "of other images", "share", "95 % upper bound")
    text = (
        f"<p>With the thresholds of its card the model answers {routing['coverage']:.1%} of the images, and "
        f"{right_of_answered(routing)} of these answers are right; {routing['novel']} are novel to it. The rest is "
        "<em>uncertain</em> and goes to people.</p>"
    )
    return "<h2>What a rule on class would do</h2>" + text + _table(head, rows)


def _curves(found: dict[str, Any]) -> str:
    bins = [(row["confidence"], row["right"]) for row in found["calibration"]["reliability"]]
    curve = [(row["coverage"], row["precision"]) for row in found["coverage"]]
    lowest = min([p for _, p in curve] + [0.99])
    floor = int(lowest * 20) / 20
    error = found["calibration"]["error"]
    drawn = _plot(bins, "confidence", "share right", dots=True) + _plot(curve, "coverage", "precision", floor=floor)
    return (
        f"<h2>Calibration and coverage</h2><p>Expected calibration error {error:.4f}. On the left, points on the "
        f"diagonal mean that 90 % sure is right in 90 of 100.</p>{drawn}"
    )


def _plot(points: Sequence[tuple[float, float]], x: str, y: str, *, floor: float = 0.0, dots: bool = False) -> str:
    """An SVG of points in 0…1 × floor…1."""

    def at(a: float, b: float) -> tuple[float, float]:
        return 40 + a * (SIDE - 60), SIDE - 40 - (b - floor) / max(1 - floor, 1e-9) * (SIDE - 60)

    places = [at(*point) for point in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    (left, bottom), (right, top) = at(0, floor), at(1, 1)
    parts = [
        f"<rect x={left} y={top} width={right - left} height={bottom - top} fill=none stroke='#999'/>",
        f"<polyline points='{line}' fill=none stroke='#1565c0' stroke-width=2 />",
        f"<text x={SIDE / 2} y={SIDE - 8} text-anchor=middle font-size=13>{x}</text>",
        f"<text x=12 y={SIDE / 2} font-size=13 text-anchor=middle transform='rotate(-90 12 {SIDE / 2})'>{y}</text>",
        f"<text x=36 y={bottom + 4} font-size=11 text-anchor=end>{floor:g}</text>",
        f"<text x=36 y={top + 4} font-size=11 text-anchor=end>1</text>",
    ]
    if dots:
        parts.append(f"<line x1={left} y1={bottom} x2={right} y2={top} stroke='#bbb' stroke-dasharray=4 />")
        parts += [f"<circle cx={a:.1f} cy={b:.1f} r=4 fill='#1565c0'/>" for a, b in places]
    return f"<svg width={SIDE} height={SIDE} role=img aria-label='{y} against {x}'>{''.join(parts)}</svg>"


def _sources(found: dict[str, Any]) -> str:
    rows = [
        (row["source"], row["class"], row["n"], row["right"], f"{row['recall']:.3f}", row["uncertain"])
        for row in found["sources"]
    ]
    return "<h2>By source</h2>" + _table(("source", "class", "n", "right", "recall", "uncertain"), rows)


def _mistakes(answers: Answers, size: int, pictures: bool) -> str:
    shown = []
    for item, prediction in worst(answers):
        words = (
            f"{item.label} called {prediction.top} ({prediction.confidence:.2f}; class {prediction.class_name})"
            f"<br>{escape(str(item.path))}"
        )
        image = _image(item.path, size) if pictures else ""
        shown.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    warning = f"<p class=warn>{WARNING}</p>" if pictures else ""
    return f"<h2>The worst mistakes</h2>{warning}{''.join(shown) or '<p>None.</p>'}"


def _image(path: Path, size: int) -> str:
    try:
        picture = picture_of(path, size)
    except UNREADABLE:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _skipped(found: dict[str, Any]) -> str:
    if not found["skipped"]["n"]:
        return ""
    return f"<h2>Skipped: {found['skipped']['n']}</h2>" + _table(("image", "reason"), found["skipped"]["images"][:200])
