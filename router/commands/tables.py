"""The rows of a journal as CSV and as Parquet. Each is written beside its place, and moved there when it is whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

ROW_GROUP = 16384
"""Rows of a Parquet file that are in memory together."""

Columns = Mapping[str, type]
"""The type of each column: str, float, bool, or list for several strings."""


def write_csv(path: Path, columns: Columns, rows: Iterable[Mapping[str, Any]]) -> None:
    """A list is one cell, with spaces between its values."""
    with _whole(path) as part, part.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, fieldnames=list(columns))
        writer.writeheader()
        for row in rows:
            values = {name: row.get(name) for name in columns}
            writer.writerow({n: " ".join(v) if isinstance(v, list) else _text(v) for n, v in values.items()})


def write_parquet(path: Path, columns: Columns, rows: Iterable[Mapping[str, Any]]) -> None:
    """A list is a list of strings. Needs pyarrow."""
    import pyarrow
    import pyarrow.parquet

    types = {
        str: pyarrow.string(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        list: pyarrow.list_(pyarrow.string()),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    following = iter(rows)
    with _whole(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        while some := list(islice(following, ROW_GROUP)):
            cells = {name: [_text(row.get(name)) for row in some] for name in columns}
            writer.write_table(pyarrow.table(cells, schema=schema))


def _text(value: Any) -> Any:
    """Both files are UTF-8. A name that is not gets the marks that it has in JSON."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is written there takes its place if nothing fails."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
