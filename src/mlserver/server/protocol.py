"""HTTP/1.1 as a worker speaks it: uvicorn's, with an answer of our own wherever uvicorn would give its.

A connection reads one request at a time: what a client sends ahead waits, unparsed and bounded, until the
response before it is written. So responses keep their order, errors included. llhttp gets the head of a
request and no more; `framing` cuts the body out of the stream, and an `Exchange` has the request answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httptools

from mlserver.errors import HeadersTooLarge, MalformedRequest, RequestError, RequestTimeout
from mlserver.paths import PREDICTIONS
from mlserver.server.connection import Connection, Phase, Sink, State
from mlserver.server.direct import Direct, Head
from mlserver.server.exchange import READ_AHEAD, Exchange
from mlserver.server.framing import FIELDS, Body, Chunked, body_of, split_target

if TYPE_CHECKING:
    from uvicorn import Config

    from mlserver.server.limits import Limits
    from mlserver.serving.entry import Entry

_HEAD_END = b"\r\n\r\n"
_METHOD = re.compile(rb"([A-Za-z-]{1,32}) ")


class Protocol(Connection):
    """Requests and responses on one connection.

    Args:
        entry: takes predictions; without, the application gets these, too.
    """

    def __init__(
        self,
        config: Config,
        state: State,
        app_state: dict[str, Any],
        *,
        limits: Limits,
        sink: Sink,
        entry: Entry | None = None,
    ) -> None:
        super().__init__(config, state, app_state, limits=limits, sink=sink)
        self._entry = entry
        self._last: Head | None = None  # of the last prediction
        self._last_total = 0
        self._fed = 0  # bytes of the input that the parser has had: the beginning of a head
        self._fields: list[tuple[bytes, bytes]] = []  # of its headers, those that frame it
        self._complete = False  # the head
        self._keep_alive = False
        self._body: Body | None = None  # of the request in `_exchange`, as long as more of it is to come

    # Reading.

    def data_received(self, data: bytes) -> None:
        """Reads on. A prediction with the head of the last one, all of it at once, is not parsed."""
        last, entry = self._last, self._entry
        if (
            len(data) == self._last_total
            and last is not None
            and entry is not None
            and data.startswith(last.data)
            and self._exchange is None
            and not self._input
            and self._phase is Phase.OPEN
            and not self.flow.write_paused
        ):
            self._deadline.clear()
            self._exchange = exchange = Direct(self, entry, last)
            exchange.whole = True
            entry.take_whole(exchange.call, data[len(last.data) :], last.headers.get(b"content-type"))
        else:
            super().data_received(data)

    def _read(self) -> None:
        """Goes on in the input, until it needs more of it or a response has to be written first."""
        more = True
        while more and self._input and self._phase is Phase.OPEN:
            if self._exchange is None and not self.flow.write_paused:
                more = self._read_head()
            elif self._body is not None:
                more = self._read_body(self._body)
            else:
                more = self._wait()

    def _wait(self) -> bool:
        """Lets requests that came too early lie until it is their turn."""
        if len(self._input) > READ_AHEAD:
            self.flow.pause_reading()
        return False

    def _read_head(self) -> bool:
        """Feeds the parser what there is of a head; starts to answer if that is all of it."""
        begins = not self._fed
        if begins:
            self._input = self._input.lstrip(b"\r\n")  # RFC 9112, 2.2: some clients send these behind a body
            self._fields = []
            self._complete = False
            self.parser = httptools.HttpRequestParser(self)
        limit = self._limits.max_header_bytes
        found = self._input.find(_HEAD_END, max(self._fed - 3, 0))
        end = min(len(self._input) if found < 0 else found + len(_HEAD_END), limit)
        try:
            self._feed(self._input[self._fed : end])
            if self._complete:
                self._begin(end)
                return True
            self._check_incomplete(end, ends=found >= 0)
        except RequestError as error:
            self._refuse(error, self._method())
            return False
        self._fed = end
        if begins and end:
            self._deadline.set(self._limits.header_timeout_s, self._head_late)
        return False

    def _feed(self, head: bytes) -> None:
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # RFC 9110, 7.8: an offer to change the protocol may be ignored
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"This is no HTTP/1.1 request: {error}.") from error

    def _check_incomplete(self, end: int, *, ends: bool) -> None:
        limit = self._limits.max_header_bytes
        if end == limit:
            raise HeadersTooLarge(f"The headers have more than {limit} bytes (server.max_header_bytes).")
        if ends:
            raise MalformedRequest("This is HTTP/2; expected HTTP/1.1.")

    def _begin(self, end: int) -> None:
        """The head is complete: the request is on its way, unless there is something llhttp does not mind."""
        line = self._input[: self._input.index(b"\r")]
        if line.count(b" ") != 2 or not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            raise MalformedRequest(
                "Expected a first line METHOD /path HTTP/1.1, with one space between each."
            )
        fields = dict(self._fields)
        if len(fields) < len(self._fields):
            names = b", ".join(sorted(FIELDS)).decode()
            raise MalformedRequest(f"A header came more than once that may not: one of {names}.")
        scope, old = self.scope, line.endswith(b"0")
        scope["path"], scope["raw_path"], scope["query_string"] = split_target(self.url)
        scope["method"] = line[: line.index(b" ")].decode("ascii")
        if old:
            scope["http_version"] = "1.0"
        body = body_of(fields, old=old)
        expects = fields.get(b"expect", b"").lower() == b"100-continue"
        keep_alive = self._keep_alive and not old
        data, self._input = self._input[:end], self._input[end:]
        self._fed = 0
        self._body = body
        self._deadline.clear()
        if self._entry is None or scope["method"] != "POST" or scope["path"] not in PREDICTIONS:
            self._answer(Exchange(self, scope, keep_alive=keep_alive, expects=expects))
        else:
            length = None if isinstance(body, Chunked) else int(fields.get(b"content-length", b"0"))
            request = Head(data, scope["path"], scope, dict(self.headers), length, keep_alive, expects)
            self._exchange = exchange = Direct(self, self._entry, request)
            exchange.expect(request)
            # One that is refused for its length is refused again, which happens here only.
            self._last_total = 0 if exchange.call.finished else request.total
            self._last = request if self._last_total else None
            if body is None:
                exchange.end()

    def _answer(self, exchange: Exchange) -> None:
        """Has the application answer."""
        self._exchange = exchange
        if self._body is None:
            exchange.end()
        task = self.loop.create_task(exchange.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _read_body(self, body: Body) -> bool:
        """Passes on what there is of a body."""
        exchange = self._exchange
        if exchange is None or body.fault is not None:
            self._input = b""
            return False
        before = len(self._input)
        part, self._input = body.take(self._input)
        if part:
            exchange.feed(part)
        if body.fault is not None:
            exchange.fail(body.fault)
        elif body.done:
            self._body = None
            exchange.end()
        return len(self._input) < before

    def _head_late(self) -> None:
        after = f"{self._limits.header_timeout_s:g} s (server.header_timeout_s)"
        self._refuse(RequestTimeout(f"The headers were not complete after {after}."), self._method())

    def _method(self) -> str:
        """The method of a request that did not get beyond its head."""
        match = _METHOD.match(self._input)
        return match[1].decode() if match else ""

    # What the parser reports, all of it within `_feed`.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        header = name.lower(), value.rstrip(b" \t")  # llhttp leaves that space
        self.headers.append(header)
        if header[0] in FIELDS:
            self._fields.append(header)

    def on_headers_complete(self) -> None:
        """Takes down what the parser says only now."""
        self._complete = True
        self._keep_alive = self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """Not for the parser to say: it never gets a body."""

    # Answering.

    def read_on(self) -> None:
        """Reads more, unless what is there already is more than the next requests may have in advance."""
        if len(self._input) <= READ_AHEAD:
            self.flow.resume_reading()

    def answered(self, *, keep_alive: bool) -> None:
        """Goes on with the next request, or closes."""
        self._exchange = None
        if self.transport.is_closing():
            return
        if not keep_alive:
            self._end(linger=True)
            return
        self.flow.resume_reading()
        if self._input or self._eof or self.flow.write_paused:
            self._next()
        else:
            self._await_request()
