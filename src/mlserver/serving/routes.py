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
    BodyTooLarge,
    ClientGone,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RequestError,
    RequestTimeout,
)
from mlserver.paths import UNMATCHED
from mlserver.serving.call import Call, Response
from mlserver.serving.ids import accept_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from mlserver.serving.call import Tracer
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
        routes: all paths.
        max_body: bytes of a request's body.
        timeout: seconds from a request's headers to the end of its body.
        ids: whether ``X-Request-ID`` is read; without, calls have no ids.
        trace: decides which requests are traced.
        loading: a prediction waits for it, so that it does not come before the model.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        routes: list[Route],
        *,
        max_body: int,
        timeout: float,
        ids: bool,
        trace: Tracer,
        loading: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._routes = {route.path: route for route in routes}
        self._max_body = max_body
        self._timeout = timeout
        self._ids = ids
        self._trace = trace
        self._loading = loading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; ``scope`` is of type ``http``."""
        received = time.perf_counter()
        method: str = scope["method"]
        request = Request(method, dict(scope["headers"]))
        route = self._routes.get(_path(scope))
        call = Call(
            method=method,
            endpoint=route.path if route else UNMATCHED,
            received=received,
            request_id=accept_id(request.headers.get(b"x-request-id")) if self._ids else None,
            operation=route.operation if route else None,
            quiet=route is not None and route.quiet,
            headers=request.headers,
            scope=scope,
        )
        if not call.quiet:
            call.trace = self._trace(request.headers)
        replied: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        call.reply = partial(_settle, replied)
        self._pipeline.begin(call)
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
        call = Call(method=method, endpoint=UNMATCHED, received=received, reply=reply)
        call.request_id = accept_id(None) if self._ids else None
        call.trace = self._trace(call.headers)
        self._pipeline.begin(call)
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
        self._pipeline.predict(call, body, request.headers.get(b"content-type"))
        await self._watch(call, receive, replied)

    async def _read_body(self, call: Call, request: Request, receive: Receive) -> bytes:
        declared = request.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max_body:
            raise self._too_large(int(declared[:20]))
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout - (time.perf_counter() - call.received)):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone("The client closed the connection within the body.")
                    chunk = message.get("body", b"")
                    self._pipeline.reserve(call, len(chunk))
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._max_body:
                        raise self._too_large(size)
                    if not message.get("more_body", False):
                        return chunk if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise RequestTimeout(
                f"Only {size} bytes of the body came within {self._timeout:g} s (server.request_timeout_s)."
            ) from None

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body has {size} bytes or more, the limit is {self._max_body} (server.max_body_bytes)."
        )

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
