"""Users of the page and their sessions. They are in the database, so that several nodes share them.

Of a password only its Argon2 hash is kept, and of a session's token only its SHA-256: who reads the database can log in
as no one. What a user may do is read at each request, so a change is in force at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from router.flow import Role
from router.spool import clock
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.events import add_event
from router.spool.schema import event, metadata

IDLE = 3600.0
"""Seconds without a request after which a session ends."""
LONGEST = 12 * 3600.0
"""Seconds after which a session ends in any case."""
NOTED_EVERY = 60.0
"""Seconds. The use of a session is written down no more often."""
LOGGED_IN = "logged in"
"""The kind of the event."""
MOST_LOGINS = 1000
"""That are remembered."""
MOST_SESSIONS = 16
"""Of one user. The oldest ends where one more begins."""
MOST_USERS = 1000
LOCAL = "local"
"""Stands in the record for whoever uses the page of a node without users; no user has this name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")

user = sa.Table(
    "web_user",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("roles", sa.String, nullable=False),
    sa.Column("password", sa.String),
    sa.Column("changed_at", sa.Double, nullable=False),
)
"""`roles` are words with commas between them. Without a `password` (its hash) only a sign-on of the proxy is good."""

session = sa.Table(
    "web_session",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(64), sa.ForeignKey("web_user.name"), nullable=False),
    sa.Column("began_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double, nullable=False),
    sa.Index("web_session_user", "user", "began_at"),
    sa.Index("web_session_used", "used_at"),
)
"""`token` is the SHA-256 of what the browser has, in hex."""


class UserError(SpoolError):
    """A change of users cannot be made as it was asked for."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user. `changed_at`: Unix time in seconds of the last change of password or roles."""

    name: str
    roles: frozenset[Role]
    has_password: bool
    changed_at: float


@dataclass(frozen=True, slots=True)
class Visit:
    """What the database knows of a request: whose session it is, if it is one, and whether there are users at all."""

    user: UserRow | None
    any_users: bool
    to_note: bool = False
    """The use of the session was last written down a while ago."""


def user_name(text: str) -> str:
    """The name as it is kept. Raises UserError: what is not a name."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise UserError(
            "this is not a user's name: write 1 to 64 letters, digits and . _ @ + -, beginning with a letter or digit, "
            f"and not '{LOCAL}'"
        )
    return name


class Users:
    """`who` is the person who orders a change. All of it raises SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- what a person orders --------------------------------------------------------------------------------------

    def all(self) -> list[UserRow]:
        query = sa.select(user).order_by(user.c.name)
        return self._database.ask(lambda c: [_row(row) for row in c.execute(query)])

    def add(self, name: str, password: str | None, roles: Collection[Role], who: str) -> None:
        """`password` is its hash; None for a user that only the proxy's sign-on may name."""
        name = user_name(name)

        def job(connection: sa.Connection) -> None:
            if _find(connection, name) is not None:
                raise UserError(f"there is a user {name} already")
            if connection.execute(sa.select(sa.func.count()).select_from(user)).scalar_one() >= MOST_USERS:
                raise UserError(f"there are {MOST_USERS} users already; remove one")
            now = clock.now(connection)
            connection.execute(user.insert().values(name=name, roles=_words(roles), password=password, changed_at=now))
            add_event(connection, "user added", user=name, roles=_words(roles), who=who)

        self._database.run(job)

    def remove(self, name: str, who: str) -> None:
        """The user's sessions end with it."""

        def job(connection: sa.Connection) -> None:
            known = _known(connection, name)
            connection.execute(session.delete().where(session.c.user == known))
            connection.execute(user.delete().where(user.c.name == known))
            add_event(connection, "user removed", user=known, who=who)

        self._database.run(job)

    def set_password(self, name: str, password: str, who: str) -> None:
        """`password` is its hash. The user's sessions end."""

        def job(connection: sa.Connection) -> None:
            known = _known(connection, name)
            connection.execute(session.delete().where(session.c.user == known))
            _change(connection, known, password=password)
            add_event(connection, "password changed", user=known, who=who)

        self._database.run(job)

    def set_roles(self, name: str, roles: Collection[Role], who: str) -> None:
        def job(connection: sa.Connection) -> None:
            known = _known(connection, name)
            _change(connection, known, roles=_words(roles))
            add_event(connection, "roles changed", user=known, roles=_words(roles), who=who)

        self._database.run(job)

    # -- what the page asks ----------------------------------------------------------------------------------------

    def visit(self, token: str = "") -> Visit:
        """Whose session a token is, by its hash. One that has been idle too long or lasted too long is no session."""

        def question(connection: sa.Connection) -> Visit:
            now = clock.now(connection)
            good = (session.c.token == token, session.c.used_at > now - IDLE, session.c.began_at > now - LONGEST)
            found = connection.execute(
                sa.select(user, session.c.used_at).join(session, session.c.user == user.c.name).where(*good)
            ).one_or_none()  # fmt: skip
            if found is not None:
                return Visit(_row(found), True, to_note=found.used_at < now - NOTED_EVERY)
            return Visit(None, connection.execute(sa.select(user.c.name).limit(1)).first() is not None)

        return self._database.ask(question)

    def named(self, name: str) -> UserRow | None:
        row = self._database.ask(lambda c: _find(c, name))
        return None if row is None else _row(row)

    def password_of(self, name: str) -> str | None:
        """The hash of a user's password; None if there is no such user, or it has none."""
        row = self._database.ask(lambda c: _find(c, name))
        return None if row is None else row.password

    def begin_session(self, token: str, name: str, password: str, ends: str = "", peer: str = "") -> bool:
        """Begin a session by the hash of its token, and end the session `ends`.

        False if the user is gone, or its password's hash is no longer the one that was checked.
        """

        def job(connection: sa.Connection) -> bool:
            row = _find(connection, name)
            if row is None or row.password != password:
                return False
            now = clock.now(connection)
            over = sa.or_(
                session.c.used_at <= now - IDLE, session.c.began_at <= now - LONGEST, session.c.token == ends
            )  # fmt: skip
            connection.execute(session.delete().where(over))
            newest = sa.select(session.c.token).where(session.c.user == name).order_by(session.c.began_at.desc())
            kept = connection.execute(newest.limit(MOST_SESSIONS - 1)).scalars().all()
            connection.execute(session.delete().where(session.c.user == name, session.c.token.not_in(kept)))
            connection.execute(session.insert().values(token=token, user=name, began_at=now, used_at=now))
            add_event(connection, LOGGED_IN, user=name, peer=peer)
            return True

        return self._database.run(job)

    def logins(self) -> list[tuple[str, str]]:
        """Name and address of the latest MOST_LOGINS logins, the earliest first."""
        query = (
            sa.select(event.c.detail).where(event.c.kind == LOGGED_IN).order_by(event.c.id.desc()).limit(MOST_LOGINS)
        )
        rows = self._database.ask(lambda c: c.execute(query).scalars().all())
        found = [json.loads(detail) for detail in reversed(rows)]
        return [(str(one.get("user", "")), str(one.get("peer", ""))) for one in found]

    def note_use(self, token: str) -> None:
        """Write down that a session is in use. Nobody waits for it."""

        def job(connection: sa.Connection) -> None:
            now = clock.now(connection)
            connection.execute(session.update().where(session.c.token == token).values(used_at=now))

        self._database.writer.submit(job)

    def end_session(self, token: str) -> None:
        def job(connection: sa.Connection) -> None:
            name = connection.execute(sa.select(session.c.user).where(session.c.token == token)).scalar_one_or_none()
            if name is not None:
                connection.execute(session.delete().where(session.c.token == token))
                add_event(connection, "logged out", user=name)

        self._database.run(job)


def _find(connection: sa.Connection, name: str) -> sa.Row[tuple[object, ...]] | None:
    if not _NAME.fullmatch(name):
        return None
    return connection.execute(sa.select(user).where(user.c.name == name)).one_or_none()


def _known(connection: sa.Connection, name: str) -> str:
    known = user_name(name)
    if _find(connection, known) is None:
        raise UserError(f"there is no user {known}")
    return known


def _change(connection: sa.Connection, name: str, **values: str) -> None:
    now = clock.now(connection)
    connection.execute(user.update().where(user.c.name == name).values(changed_at=now, **values))


def _words(roles: Collection[Role]) -> str:
    return ",".join(role for role in Role if role in roles)


def _row(row: sa.Row[tuple[object, ...]]) -> UserRow:
    known = frozenset(role for role in Role if role in row.roles.split(","))
    return UserRow(row.name, known, row.password is not None, row.changed_at)
