"""One request and its response, as an ASGI application has them."""

from __future__ import annotations

import http
import logging
from typing import TYPE_CHECKING, Any, Protocol

from mlserver.errors import InternalError, RequestError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable

    from uvicorn.protocols.http.flow_control import FlowControl

    from mlserver.serving.call import Headers, Response

    ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

READ_AHEAD = 65536
"""Bytes that wait to be taken by the application; beyond, the client is made to wait."""
_DISCONNECT = {"type": "http.disconnect"}
_BODILESS = frozenset({204, 304})
_STATUS_LINES: dict[int, bytes] = {
    status: f"HTTP/1.1 {status} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
_logger = logging.getLogger("mlserver.http")


class Common(Protocol):
    """What all connections have in common."""

    date: bytes
    """The line with the time."""
    success: bytes
    """How a response to a prediction begins, up to its own headers."""
    draining: bool
    """Whether every response ends its connection."""


class Wire(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: FlowControl

    @property
    def common(self) -> Common:
        """What it has in common with others."""

    def reject(self, error: RequestError, method: str, reply: Callable[[Response], None]) -> None:
        """Has an error observed; ``reply`` gets its response."""

    def read_on(self) -> None:
        """There is room for more of the body."""

    def answered(self, *, keep_alive: bool) -> None:
        """The response is written."""


class Exchange:
    """Fed by its connection with a request's body, run as a task, and over when its response is written.

    Args:
        keep_alive: whether the client would have another exchange after this one.
        expects: whether the client sends the body only after an interim response.
    """

    __slots__ = (
        "_expects",
        "_fault",
        "_given",
        "_keep_alive",
        "_left",
        "_parts",
        "_size",
        "_start",
        "_waiter",
        "_wire",
        "complete",
        "disconnected",
        "scope",
        "started",
        "whole",
    )

    def __init__(self, wire: Wire, scope: Any, *, keep_alive: bool, expects: bool) -> None:
        self._wire = wire
        self.scope = scope
        self.whole = False
        """All of the request has come."""
        self.started = False
        """Some of the response is written."""
        self.complete = False
        """All of the response is written."""
        self.disconnected = False
        """Nobody is there to read it."""
        self._keep_alive = keep_alive
        self._expects = expects
        self._parts: list[bytes] = []
        self._size = 0
        self._fault: RequestError | None = None
        self._given = False
        self._waiter: asyncio.Future[None] | None = None
        self._start: Any = None
        self._left: int | None = None

    # The request, from the connection.

    def feed(self, part: bytes) -> None:
        """Takes a part of the body."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > READ_AHEAD:
            self._wire.flow.pause_reading()
        self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.whole = True
        self._wake()

    def fail(self, fault: RequestError) -> None:
        """The body can not be completed: `receive` raises this behind what there is of it."""
        self._fault = fault
        self._wake()

    @property
    def answerable(self) -> bool:
        """Whether no more has to come for the application to answer."""
        return self.whole or self._fault is not None

    def say_continue(self) -> None:
        """Sends an interim response, if there may be one now."""
        if not self.started and self.scope["http_version"] == "1.1":
            self._wire.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def disconnect(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ASGI.

    async def run(self, app: ASGIApp) -> None:
        """Has the application answer, and answers in its place where it does not."""
        error: Exception | None = None
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as raised:  # noqa: BLE001  # whatever it is, the client gets an answer
            error = raised
        else:
            if not self.complete and not self.disconnected:
                error = RuntimeError("The application returned without a complete response.")
        if error is not None:
            self._rescue(error)

    async def receive(self) -> Any:
        """The next part of the request's body, or the news that the client has gone.

        Raises:
            RequestError: the body cannot be read on.
        """
        while not (self.disconnected or self.complete):
            if self._parts or (self.whole and not self._given):
                return self._taken()
            if self._fault is not None:
                raise self._fault
            if self._expects:
                self._expects = False
                self.say_continue()
            self._waiter = self._wire.loop.create_future()
            await self._waiter
        return _DISCONNECT

    async def send(self, message: Any) -> None:
        """Writes the response, its start together with the first part of its body."""
        if self._wire.flow.write_paused and not self.disconnected:
            await self._wire.flow.drain()
        if self.disconnected or self.complete:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.started:
            self._write(b"", body, more=more)
            return
        head = self._head(self._start["status"], self._start.get("headers", ()), None if more else len(body))
        self._write(head, body, more=more)

    def _taken(self) -> dict[str, Any]:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._expects = False  # the body is on its way
        self._size = 0
        self._given = self.whole
        self._wire.read_on()
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    # The response.

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
        """The start of the response; its body has this length, if known, or the one the headers give."""
        kept = []
        for header in headers:
            name, value = header
            if name == b"connection":
                self._keep_alive = self._keep_alive and value.lower() != b"close"
            elif name == b"content-length":
                length = int(value)
            elif name != b"transfer-encoding":
                kept.append(header)
        framing = self._frame(status, length)
        wire = self._wire
        self._keep_alive = self._keep_alive and self.whole and not wire.common.draining
        return head(status, (*kept, *framing), wire.common.date, last=not self._keep_alive)

    def _frame(self, status: int, length: int | None) -> Headers:
        """The header that says where the body ends; where none can, the end of the connection does."""
        self._left = length
        if status in _BODILESS:
            self._left = 0
            return ()
        if length is not None:
            return ((b"content-length", b"%d" % length),)
        if self.scope["http_version"] == "1.0":
            self._keep_alive = False
            return ()
        return ((b"transfer-encoding", b"chunked"),)

    def _write(self, start: bytes, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            data = start
        elif self._left is None:
            data = start + (self._chunk(body, more=more) if self.scope["http_version"] == "1.1" else body)
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError(
                    f"The response's body and its content-length differ by {abs(self._left)} bytes."
                )
            data = start + body
        self.started = True
        self._wire.transport.write(data)
        if not more:
            self.complete = True
            self._wake()
            self._wire.answered(keep_alive=self._keep_alive)

    @staticmethod
    def _chunk(body: bytes, *, more: bool) -> bytes:
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    # Instead of the application.

    def _rescue(self, error: Exception) -> None:
        if not isinstance(error, RequestError):
            _logger.error("The application failed to answer", exc_info=error)
            error = InternalError("The server failed to answer this request. Its log has the reason.")
        if self.disconnected or self.complete:
            return
        if self.started:
            self._wire.transport.abort()
        else:
            self._wire.reject(error, self.scope["method"], self._reply)

    def _reply(self, response: Response) -> None:
        if not self.disconnected:
            start = self._head(response.status, headers_of(response), len(response.body))
            self._write(start, response.body, more=False)


def headers_of(response: Response) -> Headers:
    """All headers of a response that are its own."""
    length = b"%d" % len(response.body)
    return (b"content-type", response.content_type), (b"content-length", length), *response.headers


def success_of(date: bytes) -> bytes:
    """How a response of JSON with status 200 begins, as `head` writes it."""
    return head(200, ((b"content-type", b"application/json"),), date, last=False).removesuffix(b"\r\n")


def head(status: int, headers: Headers, date: bytes, *, last: bool) -> bytes:
    """The start of a response.

    Args:
        status: of HTTP.
        headers: all but the following.
        date: the header with the time, with its line end.
        last: whether the connection ends behind it.

    Raises:
        KeyError: it is no HTTP status.
        RuntimeError: a header would break out of its line.
    """
    lines = [_STATUS_LINES[status], date, *[b"%b: %b\r\n" % header for header in headers]]
    if last:
        lines.append(b"connection: close\r\n")
    text = b"".join(lines)
    if not text.count(b"\r") == text.count(b"\n") == len(lines):
        raise RuntimeError(f"A response has a header with a line break in it: {headers!r}.")
    return text + b"\r\n"
