"""Rows as a CSV file for people: no text in it is taken for a formula by a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.cli.options import fail


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Write the rows, and say how many there are."""
    count = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:
                count += 1
                writer.writerow({name: _plain(row[name]) for name in columns})
    except OSError as error:
        fail(f"--csv {path}: {error.strerror}")
    print(json.dumps({"file": str(path), "rows": count}) if as_json else f"{count} rows in {path}")


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
