"""The records of a request's way through the server, and the one seam through which they are observed.

Nothing here knows a metric, a log line or a span: observers make those from the finished records.
All times are seconds of ``time.perf_counter()``; 0.0 means that the call did not get there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextvars import Context

    from mlserver.errors import RequestError
    from mlserver.serving.rows import Rows

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)  # frozen, it would take three times as long to make
class Response:
    """A complete HTTP response; ``content-length`` is added on the way out."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = ()

    def add_header(self, name: bytes, value: bytes) -> None:
        """Adds a header."""
        self.headers = (*self.headers, (name, value))


@dataclass(slots=True, frozen=True)
class Trace:
    """One place in a sampled trace, by the ids of W3C Trace Context in hexadecimal digits."""

    trace_id: str
    """32 digits."""
    span_id: str | None = None
    """16 digits; None where the caller traces and this server does not."""
    parent_id: str | None = None
    """16 digits: the caller's span."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Call:
    """One request on its way through the server."""

    method: str
    """HTTP method as sent; observers fold unknown ones."""
    endpoint: str
    """Route template, or ``unmatched``."""
    received: float
    """When its headers were complete."""
    request_id: str | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    """As sent; names in lower case, of a repeated one the last."""
    scope: Mapping[str, Any] = field(default_factory=dict)
    """What else the server knows of the request, by the names of ASGI's connection scope."""
    trace: Trace | None = None
    """Where the request is in its trace; only if that is sampled."""
    operation: str | None = None
    """The predictor's method that was asked for: ``predict`` or ``predict_proba``."""
    quiet: bool = False
    """A probe or a scrape: counted, but logged at DEBUG only and without a span."""
    context: Context | None = None
    """Context variables of whoever made the call; a run of this call alone sees them."""
    body: bytes = b""
    reserved: int = 0
    """Bytes of its body that count against ``server.max_buffered_bytes``."""
    rows: Rows | None = None
    decoded: float = 0.0
    started: float = 0.0
    predicted: float = 0.0
    finished: float = 0.0
    batch: Batch | None = None
    """The run that answered this call, or failed to."""
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    error: RequestError | None = None
    """What the client was told; the predictor's own exception is its ``__cause__``."""
    response: Response | None = None
    reply: Callable[[Response], None] | None = None
    """Sends the response; called once, after the observers have seen the call."""

    @property
    def status(self) -> int:
        """HTTP status of the response; 0 before there is one."""
        return self.response.status if self.response is not None else 0

    @property
    def cause(self) -> BaseException | None:
        """What went wrong inside: the predictor's exception, else the error that was answered."""
        return self.error and (self.error.__cause__ or self.error)

    @property
    def error_type(self) -> str | None:
        """Class name of what went wrong inside."""
        return type(cause).__name__ if (cause := self.cause) is not None else None

    def release(self) -> None:
        """Lets go of what is large, and of the cycles that keep it until the garbage collector comes by.

        A traceback holds the frames it went through, and one of them holds this call.
        """
        self.body, self.rows = b"", None
        if (error := self.error) is not None:
            error.__traceback__ = None
            if error.__cause__ is not None:
                error.__cause__.__traceback__ = None


@dataclass(slots=True, eq=False)
class Batch:
    """One run of the predictor, and the calls it was to answer."""

    calls: list[Call]
    operation: str
    rows: int
    id: str = ""
    """Set where several calls share the run."""
    started: float = 0.0
    ended: float = 0.0
    cpu_s: float = 0.0
    """Seconds of a processor that the thread took which ran it."""
    error: BaseException | None = None
    trace: Trace | None = None
    """The span that the predictor's own nest under, if it is sampled; set by an `Enter` hook."""


class Observer(Protocol):
    """Turns finished calls and batches into one kind of signal.

    Called on the event loop, before the calls' responses leave. Every call and every batch is passed once.
    """

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None: ...


Enter = Callable[[Batch], None]
"""Called in the predictor's thread and context before a run, so that what the predictor itself logs and
sends carries the ids of the calls it answers."""


class Level(Protocol):
    """One number at index 0: a list, or the memory of a metric page that another process reads."""

    def __getitem__(self, index: int, /) -> float: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...


@dataclass(slots=True)
class Levels:
    """What is so right now."""

    active: Level = field(default_factory=lambda: [0.0])
    """Requests received whose response has not left."""
    queued: Level = field(default_factory=lambda: [0.0])
    """Requests that wait for a run; true whenever the loop rests."""
    model_loaded: Level = field(default_factory=lambda: [0.0])
    """1 when the model is loaded."""


Tracer = Callable[[Mapping[bytes, bytes]], Trace | None]
"""Decides, by a request's headers, whether it is traced, and gives it its place."""
