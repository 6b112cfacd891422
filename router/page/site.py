"""What all pages share: how they read, order and answer.

Reading and rendering happen in a few threads of their own, with a time limit for each; what comes beyond a limited
number of waiting requests is refused. So visitors wait for each other, and receiving does not wait for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from router.errors import RouterError, explain
from router.node.orders import Order
from router.observe import log, where
from router.page import words
from router.page.forms import back_of
from router.page.latest import Latest
from router.page.pictures import Pictures
from router.page.running import Running
from router.page.static_files import VERSIONS
from router.spool import LOCAL, Spool, SpoolError, patience, read_spool
from router.templates import fill
from router.web.access import Person, Role, csrf_of
from router.web.access.people import lack_in_words

READERS = 3
"""Threads that read the spool for pages."""
MOST_WAITING = 24
"""Requests that wait for them."""
SECONDS = 6.0
"""For all questions of one request."""
ORDERING, MOST_ORDERS = 2, 8
"""Threads that carry out orders, and orders that are under way or wait for them."""
ORDER_SECONDS = 8.0
"""That a person waits for an order; a locked database may take it later."""
LOOK_FIRST = "Look at Now and at what you ordered before you order it again."
TEMPLATES = Path(__file__).parent / "templates"
MENU = (
    ("Now", "/", Role.VIEW), ("Instances", "/instances", Role.VIEW), ("Destinations", "/destinations", Role.VIEW),
    ("Attention", "/attention", Role.VIEW), ("Review", "/review", Role.IMAGES), ("Rules", "/rules", Role.VIEW),
    ("Devices", "/devices", Role.VIEW), ("Model", "/model", Role.VIEW), ("Record", "/record", Role.ADMIN),
)  # fmt: skip
DONE = {
    "retried": "It is retried at once.",
    "discarded": "It was discarded for good.",
    "decided-again": "A new decision is ordered. It is made in a moment.",
    "study-sent": "Its whole study goes there too.",
    "study-ended": "Nothing more of its study follows there.",
    "sent-also": "It is owed there too.",
    "paused": "The destination is paused. Nothing is sent to it until you resume.",
    "paused-until": "The destination is paused. Nothing is sent to it until then; it resumes by itself.",
    "resumed": "The destination is sent to again.",
    "labelled": "Your label is kept.",
    "labelled-and-sent": "Your label is kept, and the image is owed where the rules send that class.",
    "labelled-not-sent": "Your label is kept. Nothing more is sent: it goes there already, or the rules cannot tell.",
    "rolled-back": "The model that served before is being started.",
    "promoted": "The model is being started. It serves when it is warm, and the way back is kept.",
    "shadow-set": "The model is being started as the shadow.",
    "shadow-ended": "The shadow is being ended.",
    "reloaded": "routing.yaml was read again.",
    "rules-applied": "These rules are in force. routing.yaml has them, and the earlier file is kept beside it.",
    "begun": "It is under way. You need not wait for it here.",
    "cancelled": "The job is cancelled. What it can take back is taken back.",
    "silenced": "Nobody is told of it until then.",
    "told-again": "People are told again.",
}
"""What is said after an order, by the word in the address."""

T = TypeVar("T")


class BusyError(RouterError):
    """Too many requests wait."""


class Site:
    """Reads, orders and answers for all pages."""

    def __init__(self, node: Running) -> None:
        self.node = node
        self.pictures = Pictures(node.settings().model)
        self.latest = Latest(node)
        self._threads = ThreadPoolExecutor(READERS, "page")
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._ordering = ThreadPoolExecutor(ORDERING, "order")
        self._orders = threading.BoundedSemaphore(MOST_ORDERS)
        self._opening = threading.Lock()
        self._spool: Spool | None = None

    @property
    def folder(self) -> Path:
        """The spool's."""
        return self.node.settings().spool.path

    def stop(self) -> None:
        self.pictures.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._ordering.shutdown(wait=False, cancel_futures=True)
        with self._opening:
            if self._spool is not None:
                self._spool.close(0.0)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def show(self, request: Request, template: str, ask: Callable[[Spool], dict[str, Any]]) -> Response:
        """A page: what `ask` reads of the spool, in its template. What it raises becomes a page too."""
        return await self.answer(request, lambda spool: HTMLResponse(self._filled(request, template, ask(spool))))

    async def answer(self, request: Request, make: Callable[[Spool], Response]) -> Response:
        """The answer that `make` gives in a thread. What it raises becomes a page."""
        return await self._told(request, self.read(make))

    async def order(self, request: Request, work: Awaitable[str | Response]) -> Response:
        """Go back to where the person was when `work` is done; its result is a key of DONE, or an answer of its own."""

        async def answer() -> Response:
            done = await work
            if isinstance(done, Response):
                return done
            return RedirectResponse(words.changed(back_of(request), done=done), status_code=303)

        return await self._told(request, answer())

    def sure(self, request: Request, question: str, button: str, kept: Mapping[str, str], note: str = "") -> Response:
        """A page that asks before something is done: its button posts `kept` to the same address, with `sure`."""
        values = {"question": question, "button": button, "kept": kept, "action": request.url.path, "note": note}
        return HTMLResponse(self._filled(request, "sure.html.j2", values | {"back": back_of(request)}))

    # -- reading and ordering --------------------------------------------------------------------------------------

    async def read(self, question: Callable[[Spool], T]) -> T:
        """The answer of the spool, in a thread. Raises what the question raises, and BusyError."""

        def ask() -> T:
            with patience.within(SECONDS):
                return question(self._reader())

        return await self.in_thread(ask)

    async def carry_out(self, request: Request, order: Order) -> dict[str, Any]:
        """Raises RouterError."""
        who = request.state.person.name
        try:
            return await self._ordered(lambda: self.node.carry_out(order, who))
        finally:
            self.latest.forget()

    async def _ordered(self, work: Callable[[], T]) -> T:
        """In threads of its own: an order waits for the database, and pages must be shown meanwhile."""
        if not self._orders.acquire(blocking=False):
            raise BusyError(f"the database has not taken the orders before: nothing was done. {LOOK_FIRST}")
        future = self._ordering.submit(work)
        future.add_done_callback(lambda _: self._orders.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), ORDER_SECONDS)
        except TimeoutError as error:
            if future.cancelled():
                said = "the orders before wait for the database: nothing was done"
            else:
                said = f"the database has not taken it within {ORDER_SECONDS:g} s: it is done when it does"
            raise BusyError(f"{said}. {LOOK_FIRST}") from error

    async def in_thread(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise BusyError("too many pages are asked for at once; try again in a moment")

        def run() -> T:
            try:
                return work()
            finally:
                self._places.release()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def _reader(self) -> Spool:
        with self._opening:
            if self._spool is None:
                self._spool = read_spool(self.node.settings().spool)
            return self._spool

    async def _told(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except (RouterError, OSError) as error:
            is_late = isinstance(error, SpoolError | BusyError) and error.exit_code != 2
            code = 503 if is_late else getattr(error, "status", 409)
            return self._trouble(request, explain(error)[1], code)
        except Exception as error:  # a page that fails must not end in silence
            log.error("page failed", error=where(error))
            return self._trouble(request, "The page failed. The log of the node says where.", 500)

    def lacking(self, request: Request, role: Role) -> Response:
        """The page for a person who has not the role."""
        return HTMLResponse(self._filled(request, "lacking.html.j2", {"role": role}), 403)

    def _trouble(self, request: Request, line: str, status: int) -> Response:
        return HTMLResponse(self._filled(request, "trouble.html.j2", {"line": line}), status)

    def _filled(self, request: Request, template: str, values: dict[str, Any]) -> str:
        person: Person = request.state.person
        here = request.url.path
        shared = {
            "menu": [(name, href, _is_here(href, here)) for name, href, role in MENU if role in person.roles],
            "person": person, "may": {role.name: role in person.roles for role in Role},
            "is_local": person.name == LOCAL, "lack": {role.name: lack_in_words(person, role) for role in Role},
            "csrf": csrf_of(request), "back": here + (f"?{request.url.query}" if request.url.query else ""),
            "words": words, "v": VERSIONS,
            "node_name": self.node.settings().node.ae_title,
            "done": DONE.get(request.query_params.get("done", ""), ""),
            "is_part": "hx-request" in request.headers,
        }  # fmt: skip
        return fill(TEMPLATES / template, **(shared | values))


def _is_here(href: str, here: str) -> bool:
    return here == href or (href != "/" and here.startswith(href + "/"))
