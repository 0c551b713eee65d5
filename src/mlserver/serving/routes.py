"""The HTTP paths as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlserver.errors import (
    ClientGone,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RequestError,
    RequestTimeout,
)
from mlserver.paths import UNMATCHED
from mlserver.serving.call import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from mlserver.serving.call import Call
    from mlserver.serving.entry import Entry
    from mlserver.serving.pipeline import Pipeline

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Handler = Callable[["Request"], Response | Awaitable[Response]]

_logger = logging.getLogger("mlserver.routes")


@dataclass(slots=True, frozen=True)
class Request:
    """What a handler may look at."""

    method: str
    headers: Mapping[bytes, bytes]
    """Names in lower case; of a repeated one the last."""


@dataclass(slots=True, frozen=True)
class Route:
    """One path: with a handler (GET and HEAD) or with the predictor's method that it runs (POST)."""

    path: str
    handler: Handler | None = None
    operation: str | None = None
    quiet: bool = False
    """A probe or a scrape."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The HTTP methods it takes."""
        return ("POST",) if self.operation else ("GET", "HEAD")


class Routes:
    """Answers HTTP requests by path, each as one `Call`.

    Args:
        entry: makes the calls.
        routes: all paths.
        timeout: seconds from a request's headers to the end of its body.
        loading: a prediction waits for it, so that it does not come before the model.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        entry: Entry,
        routes: list[Route],
        *,
        timeout: float,
        loading: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._entry = entry
        self._routes = {route.path: route for route in routes}
        self._timeout = timeout
        self._loading = loading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; ``scope`` is of type ``http``."""
        method: str = scope["method"]
        request = Request(method, dict(scope["headers"]))
        route = self._routes.get(_path(scope))
        replied: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        call = self._entry.open(
            method,
            route.path if route else UNMATCHED,
            partial(_settle, replied),
            request.headers,
            scope,
            operation=route.operation if route else None,
            quiet=route is not None and route.quiet,
        )
        try:
            if route is not None and route.operation and method == "POST":
                await self._predict(call, request, receive, replied)
            else:
                await self._answer(call, request, route)
            response = await replied
        except Exception as cause:  # noqa: BLE001  # a handler's fault, or a receive() that raises, is one 500
            self._pipeline.fail(call, InternalError.because(cause))
            response = await replied
        finally:
            self._pipeline.abandon(call)  # where this task was cancelled; else the call has ended
        if response.status != ClientGone.status:
            await send_response(send, response, body=method != "HEAD")

    def reject(
        self, error: RequestError, *, method: str, received: float, reply: Callable[[Response], None]
    ) -> None:
        """Answers what never became a request, such as malformed headers, as a call like any other."""
        call = self._entry.open(method, UNMATCHED, reply, {}, {})
        call.received = received
        self._pipeline.fail(call, error)

    async def _answer(self, call: Call, request: Request, route: Route | None) -> None:
        """Everything but predictions."""
        try:
            answer = _handler(call, route)(request)
            response = answer if isinstance(answer, Response) else await answer
        except RequestError as error:
            self._pipeline.fail(call, error)
        else:
            self._pipeline.finish(call, response)

    async def _predict(
        self, call: Call, request: Request, receive: Receive, replied: asyncio.Future[Response]
    ) -> None:
        try:
            body = await self._read_body(call, request, receive)
        except RequestError as error:
            self._pipeline.fail(call, error)
            return
        if self._loading is not None:
            await self._loading()
        call.context = copy_context()
        self._entry.predict(call, body)
        await self._watch(call, receive, replied)

    async def _read_body(self, call: Call, request: Request, receive: Receive) -> bytes:
        declared = request.headers.get(b"content-length", b"0")
        if declared.isdigit():
            self._entry.expect(int(declared[:20]))
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout - (time.perf_counter() - call.received)):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone("The client closed the connection within the body.")
                    chunk = message.get("body", b"")
                    self._entry.take(call, len(chunk))
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunk if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise RequestTimeout(
                f"Only {call.reserved} bytes of the body came within {self._timeout:g} s "
                "(server.request_timeout_s)."
            ) from None

    async def _watch(self, call: Call, receive: Receive, replied: asyncio.Future[Response]) -> None:
        """Until the reply: a client that hangs up is dropped from the queue."""
        gone: asyncio.Future[Any] = asyncio.ensure_future(receive())
        either: set[asyncio.Future[Any]] = {gone, replied}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            # Some middleware gives the body again, for ever: that is no news of the client.
            if gone.done() and gone.result()["type"] == "http.disconnect":
                self._pipeline.abandon(call)
        finally:
            gone.cancel()


def _handler(call: Call, route: Route | None) -> Handler:
    if route is None:
        raise NotFound("There is nothing at this path. /docs lists the paths there are.")
    if call.method not in route.methods or route.handler is None:
        allow = ", ".join(route.methods)
        raise MethodNotAllowed(f"{route.path} takes {allow}, not {call.method[:32]}.", allow=allow)
    return route.handler


def _settle(replied: asyncio.Future[Response], response: Response) -> None:
    if not replied.done():  # it is when the server has cancelled the task
        replied.set_result(response)


def _path(scope: Scope) -> str:
    """The path below the one that this application is mounted at."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def send_response(send: Send, response: Response, *, body: bool) -> None:
    """Sends a complete response; without its body in answer to HEAD."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode("ascii")),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if body else b""})
