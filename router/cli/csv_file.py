"""The CSV of `dicom-router classify`: one row for each file, and beside it a note of what made the rows.

An interrupted run goes on where it stopped, but only with the same rules, model and options. Otherwise rows of two runs
would look like one answer.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.config import Settings
    from router.config.settings import ModelSettings

Run = Mapping[str, str]
"""What made the rows, each part under a name for people: program, model, rules, options."""


class CsvFile:
    """A CSV that a run continues; `refusal` says why it may not."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path, self._run = path, run
        self._note = path.with_name(path.name + ".run.json")

    def refusal(self, *, restart: bool = False) -> str:
        """Empty if there are no rows yet, or a run like this one made all of them."""
        if self._path.exists() and not self._path.is_file():
            return f"{self._path} is not a regular file; name another, or use --json for a pipe"
        if restart or not self._has_rows():
            return ""
        fix = "use --restart to delete its rows and start again, or name another file"
        try:
            before = dict(json.loads(self._note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return f"{self._path} exists, but without {self._note.name}, which says what made it ({fix})"
        names = sorted(name for name in {*before, *self._run} if before.get(name) != self._run.get(name))
        if not names:
            return ""
        pairs = ((name, before.get(name, "none"), self._run.get(name, "none")) for name in names)
        differ = "; ".join(f"{name} was {old}, now {new}" for name, old, new in pairs)
        return f"{self._path} was made by another run: {differ} ({fix})"

    def begin(self, *, restart: bool) -> dict[str, bool]:
        """The files that have a row, and whether the row says that they could not be read."""
        if restart or not self._has_rows():
            self._path.write_bytes(b"")
        self._note.write_text(json.dumps(dict(self._run), indent=1) + "\n", encoding="utf-8")
        content = self._path.read_bytes()
        if not content.endswith(b"\n"):  # a crash left half of a row: its file is looked at again
            os.truncate(self._path, content.rfind(b"\n") + 1)
        with self._path.open(newline="", encoding="utf-8") as lines:
            return {
                row["path"]: bool(row.get("error")) and not (row.get("top") or row.get("rule"))
                for row in csv.DictReader(lines) if row.get("path")
            }  # fmt: skip

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append each row as it comes."""
        from router.flow import CLASSES

        with self._path.open("a", newline="", encoding="utf-8") as out:
            writer: csv.DictWriter[str] | None = None
            for row in rows:
                left_out = ("probabilities", "destinations", "follows")
                flat = {name: value for name, value in row.items() if name not in left_out}
                flat["destinations"] = " ".join(row["destinations"])
                if writer is None:
                    writer = csv.DictWriter(out, fieldnames=[*flat, *(f"p_{name}" for name in CLASSES)])
                    if not self._has_rows():
                        writer.writeheader()
                writer.writerow(flat | {f"p_{name}": p for name, p in (row["probabilities"] or {}).items()})
                out.flush()

    def _has_rows(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > 0


def run_of(settings: Settings | None, model: ModelSettings, **options: object) -> dict[str, str]:
    """What the answers depend on. Raises OSError where the model has no card."""
    from importlib.metadata import version

    from router.model.files import shipped_model

    card = ((model.path or shipped_model()) / "card.json").read_bytes()
    run = {
        "program": version("dicom-router"),
        # The card holds the digest of the weights, and the calibration on which the class depends as well.
        "model": hashlib.sha256(card).hexdigest()[:16],
        "model.device": model.device,
        "model.engine": model.engine,
    }
    if settings is not None:
        table = (settings.rules, sorted(settings.enabled), settings.node.dry_run, settings.node.ae_title)
        run["rules"] = hashlib.sha256(json.dumps(plain(table)).encode()).hexdigest()[:16]
    return run | {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}


def plain(value: Any) -> Any:
    """Frozen settings as JSON, the same in every process: a set has no order of its own."""
    if is_dataclass(value):
        return [type(value).__name__, *(plain(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, frozenset | set):
        return sorted((plain(one) for one in value), key=json.dumps)
    if isinstance(value, tuple | list | Iterator):
        return [plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
