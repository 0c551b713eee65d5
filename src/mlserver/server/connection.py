"""One TCP connection, whatever is said on it: how it begins, stalls, goes quiet and ends."""

from __future__ import annotations

import asyncio
import email.utils
import enum
import math
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mlserver.errors import Overloaded, RequestError
from mlserver.server.deadline import Deadline
from mlserver.server.exchange import head, headers_of, success_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn import Config

    from mlserver.server.direct import Direct
    from mlserver.server.exchange import Exchange
    from mlserver.server.limits import Limits
    from mlserver.serving.call import Response

FIRST_REQUEST_S = 1.0
"""For a client that has connected but not yet sent anything when the listener closes."""
NEXT_REQUEST_S = 0.3
"""For one that is between two requests then: the next may be on its way."""
PROBE_S = 0.1
"""Between looks at whether a client that stopped sending is still there."""
REFUSED_AT_ONCE = 256
"""Connections over the limit that are closed with patience; those beyond are cut as soon as they are told."""


class Sink(Protocol):
    """Who answers, and observes, what never becomes a request."""

    def reject(
        self, error: RequestError, *, method: str, received: float, reply: Callable[[Response], None]
    ) -> None:
        """Has the error recorded, then calls ``reply`` once with its response, at once or soon.

        Args:
            error: what to answer.
            method: the HTTP method as sent, as far as it is known; else empty.
            received: when, in seconds of ``time.perf_counter()``.
            reply: sends a response, and ends the connection.
        """


def date_line() -> bytes:
    """The header with the time, with its line end."""
    return f"date: {email.utils.formatdate(usegmt=True)}\r\n".encode("ascii")


class State(ServerState):
    """What the connections of one listener share."""

    def __init__(self) -> None:
        super().__init__()
        self.set_date()
        self.draining = False
        """Whether every response ends its connection."""
        self.refused: set[Connection] = set()
        """Connections beyond the limit, being told so."""
        self.lost = asyncio.Event()
        """Set whenever a connection is gone."""

    def set_date(self) -> None:
        """Takes the time."""
        self.date = date_line()
        """The header with the time, with its line end."""
        self.success = success_of(self.date)
        """How a response to a prediction begins, up to its own headers."""


class Phase(enum.Enum):
    """Of a connection. From the second on, what still comes in is thrown away."""

    OPEN = enum.auto()
    REJECTED = enum.auto()
    FLUSHING = enum.auto()
    LINGERING = enum.auto()


class Connection(HttpToolsProtocol):
    """One connection; `mlserver.server.protocol.Protocol` knows what is said on it.

    Args:
        app_state: what each request finds in its ASGI scope as ``state``.
    """

    def __init__(
        self, config: Config, state: State, app_state: dict[str, Any], *, limits: Limits, sink: Sink
    ) -> None:
        super().__init__(config, state, app_state)
        self.common = state
        self._limits = limits
        self._sink = sink
        self._deadline = Deadline(self.loop)
        self._phase = Phase.OPEN
        self._fresh = True  # nothing has come yet
        self._input = b""  # received, not yet used up
        self._exchange: Exchange | Direct | None = None
        self._discarded = 0
        self._unsent = math.inf
        self._linger = False
        self._eof = False
        self._probed = False

    def _read(self) -> None:
        """Goes on in the input as far as it can."""
        raise NotImplementedError

    @property
    def unanswered(self) -> bool:
        """Whether a request has begun to arrive, or is being answered, or its response is not yet sent."""
        return bool(self._exchange or self._input or self.transport.get_write_buffer_size())

    # What the transport reports.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, or refuses it at once."""
        super().connection_made(transport)
        limit = self._limits.max_connections
        if len(self.connections) <= limit:
            self._deadline.set(self._limits.header_timeout_s, self._end)
            return
        self.connections.discard(self)
        self.common.refused.add(self)
        error = Overloaded(f"All {limit} connections (server.max_connections) are in use. Try again later.")
        self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the application, if it is answering a request."""
        super().connection_lost(exc)
        self._deadline.close()
        if self._exchange is not None:
            self._exchange.disconnect()
        self.common.refused.discard(self)
        self.common.lost.set()

    def data_received(self, data: bytes) -> None:
        """Reads on."""
        if self._phase is Phase.OPEN:
            self._fresh = False
            self._input = self._input + data if self._input else data
            self._read()
            return
        self._discarded += len(data)
        if self._discarded > self._limits.linger_bytes:
            self.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. It may still wait for its answers, or have hung up."""
        self._eof = True
        if self._phase is Phase.OPEN:
            self._next()
        return self._phase is not Phase.LINGERING

    def pause_writing(self) -> None:
        """The client does not read what it is sent: that is watched."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client has read what it was sent."""
        super().resume_writing()
        self._deadline.clear()
        if self._phase is Phase.OPEN:
            self._next()
        elif self._phase is Phase.FLUSHING:
            self._flushed()

    def shutdown(self) -> None:
        """The listener closes: so does this connection, after the request that it has begun."""
        if self._phase is not Phase.OPEN or self._exchange or self._input:
            return
        patience_s = FIRST_REQUEST_S if self._fresh else NEXT_REQUEST_S
        self._deadline.set(min(patience_s, self._limits.header_timeout_s), self._end)

    # Between requests.

    def _next(self) -> None:
        """Turns to the next request, if it is there already; else waits for it, or ends."""
        self._read()
        if self._phase is not Phase.OPEN or self.flow.write_paused:
            return
        if self._eof:
            self._after_eof()
        elif self._exchange is None and not self._input:
            self._await_request()

    def _await_request(self) -> None:
        self._deadline.set(self._limits.keep_alive_s, self._end)

    def _after_eof(self) -> None:
        """An answer may be owed to a client that sends no more."""
        if self._exchange is not None and self._exchange.answerable:
            self._deadline.set(PROBE_S, self._probe)
        else:
            self._end()

    def _probe(self) -> None:
        """Tells a client that hung up from one that has no more to send, which look the same to TCP.

        They differ in what comes back when something is sent. HTTP allows for an interim response any time.
        """
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        if not self._probed and self._exchange is not None:
            self._probed = True
            self._exchange.say_continue()
        self._deadline.set(PROBE_S, self._probe)

    def _await_reader(self) -> None:
        self._unsent = math.inf
        self._watch_writing()

    def _watch_writing(self) -> None:
        """Cuts a client that has read nothing for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._deadline.set(self._limits.write_timeout_s, self._watch_writing)

    # The end.

    def reject(self, error: RequestError, method: str, reply: Callable[[Response], None]) -> None:
        """Has an error recorded; ``reply`` gets its response."""
        self._sink.reject(error, method=method, received=time.perf_counter(), reply=reply)

    def _refuse(self, error: RequestError, method: str = "") -> None:
        """Answers what never becomes a request with an error, and closes."""
        self._phase = Phase.REJECTED
        self._deadline.clear()
        self.reject(error, method, partial(self._reply, body=method != "HEAD"))

    def _reply(self, response: Response, *, body: bool) -> None:
        if self.transport.is_closing():
            return
        start = head(response.status, headers_of(response), self.common.date, last=True)
        self.transport.write(start + response.body if body else start)
        self._end(linger=len(self.common.refused) <= REFUSED_AT_ONCE)

    def _end(self, *, linger: bool = False) -> None:
        """Closes when all is sent. With ``linger``, not before the client has had time to read it.

        Closing while the client is sending makes its kernel drop what it has not yet read (RFC 9112, 9.6).
        """
        if self.transport.is_closing():
            return
        self._phase = Phase.FLUSHING
        self._deadline.clear()
        self._linger = linger
        self._input = b""
        self.flow.resume_reading()
        self.transport.set_write_buffer_limits(0)  # so that `resume_writing` says when it is empty
        if self.flow.write_paused:
            self._await_reader()
        else:
            self._flushed()

    def _flushed(self) -> None:
        if self._eof or not self._linger:
            self.transport.close()
            return
        self._phase = Phase.LINGERING
        self.transport.write_eof()
        self._deadline.set(self._limits.linger_s, self.transport.close)
