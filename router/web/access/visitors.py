"""Who asks: by a session, by a proxy's sign-on, or as the local account of a node without users."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from router.config.settings import WebSettings
from router.flow import Role
from router.observe import log
from router.spool import LOCAL, SpoolError, Users
from router.web.access.arrival import Arrival, RefusedError, inside
from router.web.access.people import Person
from router.web.access.sessions import SESSION, VISIT, csrf, kept_of, new_token, token_in

T = TypeVar("T")
LOCAL_MAY = frozenset((Role.VIEW, Role.OPERATE))
"""What the accounts of this machine may do on a node that listens on loopback and has no users. Pictures, rules and
users need a name in the record."""
THREADS = 4
"""That ask the database."""
SECONDS = 6.0
"""For one question, or the change that begins a session."""
TOLD_EVERY = 60.0
"""Seconds between two log lines about sign-ons that are ignored."""
IN_BACKGROUND = "x-background"
"""A request with this header was made by a timer, not by a person: it does not keep a session from ending."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person, if it is known, and the secret that ties forms to their browser. `token`: of their session."""

    person: Person | None
    secret: str
    token: str = ""
    by_sign_on: bool = False
    any_users: bool = True
    has_new_secret: bool = False

    @property
    def name(self) -> str:
        return self.person.name if self.person else ""

    @property
    def csrf(self) -> str:
        """What their forms carry."""
        return csrf(self.secret, self.name)


class Visitors:
    """Asks the database in threads of its own: health must be answered meanwhile."""

    def __init__(self, settings: WebSettings, users: Users) -> None:
        self._settings, self._users = settings, users
        self._threads = ThreadPoolExecutor(THREADS, "page")
        self._told = -TOLD_EVERY

    async def ask(self, question: Callable[[Users], T]) -> T:
        """Raises SpoolError, also where the database takes so long that the connection would end without an answer."""
        answer = asyncio.get_running_loop().run_in_executor(self._threads, question, self._users)
        try:
            return await asyncio.wait_for(answer, SECONDS)
        except TimeoutError as error:
            raise SpoolError(f"the database did not answer within {SECONDS:g} s") from error

    async def of(self, request: Request, arrival: Arrival) -> Visitor:
        """Raises RefusedError, SpoolError."""
        old = token_in(request, VISIT, secure=arrival.secure)
        secret = old or new_token()
        named = self._signed_on(request, arrival)
        if named is not None:
            person = named if named.roles else await self._user(named.name)
            return Visitor(person, secret, by_sign_on=True, has_new_secret=not old)
        token = token_in(request, SESSION, secure=arrival.secure)
        visit = await self.ask(lambda users: users.visit(kept_of(token)))
        if visit.user is not None:
            if visit.to_note and IN_BACKGROUND not in request.headers:
                self._users.note_use(kept_of(token))
            return Visitor(Person(visit.user.name, visit.user.roles), token, token=token)
        is_local = arrival.is_local and not visit.any_users and self._settings.tls is None
        local = Person(LOCAL, LOCAL_MAY) if is_local else None
        return Visitor(local, secret, any_users=visit.any_users, has_new_secret=not old)

    def _signed_on(self, request: Request, arrival: Arrival) -> Person | None:
        """Whom the proxy names; without roles if the table of users has them."""
        sign_on = self._settings.sign_on
        if sign_on is None:
            return None
        names = request.headers.getlist(sign_on.header)
        roles = request.headers.getlist(sign_on.roles_header) if sign_on.roles_header else []
        if not names and not roles:
            return None
        if not inside(arrival.peer, sign_on.addresses):
            now = time.monotonic()
            if now - self._told >= TOLD_EVERY:
                self._told = now
                log.warning("sign-on ignored", peer=arrival.peer)
            return None
        if len(names) != 1 or len(roles) > 1:
            raise RefusedError(403, "The proxy does not say plainly who asks.")
        name = names[0].strip()
        if not re.fullmatch(r"[!-~]{1,64}", name) or name.lower() == LOCAL:
            raise RefusedError(403, "The proxy names a person in a way that cannot be recorded.")
        if not sign_on.roles_header:
            return Person(name.lower(), frozenset())
        words = {word.strip().lower() for line in roles for word in line.split(",")}
        known = frozenset(role for role in Role if role in words)
        if not known:
            raise RefusedError(403, f"The sign-on gives {name} no role of this page: {', '.join(Role)}.")
        return Person(name, known)

    async def _user(self, name: str) -> Person:
        found = await self.ask(lambda users: users.named(name))
        if found is None:
            raise RefusedError(403, f"There is no user {name} here. An administrator can add one.")
        return Person(found.name, found.roles)
