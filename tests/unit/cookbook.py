"""The recipes of docs/cookbook.md as values: each routing.yaml, and the rows that say what becomes of which image.

A cell that is not understood is an error, so that no row can go untested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pydicom
from pydicom.uid import BasicTextSRStorage, CTImageStorage, UltrasoundImageStorage, generate_uid

from router.config.overrides import PREFIX
from router.decide.hours import DAYS
from router.flow import CLASSES, VIEWS, Caller, Prediction, Seen
from router.model.card import Card
from router.model.load import shipped_model
from router.pixels.render import render
from router.pixels.wrap import wrap_image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cookbook.md"
NOTHING = "–"
WITHOUT_PICTURE = ("no pixels", "undecodable")
SOP_CLASSES = {"SR": BasicTextSRStorage, "CT": CTImageStorage, "US": UltrasoundImageStorage}
ALWAYS = ("Image", "Header", "Pixels", "Rule", "Goes to")
MAY_BE = (
    r"Study", r"From", r"With", r"Received \(\S+\)", r"Recorded", r"Order at `\S+`", r"Association with `\S+`",
    r"Sent to `\S+`( after)?", r"Result of", r"After \S+ also to",
)  # fmt: skip
MONDAY = "2026-03-02"
"""Of the week in which `Tue 12:00` lies."""


@dataclass(frozen=True, eq=False)
class Row:
    """One image, and what becomes of it. `cells` has every column as it is written."""

    image: str
    cells: Mapping[str, str]
    header: Mapping[str, str]
    pixels: str
    study: str
    caller: Caller
    received: datetime | None
    environment: Mapping[str, str]
    rule: str
    sent: frozenset[str]
    result_of: tuple[str, ...] = ()
    follows: frozenset[str] = frozenset()
    one_of: str = ""
    """By what one of several is chosen: `study` or `instance`. Empty: all of them get it."""
    refused: bool = False

    def about(self, column: str) -> dict[str, str]:
        """The value of the columns that say something of one destination, by its name; what is empty left out."""
        found = {re.fullmatch(rf"{column} `(\S+)`( after)?", name): value for name, value in self.cells.items()}
        return {match[1]: value for match, value in found.items() if match and value != NOTHING}


@dataclass(frozen=True)
class Recipe:
    number: int
    title: str
    text: str
    rows: tuple[Row, ...]

    def write(self, folder: Path) -> Path:
        """Its routing.yaml, beside the files that it names."""
        for name in re.findall(r"[\w-]+\.(?:crt|key)\b", self.text):
            (folder / name).touch()
        file = folder / "routing.yaml"
        file.write_text(self.text)
        return file


def recipes(page: str) -> list[Recipe]:
    """Every recipe of the page."""
    parts = re.split(r"^## ([0-9]+)\. (.*)\n", page, flags=re.MULTILINE)[1:]
    return [_recipe(int(number), *rest) for number, *rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]


def _recipe(number: int, title: str, text: str) -> Recipe:
    (table,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    unknown = [head for head in heads if head not in ALWAYS and not any(re.fullmatch(one, head) for one in MAY_BE)]
    assert not unknown, f"recipe {number}: {unknown}"
    assert set(ALWAYS) <= set(heads), f"recipe {number}: {heads}"
    return Recipe(number, title, table, tuple(_row(dict(zip(heads, row, strict=True))) for row in rows))


def _row(cells: dict[str, str]) -> Row:
    sent, follows, one_of, refused = _goes_to(cells["Goes to"])
    study = cells.get("Study", "")
    return Row(
        cells["Image"], cells, dict(_pair(code) for code in codes(cells["Header"])), cells["Pixels"], study,
        _caller(cells.get("From", "`XRAY_1`")), _received(cells), _environment(cells.get("With", NOTHING)),
        cells["Rule"], sent, tuple(codes(cells.get("Result of", NOTHING))), follows, one_of, refused,
    )  # fmt: skip


def codes(cell: str) -> list[str]:
    """What stands in a cell as code. Nothing else may, but commas."""
    found = re.findall(r"`([^`]+)`", cell)
    assert cell in (NOTHING, ", ".join(f"`{one}`" for one in found)), f"not understood: {cell}"
    return found


def _pair(code: str) -> tuple[str, str]:
    name, colon, value = code.partition(": ")
    assert colon, f"not understood: {code}"
    return name, value


def _goes_to(cell: str) -> tuple[frozenset[str], frozenset[str], str, bool]:
    if cell in ("nowhere", "refused"):
        return frozenset(), frozenset(), "", cell == "refused"
    if match := re.fullmatch(r"one of (.*) by (study|instance)", cell):
        return frozenset(codes(match[1])), frozenset(), match[2], False
    sent, _, follows = cell.partition("; follows to ")
    return frozenset(codes(sent)), frozenset(codes(follows) if follows else ()), "", False


def _caller(cell: str) -> Caller:
    match = re.fullmatch(r"`(\w+)`(?: at ([0-9.]+))?(?: calls `(\w+)`)?", cell)
    assert match, f"not understood: {cell}"
    return Caller(match[1], match[3] or "ROUTER", match[2] or "127.0.0.1")


def _received(cells: Mapping[str, str]) -> datetime | None:
    for head, value in cells.items():
        if match := re.fullmatch(r"Received \((\S+)\)", head):
            return moment(value, ZoneInfo(match[1]))
    return None


def moment(written: str, zone: ZoneInfo) -> datetime:
    """`Tue 12:00`."""
    day, clock = written.split(" ")
    date = datetime.fromisoformat(f"{MONDAY} {clock}")
    return date.replace(day=date.day + DAYS.index(day), tzinfo=zone)


def _environment(cell: str) -> dict[str, str]:
    """`chest-ai: enabled: true` as the variable that overrides it."""
    found = {}
    for code in codes(cell):
        name, rest = _pair(code)
        key, value = _pair(rest)
        found[of_destination(name, key)] = value
    return found


def of_destination(name: str, key: str) -> str:
    """The environment variable that overrides a setting of a destination."""
    return f"{PREFIX}DESTINATIONS__{name.replace('-', '_').upper()}__{key.upper()}"


@cache
def card() -> Card:
    return Card.read(shipped_model())


def prediction(pixels: str) -> Prediction | None:
    """What the shipped model would make of these probabilities: its thresholds say which class and view it names."""
    if pixels in WITHOUT_PICTURE:
        return None
    classes: dict[str, float] = {}
    views: dict[str, float] = {}
    words = set()
    for part in pixels.split(", "):
        name, _, value = part.partition(" ")
        if name in CLASSES:
            classes[name] = float(value)
        elif name in VIEWS:
            views[name] = float(value)
        else:
            assert part in ("inverted", "novel"), f"not understood: {part}"
            words.add(part)
    model = card().calibration
    outputs = [
        *_outputs(CLASSES, classes, model.temperature), *_outputs(VIEWS, views, model.view_temperature), 0.0, 0.0
    ]  # fmt: skip
    novelty = 2.0 * model.novelty_limit if "novel" in words else 0.0
    turned = np.array(["inverted" in words])
    return model.predictions(np.array([outputs]), np.array([novelty]), card().digest, turned)[0]


def _outputs(names: tuple[str, ...], named: Mapping[str, float], temperature: float) -> list[float]:
    """Outputs of the network that become these probabilities. The rest is spread over the others."""
    left = 1.0 - sum(named.values())
    assert left > 0, f"more than certain: {named}"
    others = left / (len(names) - len(named))
    return [temperature * float(np.log(named.get(name, others))) for name in names]


def make(recipe: Recipe, row: Row, folder: Path) -> Path:
    """The image of a row, as a file: a DX, and what its header says besides."""
    place = recipe.rows.index(row)
    grey = np.random.default_rng(place).integers(0, 4096, (96, 80), np.uint16)
    path = wrap_image(grey, folder / f"{place}.dcm")
    data_set = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():  # a header says what it likes
        for keyword, value in row.header.items():
            setattr(data_set, keyword, value)
    if data_set.Modality in SOP_CLASSES:
        data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = SOP_CLASSES[data_set.Modality]
    if row.study:
        data_set.StudyInstanceUID = generate_uid(entropy_srcs=[recipe.title, row.study])
    if row.pixels == "no pixels":
        del data_set.PixelData
    elif row.pixels == "undecodable":
        data_set.PixelData = data_set.PixelData[:100]
    data_set.save_as(path)
    return path


def look(path: Path, row: Row, tags: frozenset[int]) -> Seen:
    """What inference finds in a file: all of it is real but what the network answers."""
    _, seen = render(path, card().size, tags)
    predicted = prediction(row.pixels)
    assert (seen.pixels == "decoded") == (predicted is not None), seen.reason
    return replace(seen, prediction=predicted)
