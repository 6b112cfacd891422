"""What `classify` and `send` share over an archive of any size: a journal, tables made from it, counts at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import printable, wrong
from router.cli.progress import Progress, shown

if TYPE_CHECKING:
    from router.commands.journal import Journal
    from router.commands.tables import Columns
    from router.commands.walking import Found

KINDS = 20
"""Kinds of errors that are listed; files decide how many there are."""

Resume = Annotated[
    Path | None,
    typer.Option(
        help="Note what became of each file in this journal. The same command continues an interrupted run. Default: "
        "beside the file of --csv or --parquet.",
        show_default=False,
    ),
]
Csv = Annotated[Path | None, typer.Option("--csv", help="At the end, write all rows of the journal to this CSV file.")]
Parquet = Annotated[
    Path | None, typer.Option(help="At the end, write all rows of the journal to this Parquet file (needs pyarrow).")
]
Restart = Annotated[bool, typer.Option("--restart", help="Delete the rows of the journal and start again.")]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the rows go."""

    resume: Path | None
    csv: Path | None
    parquet: Path | None

    def check(self, *, restart: bool) -> None:
        """End the command before it does anything, if its end could not be written."""
        if restart and not self.journal:
            wrong("--restart needs --resume, --csv or --parquet")
        if self.parquet:
            from importlib.util import find_spec

            if find_spec("pyarrow") is None:
                wrong("--parquet needs pyarrow: pip install pyarrow")
        for path in self.tables:
            if path.exists() and not path.is_file():
                wrong(f"{path} is not a regular file; name another, or use --json for a pipe")
            if not os.access(path.parent, os.W_OK | os.X_OK):
                wrong(f"{path}: its folder is not there, or may not be written to")
            if not restart and self.journal and not self.journal.exists() and path.exists() and path.stat().st_size:
                wrong(
                    f"{path} exists, but without {self.journal}, which says what made it "
                    "(use --restart to start again, or name another file)"
                )

    @property
    def tables(self) -> list[Path]:
        return [path for path in (self.csv, self.parquet) if path]

    @property
    def journal(self) -> Path | None:
        if self.resume or not self.tables:
            return self.resume
        return self.tables[0].with_name(self.tables[0].name + ".journal")

    def write(self, journal: Journal, columns: Columns) -> None:
        from router.commands.tables import write_csv, write_parquet

        if self.csv:
            write_csv(self.csv, columns, journal.rows())
        if self.parquet:
            write_parquet(self.parquet, columns, journal.rows())


class Account:
    """What this run did, and what it left out."""

    def __init__(self, paths: Sequence[Path], journal: Journal | None) -> None:
        self.left_out: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.progress = Progress(paths)
        self.journal = journal
        self._paths = paths

    def todo(self, *, whole: bool = False) -> Iterator[Found]:
        """The files below the paths, without those that the journal has.

        `whole`: the rules keep studies together. A file that is looked at now may lead one with a row, or follow it;
        and rows do not say their study.
        """
        from router.commands.walking import walk

        goes_on = whole and self.journal is not None and any(True for _ in self.journal.rows())

        for found in walk(self._paths, self.left_out):
            failed = self.journal.failed(found.path) if self.journal and not found.error else None
            if failed is None and goes_on:
                wrong(
                    "an interrupted run cannot be continued, because these rules keep studies together: add --restart"
                )
            if failed is None:
                yield found
            else:
                self.progress.skip(failed=failed)
                self.errors["noted by an earlier run"] += failed

    def add(self, path: Path, row: Mapping[str, Any], error: str, *, done: bool) -> None:
        """Note one file. `error` is empty unless it failed."""
        if error:
            self.errors[error if error in self.errors or len(self.errors) < KINDS else "other errors"] += 1
        if self.journal:
            self.journal.note(path, row, done=done, failed=bool(error))
        self.progress.advance(failed=bool(error))

    def tell(self) -> None:
        """The counts, on standard error and without names."""
        for intro, kinds in (("failed", self.errors), ("left out", self.left_out)):
            for kind, count in (+kinds).most_common():
                typer.echo(f"{intro}: {count:,} {printable(kind)}", err=True)


@contextmanager
def account(
    paths: Sequence[Path], outputs: Outputs, columns: Columns, run: Callable[[], Mapping[str, str]], *, restart: bool
) -> Iterator[Account]:
    """An account of a run. At its end, be it an error or Ctrl-C, the tables are written and the counts told."""
    from router.commands.journal import open_journal

    outputs.check(restart=restart)
    journal = open_journal(outputs.journal, run(), restart=restart) if outputs.journal else None
    counts = Account(paths, journal)
    try:
        try:
            with shown(counts.progress):
                yield counts
        finally:
            if journal:
                outputs.write(journal, columns)
            counts.tell()
    finally:
        if journal:
            journal.close()
