"""Copies the rows of every table from one database to another, and compares them.

A page of rows and the note how far the copy has come are one commit. So a copy that was killed goes on where it was.
The digest of a table is the sum of the digests of its rows: it does not depend on the order in which they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from xxhash import xxh3_128_intdigest

from router.spool import copy_marks, patience
from router.spool.engine import begun
from router.spool.errors import OWN_FAULTS, SpoolError, describe
from router.spool.node_rows import node
from router.spool.schema import delivery, event, identity, instance, metadata, owner
from router.spool.schema_version import compatibility

PAGE = 5000
"""Rows that are copied with one commit."""
MODULO = 1 << 128
STAYS = frozenset((copy_marks.spool_copy, compatibility, identity, node))
"""Tables that say something about one database alone."""

Tell = Callable[[str, int], None]
"""Called with the table and the number of rows after each page."""


@dataclass(frozen=True, slots=True)
class TableCopy:
    """How far a table is copied, and what its rows add up to. `after`: the key of the last row."""

    rows: int = 0
    digest: str = f"{0:032x}"
    after: Sequence[Any] | None = None

    def plus(self, table: sa.Table, rows: Sequence[sa.Row[Any]]) -> TableCopy:
        total = (int(self.digest, 16) + sum(map(_digest, rows))) % MODULO
        last = rows[-1]._mapping
        return TableCopy(self.rows + len(rows), f"{total:032x}", [last[key] for key in table.primary_key.columns])

    @property
    def sum(self) -> tuple[int, str]:
        return self.rows, self.digest


def tables() -> list[sa.Table]:
    """All that are copied; a table comes behind those that it refers to."""
    return [table for table in metadata.sorted_tables if table not in STAYS]


def stamp(connection: sa.Connection) -> str:
    """Changes when a node has worked on the database: each start has a number, each event, delivery and instance."""
    keys = (owner.c.start, event.c.id, delivery.c.id, instance.c.id)
    return "/".join(str(connection.execute(sa.select(sa.func.max(key))).scalar() or 0)[:16] for key in keys)


def starts(connection: sa.Connection) -> str:
    """The part of the stamp that counts starts."""
    return stamp(connection).partition("/")[0]


def is_empty(connection: sa.Connection) -> bool:
    """Whether no node has worked on it. The migrations put a row into some tables."""
    return connection.execute(sa.select(owner.c.start).limit(1)).first() is None


def count(one: sa.Engine) -> int:
    """All rows that there are to copy."""
    with patience.within(patience.MIGRATION), begun(one) as connection:
        queries = [sa.select(sa.func.count()).select_from(table) for table in tables()]
        return sum(connection.execute(query).scalar_one() for query in queries)


def empty(connection: sa.Connection) -> None:
    """Remove all rows: those that the migrations made, and those of a copy that must begin again."""
    for table in reversed(tables()):
        connection.execute(table.delete())


def copy_rows(source: sa.Engine, target: sa.Engine, tell: Tell) -> dict[str, TableCopy]:
    """Copy what is not copied yet. Returns what the rows of each table add up to. Raises SpoolError."""
    with begun(target) as connection:
        mark = copy_marks.read(connection)
    known: dict[str, Any] = json.loads(mark.progress) if mark and mark.progress else {}
    done = {name: TableCopy(**values) for name, values in known.items()}
    for table in tables():
        so_far = done.get(table.name, TableCopy())
        tell(table.name, so_far.rows)
        for rows in pages(source, table, so_far.after):
            so_far = done[table.name] = so_far.plus(table, rows)
            progress = json.dumps({name: asdict(one) for name, one in done.items()})
            with begun(target) as connection:
                _insert(connection, table, rows)
                copy_marks.set_progress(connection, progress)
            tell(table.name, len(rows))
    return {table.name: done.get(table.name, TableCopy()) for table in tables()}


def summed(one: sa.Engine, tell: Tell) -> dict[str, TableCopy]:
    """What the rows of each table add up to."""
    found = {}
    for table in tables():
        total = TableCopy()
        for rows in pages(one, table, None):
            total = total.plus(table, rows)
            tell(table.name, len(rows))
        found[table.name] = total
    return found


def pages(one: sa.Engine, table: sa.Table, after: Sequence[Any] | None) -> Iterator[Sequence[sa.Row[Any]]]:
    """The rows of a table in the order of its key, those after one key."""
    keys = list(table.primary_key.columns)
    query = sa.select(*table.columns).order_by(*keys).limit(PAGE)
    while True:
        page = query if after is None else query.where(sa.tuple_(*keys) > sa.tuple_(*after))
        with begun(one) as connection:
            rows = connection.execute(page).all()
        if not rows:
            return
        yield rows
        after = [rows[-1]._mapping[key] for key in keys]


def set_sequences(connection: sa.Connection, at_least: dict[str, int]) -> None:
    """Let the numbers go on behind those that were given out (PostgreSQL)."""
    for table in tables():
        (key, *_) = table.primary_key.columns
        name = connection.execute(_SEQUENCE, {"table": table.name, "column": key.name}).scalar()
        if name is not None:
            last = connection.execute(sa.select(sa.func.max(key))).scalar() or 0
            value = max(last, at_least.get(table.name, 0))
            connection.execute(_SET, {"name": name, "value": max(value, 1), "used": value > 0})


def last_numbers(connection: sa.Connection) -> dict[str, int]:
    """The last number that each sequence gave out (PostgreSQL)."""
    found = {}
    for table in tables():
        (key, *_) = table.primary_key.columns
        name = connection.execute(_SEQUENCE, {"table": table.name, "column": key.name}).scalar()
        if name is not None:
            found[table.name] = connection.execute(_LAST, {"name": name}).scalar() or 0
    return found


_SEQUENCE = sa.text("SELECT pg_get_serial_sequence(:table, :column)")
_SET = sa.text("SELECT setval(CAST(:name AS regclass), :value, :used)")
_LAST = sa.text("SELECT pg_sequence_last_value(CAST(:name AS regclass))")


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[sa.Row[Any]]) -> None:
    try:
        _put(connection, table, rows)
    except (*OWN_FAULTS, ValueError) as error:
        raise SpoolError(
            f"{table.name}: one of {len(rows)} rows, the last with the key {tuple(rows[-1])[:1]}, cannot be copied "
            f"({describe(error)}); the old database is as it was, and goes on"
        ) from None


def _put(connection: sa.Connection, table: sa.Table, rows: Sequence[sa.Row[Any]]) -> None:
    if connection.dialect.name == "sqlite":
        names = [column.name for column in table.columns]
        connection.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])
        return
    from psycopg import DataError, sql

    driver: Any = connection.connection.driver_connection
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except DataError as error:
        raise ValueError(describe(error)) from None


def _digest(row: sa.Row[Any]) -> int:
    # SQLite has no -0.0; to add 0.0 makes it 0.0.
    return xxh3_128_intdigest(json.dumps([value + 0.0 if type(value) is float else value for value in row]))
