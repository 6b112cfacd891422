"""The node's HTTP interface: `POST /orders/<name>` carries out an order, `GET /<state>` says how the node is.

The body of an order is a JSON object: `who` gives the order, and the fields of the order (`router/node/orders.py`). An
answer with `error` also has the `exit_code` of the command. The application authenticates no one. The file permissions
of the local socket do that. Another server that mounts the application must say who asks.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.errors import RouterError, explain
from router.node.client import BUSY
from router.node.orders import LONGEST_WHO, Order, OrderError, parse
from router.observe import log, where

LONGEST_BODY = 1 << 20
"""The most bytes of a request's body."""
MOST_WAITING = 64
"""The most requests that wait for their turn. Further ones are refused for now."""
WRONG, FAILED = 400, 409

CarryOut = Callable[[Order, str], dict[str, Any]]
Who = Callable[[Request, dict[str, Any]], str]


def named_in_body(_: Request, about: dict[str, Any]) -> str:
    """Who gives an order, as the client says. Only for a server that no other account than the node's can reach."""
    who = about.pop("who", "")
    if not isinstance(who, str):
        raise OrderError("who must be a text", 2)
    return who[:LONGEST_WHO]


def application(
    carry_out: CarryOut, states: Mapping[str, Callable[[], dict[str, Any]]], who: Who = named_in_body
) -> Starlette:
    """`states` are the answers to GET, by path."""
    turns = _Turns()

    async def order(request: Request) -> Response:
        async def answer() -> dict[str, Any]:
            about = await _object(request)
            by = who(request, about)
            wanted = parse(request.path_params["name"], about)
            return await turns.take(lambda: carry_out(wanted, by))

        return await _answered(answer())

    def state(ask: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def said(_: Request) -> Response:
            return await _answered(turns.take(ask))

        return said

    return Starlette(
        routes=[
            Route("/orders/{name}", order, methods=["POST"]),
            *(Route(f"/{name}", state(ask), methods=["GET"]) for name, ask in states.items()),
        ],
        exception_handlers={HTTPException: _no_such_request},
    )


class _Turns:
    """Answers requests one after another, each in a thread, because the spool's answers block."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    async def take(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do `work` in its turn and return the result. Raises OrderError if too many wait."""
        if not self._places.acquire(blocking=False):
            raise OrderError(BUSY)
        future: Future[dict[str, Any]] = Future()
        try:
            threading.Thread(target=self._run, args=(work, future), name="order", daemon=True).start()
        except RuntimeError as error:  # no thread is left
            self._places.release()
            raise OrderError(BUSY) from error
        return await asyncio.wrap_future(future)

    def _run(self, work: Callable[[], dict[str, Any]], future: Future[dict[str, Any]]) -> None:
        try:
            with self._one_at_a_time:
                result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            self._places.release()


async def _object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. `OneRequest` limits the time in which it must come."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_BODY:
            raise OrderError(f"the request is longer than {LONGEST_BODY} bytes", 2)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OrderError("the request is not JSON", 2) from error
    if not isinstance(found, dict):
        raise OrderError("the request is not a JSON object", 2)
    return found


async def _answered(answer: Awaitable[dict[str, Any]]) -> Response:
    """The answer, or what a person must know about a failure."""
    try:
        return JSONResponse(await answer)
    except (RouterError, OSError) as error:
        code, line, details = explain(error)
        return JSONResponse({"error": line, "exit_code": code} | details, WRONG if code == 2 else FAILED)
    except Exception as error:  # the client must see it, and the next client must be answered
        log.warning("control request failed", error=where(error))
        return JSONResponse({"error": f"the node failed: {where(error)}", "exit_code": 1}, 500)


async def _no_such_request(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "no such request", "exit_code": 2}, getattr(error, "status_code", 404))
