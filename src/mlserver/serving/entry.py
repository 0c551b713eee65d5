"""Where requests become calls, whichever way they come in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlserver.errors import BodyTooLarge, ClientGone
from mlserver.serving.call import Call
from mlserver.serving.ids import accept_id, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlserver.errors import RequestError
    from mlserver.serving.call import Response, Tracer
    from mlserver.serving.pipeline import Pipeline


class Entry:
    """Opens calls, and takes in what comes of their bodies.

    Args:
        max_body: bytes of a request's body.
        ids: whether ``X-Request-ID`` is read; without, calls have no ids.
        trace: decides which requests are traced.
    """

    def __init__(self, pipeline: Pipeline, *, max_body: int, ids: bool, trace: Tracer) -> None:
        self._pipeline = pipeline
        self.take_whole = pipeline.take
        self._max_body = max_body
        self._ids = ids
        self._trace = trace

    def open(  # noqa: PLR0917  # key words would cost every request as much as the rest of it
        self,
        method: str,
        endpoint: str,
        reply: Callable[[Response], None],
        headers: Mapping[bytes, bytes],
        scope: Mapping[str, Any],
        operation: str | None = None,
        *,
        quiet: bool = False,
    ) -> Call:
        """The call of a request whose headers are complete; see `Call` for what is given."""
        call = Call(method, endpoint, time.perf_counter())
        call.reply = reply
        call.headers = headers
        call.scope = scope
        call.operation = operation
        if self._ids:
            given = headers.get(b"x-request-id")
            call.request_id = new_id() if given is None else accept_id(given)
        if quiet:
            call.quiet = True
        else:
            call.trace = self._trace(headers)
        self._pipeline.begin(call)
        return call

    def expect(self, declared: int) -> None:
        """Looks at how long a body is said to be.

        Raises:
            BodyTooLarge: it is too long.
        """
        if declared > self._max_body:
            raise self._too_large(declared)

    def take(self, call: Call, size: int) -> None:
        """Makes room for so many more bytes of a body.

        Raises:
            Overloaded: too many bytes are held already.
            BodyTooLarge: the body is too long.
        """
        self._pipeline.reserve(call, size)
        if call.reserved > self._max_body:
            raise self._too_large(call.reserved)

    def predict(self, call: Call, body: bytes) -> None:
        """Has a complete body answered."""
        self._pipeline.predict(call, body, call.headers.get(b"content-type"))

    def fail(self, call: Call, error: RequestError) -> None:
        """Ends a call with an error, unless it has ended."""
        self._pipeline.fail(call, error)

    def abandon(self, call: Call, *, whole: bool) -> None:
        """Ends a call whose client has gone, unless it has ended; ``whole``: its body has come."""
        if whole:
            self._pipeline.abandon(call)
        else:
            self._pipeline.fail(call, ClientGone("The client closed the connection within the body."))

    def _too_large(self, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"The body has {size} bytes or more, the limit is {self._max_body} (server.max_body_bytes)."
        )
