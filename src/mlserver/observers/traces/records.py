"""What is kept of a finished call or run until its spans are made: no bodies, no objects of the request."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

from mlserver.errors import RequestError
from mlserver.lines.texts import UNHIDDEN, cut, cut_stack, plain, without
from mlserver.propagation import TRACESTATE, passed_on

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlserver.redaction import Redaction
    from mlserver.serving.call import Batch, Call, Trace

    Shape = tuple[int, ...] | None

MAX_TEXT = 512
"""Bytes of what a client makes up: a path, a user agent."""
MAX_SHORT = 128
REQUEST_BYTES = 2048
"""About what one record takes, without its texts; measured."""
RUN_BYTES = 1024
LINK_BYTES = 512


class Raised(NamedTuple):
    """An exception, as it may be shown."""

    type: str
    message: str
    stack: str


class Run(NamedTuple):
    """One run: of one call its ``predict`` span, of several their ``batch`` span."""

    trace: Trace
    id: str
    model_rows: int
    calls: int
    started: int
    """Nanoseconds since 1970, as all times here."""
    ended: int
    input_shape: Shape
    output_shape: Shape
    error_type: str | None
    failed: bool
    """For reasons of the server's or the predictor's."""
    raised: Raised | None
    links: Sequence[Trace]
    """The spans of the calls that it was to answer; of a call's part in it, the run's."""
    state: str = ""
    """As of the call, where it has one."""


class Request(NamedTuple):
    """One call."""

    trace: Trace
    state: str
    """Its caller's ``tracestate``."""
    id: str | None
    method: str
    endpoint: str
    status: int
    received: int
    decoded: int
    """0 where it did not get there, as all times from here on."""
    started: int
    predicted: int
    finished: int
    error_type: str | None
    raised: Raised | None
    """What did not come of a run."""
    shared: Run | None
    """The run that it shared with others."""
    path: str
    scheme: str
    host: str
    """As the client named it, with or without a port."""
    server: Sequence[str | int | None] | None
    client: str
    agent: str
    version: str


class Recorder:
    """Makes records of one turn's calls and runs.

    Args:
        redaction: hides in an exception's texts what the bodies hold that led to it.
    """

    def __init__(self, redaction: Redaction | None) -> None:
        self._redaction = redaction
        self._anchor = 0  # between the clock of calls and the one of spans

    def turn(self) -> None:
        """Takes the time; within a turn both clocks keep step."""
        self._anchor = time.time_ns() - round(time.perf_counter() * 1e9)

    def request(self, call: Call, trace: Trace) -> Request:
        """What is kept of a finished call."""
        scope, headers, batch = call.scope, call.headers, call.batch
        cause, raised = call.cause, None
        if cause is not None and call.status >= 500 and (batch is None or cause is not batch.error):
            raised = self._raised(cause, [call])
        client = scope.get("client")
        return Request(
            trace,
            _state(call),
            call.request_id,
            _cut(call.method, MAX_SHORT),
            call.endpoint,
            call.status,
            self._at(call.received),
            self._at(call.decoded),
            self._at(call.started),
            self._at(call.predicted),
            self._at(call.finished),
            call.error_type,
            raised,
            self._shared(call, batch) if batch is not None and batch.id else None,
            _cut(scope.get("path", ""), MAX_TEXT),
            scope.get("scheme", "http"),
            _text(headers.get(b"host"), MAX_TEXT),
            scope.get("server"),
            client[0] if client else "",
            _text(headers.get(b"user-agent"), MAX_TEXT),
            scope.get("http_version", ""),
        )

    def run(self, batch: Batch, trace: Trace) -> Run:
        """What is kept of a run, before its calls are let go."""
        calls = batch.calls
        if len(calls) == 1:
            run = self._run(batch, trace, calls[0].input_shape, calls[0].output_shape, ())
            return run._replace(state=_state(calls[0]))
        links = tuple(call.trace for call in calls if call.trace is not None)
        return self._run(batch, trace, None, None, links)

    def _shared(self, call: Call, batch: Batch) -> Run | None:
        """A run as one of its calls sees it; the exception is with the run's own span."""
        if batch.trace is None:
            return None
        run = self._run(batch, batch.trace, call.input_shape, call.output_shape, (batch.trace,), told=True)
        return run._replace(started=self._at(call.started), ended=self._at(call.predicted))

    def _run(
        self,
        batch: Batch,
        trace: Trace,
        input_shape: Shape,
        output_shape: Shape,
        links: Sequence[Trace],
        *,
        told: bool = False,
    ) -> Run:
        error = batch.error
        failed = error is not None and not (isinstance(error, RequestError) and error.status < 500)
        raised = self._raised(error, batch.calls) if error is not None and failed and not told else None
        return Run(
            trace,
            batch.id,
            batch.rows,
            len(batch.calls),
            self._at(batch.started),
            self._at(batch.ended),
            input_shape,
            output_shape,
            type(error).__name__ if error is not None else None,
            failed,
            raised,
            links,
        )

    def _at(self, seconds: float) -> int:
        return self._anchor + round(seconds * 1e9) if seconds else 0

    def _raised(self, error: BaseException, calls: Sequence[Call]) -> Raised:
        kind = type(error)
        name = kind.__qualname__
        if kind.__module__ != "builtins":
            name = f"{kind.__module__}.{name}"
        bodies = [call.body for call in calls]
        if self._redaction is None:
            hide: Callable[[str], str] | None = None
        elif any(call.decoded and not call.body for call in calls):
            return Raised(name, UNHIDDEN, "")  # a call that ended before its run has no body to look for
        else:
            hide = self._redaction.hide(bodies)
        message = cut(without(plain(error), hide))
        stack = ""
        if error.__traceback__ is not None:
            stack = cut_stack(without(_stack(error), hide, end=True))
        return Raised(name, message, stack)


def size_of(record: Request | Run) -> int:
    """About how many bytes of memory a record takes."""
    raised = record.raised
    size = len(raised.message) + len(raised.stack) if raised is not None else 0
    if isinstance(record, Run):
        return RUN_BYTES + LINK_BYTES * len(record.links) + size
    texts = len(record.path) + len(record.agent) + len(record.host) + len(record.state)
    return REQUEST_BYTES + texts + size + (size_of(record.shared) if record.shared is not None else 0)


def _state(call: Call) -> str:
    if b"tracestate" not in call.headers:
        return ""
    return passed_on(call.headers, call.scope.get("headers", ())).get(TRACESTATE, "")


def _stack(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001  # a user's own ``str`` may raise
        return "".join(traceback.format_tb(error.__traceback__))


def _text(value: bytes | None, limit: int) -> str:
    return "" if value is None else _cut(value.decode("utf-8", "replace"), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit and text.isascii() else cut(text, limit)
