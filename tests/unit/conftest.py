"""What several tests of the spool start from: one on SQLite. A module with other settings has its own `settings`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.spool import Spool, engine, open_spool
from tests.unit.spooling import settings_of


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return settings_of(tmp_path / "spool")


@pytest.fixture
def spool(settings: SpoolSettings) -> Iterator[Spool]:
    opened = open_spool(settings)
    yield opened
    opened.close()


@pytest.fixture(scope="session", autouse=True)
def _tables_made_as_before() -> Iterator[None]:
    """The first empty database of each kind is made by the migrations; later ones by repeating their statements.

    That takes a tenth of the time. The real `migrate` still looks at each database.
    """
    migrate = engine.migrate
    known: dict[str, list[tuple[str, Any]]] = {}

    def quicker(write: sa.Engine, *, may_be_new: bool) -> None:
        kind = write.dialect.name
        if may_be_new and _is_empty(write):
            if kind in known:
                with suppress(sa.exc.SQLAlchemyError), write.begin() as connection:  # `migrate` says why
                    for statement, parameters in known[kind]:
                        connection.exec_driver_sql(statement, parameters)
            else:
                known[kind] = _changes(write, lambda: migrate(write, may_be_new=True))
        migrate(write, may_be_new=may_be_new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "migrate", quicker)
        yield


def _is_empty(write: sa.Engine) -> bool:
    """False as well where the database cannot be read: `migrate` says why."""
    try:
        with write.connect() as connection:
            return not sa.inspect(connection).get_table_names()
    except Exception:
        return False


def _changes(write: sa.Engine, make: Callable[[], None]) -> list[tuple[str, Any]]:
    """The statements other than questions that `make` executes, with their parameters."""
    done: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.split()[0] in ("CREATE", "INSERT", "UPDATE", "ALTER", "DROP"):
            done.append((statement, parameters))

    sa.event.listen(write, "before_cursor_execute", note)
    make()
    sa.event.remove(write, "before_cursor_execute", note)
    return done
