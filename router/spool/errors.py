"""The spool's errors: one line with the fix, and the kind of failure."""

from __future__ import annotations

import errno
import sqlite3
import sys

import sqlalchemy as sa

from router.config.values import hidden_password
from router.errors import RouterError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""The errno of a full disk. Work must wait for room then, and no instance is at fault."""
OWN_FAULTS = (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError)
"""Results with which a sound database refuses one statement."""
PRIMARY = 0xFF
"""The bits of SQLite's result codes that say the kind of failure."""


class SpoolError(RouterError):
    """The spool could not do something. The message is one line for a person.

    `may_come_back`: a crash can bring the change back, since SQLite's log may have all of it.
    """

    def __init__(self, message: str, *, may_come_back: bool = False) -> None:
        super().__init__(message)
        self.may_come_back = may_come_back


class DatabaseError(SpoolError):
    """The database did not answer in time, or is full or damaged. It may recover."""


class DatabaseSettingError(DatabaseError):
    """The server answers, and says that spool.database is wrong: no wait mends it."""

    exit_code = 2


class ForeignDatabaseError(SpoolError):
    """The database holds the tables of something else."""

    exit_code = 2


class RefusedError(SpoolError):
    """The database is well and refused this one change or question."""


class UncertainCommitError(DatabaseError):
    """PostgreSQL did not answer a COMMIT. The change has happened, may still happen, or never will.

    `transaction` is its number on the server, which can be asked later.
    """

    def __init__(self, message: str, transaction: int) -> None:
        super().__init__(message)
        self.transaction = transaction


def is_own_fault(error: BaseException) -> bool:
    """Whether only this statement failed, and the database is well."""
    is_value = isinstance(error, sa.exc.StatementError) and not isinstance(error, sa.exc.DBAPIError)
    return is_value or isinstance(error, OWN_FAULTS)


def is_of_database(error: BaseException) -> bool:
    """Whether SQLAlchemy or a database driver raised it."""
    psycopg = sys.modules.get("psycopg")
    return isinstance(error, sa.exc.SQLAlchemyError | sqlite3.Error) or (
        psycopg is not None and isinstance(error, psycopg.Error)
    )


def refusal(error: BaseException, database: str) -> SpoolError:
    """The error for a failed change. It has no cause: a traceback would show received values."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & PRIMARY
    fix = "; free some space there, and raise spool.reserve" if code == sqlite3.SQLITE_FULL else ""
    kind = RefusedError if is_own_fault(error) else DatabaseError
    return kind(
        f"the spool's database did not take the change: {hidden_password(describe(error), database)}{fix}",
        # Both may come after the commit was written: if the log's sync fails, or if its index finds no memory.
        may_come_back=code == sqlite3.SQLITE_IOERR or isinstance(error, MemoryError),
    )


def describe(error: BaseException) -> str:
    """The driver's own words, without SQLAlchemy's statement and parameters (these contain received values)."""
    original = getattr(error, "orig", None) or error
    return f"{type(original).__name__}: {original}".splitlines()[0][:200]


def first_sentence(found: str) -> str:
    """The first telling line of SQLite's `quick_check`, without the headline in stars above it."""
    lines = [line for line in found.splitlines() if not line.startswith("***")] or [found]
    return lines[0][:200]
