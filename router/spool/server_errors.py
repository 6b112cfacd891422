"""What a PostgreSQL server's refusals mean, and what to do about each.

The driver gives no code for a connection that was refused, only the server's words. A server that speaks another
language is told of in its own words.
"""

from __future__ import annotations

import re

from router.config.values import hidden_password
from router.spool.errors import DatabaseError, DatabaseSettingError, describe

READ_ONLY = "25006"
"""SQLSTATE of a change on a server that takes none: a standby, or one that was demoted."""
NO_PERMISSION = "42501"
WRONG_SETTING = (
    (r"password authentication failed|no password supplied", "user or password in spool.database is wrong"),
    (r'role "[^"]*" does not exist', "there is no such user; run: createuser --pwprompt NAME"),
)
"""What a person must change before anything works."""
TROUBLES = (
    (r'database "[^"]*" does not exist', "there is no such database; run: createdb --owner=USER NAME"),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", "the server lets this machine not in; add it to pg_hba.conf there"),
    (r"too many (clients|connections)|remaining connection slots",
     "the server has no connection left; raise max_connections there (docs/operations.md says how many a node needs)"),
    (r"read-only|hot standby mode",
     "this server takes no changes; if another has taken its place, name them all in spool.database: "
     "?host=FIRST,SECOND"),
    (r"starting up|shutting down|not yet accepting", "it starts or stops; wait, or look at the server's log"),
)  # fmt: skip
"""What may mend itself, or be mended at the server."""


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE of the server's answer, if it has given one."""
    found = getattr(getattr(error, "orig", error), "sqlstate", None)
    return None if found is None else str(found)


def trouble(database: str, error: BaseException) -> DatabaseError:
    """What to do about a server that does not answer, or refuses, without the password."""
    said = hidden_password(describe(error), database)
    if code_of(error) == NO_PERMISSION:
        return DatabaseError(
            f"the spool's database refuses ({said}); its user must own the database, or run in it: "
            "GRANT CREATE, USAGE ON SCHEMA public TO USER"
        )
    words = str(getattr(error, "orig", None) or error)
    for pattern, fix in WRONG_SETTING:
        if re.search(pattern, words):
            return DatabaseSettingError(f"the spool's database does not let the node in ({said}): {fix}")
    fix = next((fix for pattern, fix in TROUBLES if re.search(pattern, words)), "")
    return DatabaseError(
        f"the spool's database does not answer ({said}); {fix or 'check that the server runs, and spool.database'}"
    )
