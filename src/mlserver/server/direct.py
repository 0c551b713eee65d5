"""One prediction and its response, without ASGI between the connection and the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserver.errors import RequestError
from mlserver.paths import PREDICTIONS
from mlserver.server.exchange import head, headers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.server.exchange import Wire
    from mlserver.serving.call import Response
    from mlserver.serving.entry import Entry

REMEMBERED = 1024
"""Bytes of a head that is kept, since most clients send the same again."""
_JSON = b"application/json"


@dataclass(slots=True)
class Head:
    """The head of a request for a prediction."""

    data: bytes
    """As sent, with the empty line at its end."""
    path: str
    """One of `PREDICTIONS`."""
    scope: Mapping[str, Any]
    """As ASGI has it."""
    headers: Mapping[bytes, bytes]
    """Names in lower case; of a repeated one the last."""
    length: int | None
    """Of the body, if it is said."""
    keep_alive: bool
    """Whether the client would have another exchange after this one."""
    expects: bool
    """Whether the client sends the body only after an interim response."""

    @property
    def total(self) -> int:
        """Bytes of the whole request, if that is worth to be compared with the next one; else 0."""
        lasting = len(self.data) <= REMEMBERED and self.length is not None and not self.expects
        return len(self.data) + (self.length or 0) if lasting else 0


class Direct:
    """Fed by its connection with a request's body, and over when its response is written.

    Responses are those that an `Exchange` would write.
    """

    __slots__ = ("_entry", "_keep_alive", "_parts", "_wire", "call", "disconnected", "started", "whole")

    def __init__(self, wire: Wire, entry: Entry, request: Head) -> None:
        self._wire = wire
        self._entry = entry
        self._keep_alive = request.keep_alive
        self._parts: list[bytes] | None = None
        self.whole = False
        """All of the request has come."""
        self.started = False
        """The response is written."""
        self.disconnected = False
        """Nobody is there to read it."""
        path = request.path
        self.call = entry.open("POST", path, self._reply, request.headers, request.scope, PREDICTIONS[path])

    def expect(self, request: Head) -> None:
        """Looks at what the head says of the body, which is not there yet."""
        try:
            self._entry.expect(request.length or 0)
        except RequestError as error:
            self._entry.fail(self.call, error)
        if request.expects:
            self._wire.loop.call_soon(self._invite)

    # The request, from the connection.

    def feed(self, part: bytes) -> None:
        """Takes a part of the body."""
        call = self.call
        if call.finished:
            return
        try:
            self._entry.take(call, len(part))
        except RequestError as error:
            self._entry.fail(call, error)
            self._parts = None
        else:
            if self._parts is None:
                self._parts = []
            self._parts.append(part)

    def end(self) -> None:
        """The body is complete."""
        self.whole = True
        parts, self._parts = self._parts or [], None
        self._entry.predict(self.call, parts[0] if len(parts) == 1 else b"".join(parts))

    def fail(self, fault: RequestError) -> None:
        """The body can not be completed."""
        self._entry.fail(self.call, fault)

    @property
    def answerable(self) -> bool:
        """Whether no more has to come for an answer."""
        return self.whole or bool(self.call.finished)

    def say_continue(self) -> None:
        """Sends an interim response, if there may be one now."""
        if not self.started and self.call.scope["http_version"] == "1.1":
            self._wire.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def disconnect(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._entry.abandon(self.call, whole=self.whole)

    def _invite(self) -> None:
        """Asks for the body of a client that waits with it, unless it has begun to come or is not wanted."""
        if not (self.answerable or self._parts or self.disconnected):
            self.say_continue()

    # The response.

    def _reply(self, response: Response) -> None:
        if self.disconnected:
            return
        wire = self._wire
        common = wire.common
        keep_alive = self._keep_alive and self.whole and not common.draining
        body, headers = response.body, response.headers
        if response.status == 200 and keep_alive and len(headers) == 1:
            ((name, value),) = headers
            data = b"%b%b: %b\r\ncontent-length: %d\r\n\r\n%b" % (
                common.success, name, value, len(body), body,
            )  # fmt: skip
        else:
            kind, length, *others = headers_of(response)
            data = head(response.status, (kind, *others, length), common.date, last=not keep_alive) + body
        self.started = True
        wire.transport.write(data)
        wire.answered(keep_alive=keep_alive)
