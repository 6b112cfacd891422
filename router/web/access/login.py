"""To log in by name and password, and to log out."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp

from router.observe import log
from router.spool import LOCAL, Spool
from router.web.access import pages
from router.web.access.arrival import Arrival, RefusedError
from router.web.access.limits import WINDOW, Tries
from router.web.access.passwords import LONGEST, matches
from router.web.access.sessions import SESSION, cookie, kept_of, new_token
from router.web.access.visitors import Visitor, Visitors
from router.web.access.wire import with_cookie

HASHING = 2
"""Threads that hash passwords: 64 MiB and a tenth of a second of a core each."""
MOST_WAITING = 16
"""Passwords that wait to be hashed. One more is refused for now."""
MOST_FAILURES = 100
"""Failed logins that are recorded in `limits.WINDOW` seconds."""
RECALL_EVERY = 60.0
"""Seconds between two looks for earlier logins, which only a refused try needs."""
ONWARD = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this site; not `//host`, nor what a browser takes for that."""


class Login:
    """The pages `/login` and `/logout`."""

    def __init__(self, spool: Spool, visitors: Visitors, tries: Tries) -> None:
        self._spool, self._visitors, self._tries = spool, visitors, tries
        self._threads = ThreadPoolExecutor(HASHING, "password")
        self._threads.submit(matches, "", None)  # so that the first unknown name takes no longer than a known one
        self._hashes = 0
        self._recalled_at = -RECALL_EVERY
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)

    async def login(
        self, visitor: Visitor, request: Request, arrival: Arrival, form: Mapping[str, Sequence[str]]
    ) -> ASGIApp:
        """Raises RefusedError, SpoolError."""
        onward = form.get("next", [request.query_params.get("next", "/")])[-1]
        if not ONWARD.fullmatch(onward) or onward.split("?")[0] in ("/login", "/logout"):
            onward = "/"
        is_post = request.method == "POST"
        if visitor.by_sign_on or visitor.name == LOCAL or (visitor.person and not is_post):
            return RedirectResponse(onward, 303)
        if not is_post:
            return pages.login_page(visitor.csrf, onward)
        name, password = form.get("name", [""])[-1].strip().lower()[:64], form.get("password", [""])[-1]
        wait = self._tries.wait(name, arrival.client)
        if wait > 0 and await self._recalled():
            wait = self._tries.wait(name, arrival.client)
        if wait > 0:
            why = f"Too many tries. Wait {max(1, round(wait / 60))} min."
            return pages.login_page(visitor.csrf, onward, why, 429, {"Retry-After": str(int(wait) + 1)})
        token = await self._session(name, password, visitor, arrival)
        if token is None:
            return pages.login_page(visitor.csrf, onward, "Name or password is wrong.", 401)
        self._tries.forgive(name, arrival.client)
        self._tries.remember(name, arrival.client)
        log.info("logged in", user=name, peer=arrival.client)
        return with_cookie(RedirectResponse(onward, 303), cookie(SESSION, token, secure=arrival.secure))

    async def _recalled(self) -> bool:
        """Learn of logins before the last restart, and on other nodes; False if it was done just now.

        Raises SpoolError.
        """
        now = time.monotonic()
        if now - self._recalled_at < RECALL_EVERY:
            return False
        self._recalled_at = now
        for name, address in await self._visitors.ask(lambda users: users.logins()):
            self._tries.remember(name, address)
        return True

    async def logout(self, visitor: Visitor, request: Request, arrival: Arrival) -> ASGIApp:
        """Raises SpoolError."""
        if request.method != "POST" or not visitor.token:
            return pages.logout_page(visitor.csrf, visitor.name, has_session=bool(visitor.token))
        await self._visitors.ask(lambda users: users.end_session(kept_of(visitor.token)))
        log.info("logged out", user=visitor.name, peer=arrival.client)
        return with_cookie(RedirectResponse("/login", 303), cookie(SESSION, "", secure=arrival.secure))

    async def _session(self, name: str, password: str, visitor: Visitor, arrival: Arrival) -> str | None:
        """The token of a new session; None if the name or the password is wrong. An old session ends."""
        ask = self._visitors.ask
        kept = await ask(lambda users: users.password_of(name))
        is_right = await self._matches(password, kept)
        token, old = new_token(), kept_of(visitor.token)
        if is_right and kept is not None:
            is_right = await ask(lambda users: users.begin_session(kept_of(token), name, kept, old, arrival.client))
        if is_right:
            return token
        known = await ask(lambda users: users.named(name))
        self._note_failure(known.name if known else "", arrival.client)
        return None

    async def _matches(self, password: str, kept: str | None) -> bool:
        if self._hashes >= MOST_WAITING:
            raise RefusedError(503, "Many log in just now. Try again in a moment.", {"Retry-After": "5"})
        self._hashes += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, matches, password[: LONGEST + 1], kept)
        finally:
            self._hashes -= 1

    def _note_failure(self, name: str, address: str) -> None:
        """What was typed as an unknown name may be a password: it is not recorded."""
        now = time.monotonic()
        if len(self._failures) == MOST_FAILURES and now - self._failures[0] < WINDOW:
            return  # enough is said, and the record must not grow by it
        self._failures.append(now)
        log.warning("login failed", user=name, peer=address)
        self._spool.event("login failed", user=name, peer=address)
