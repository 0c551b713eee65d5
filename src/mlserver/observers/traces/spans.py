"""Spans made of records: their names, attributes, events and links."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    exception_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
    user_agent_attributes,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.trace.status import Status, StatusCode

from mlserver import signals
from mlserver.observers.traces.records import Request, Run
from mlserver.observers.traces.sampling import child_of, new_span_id
from mlserver.paths import UNMATCHED
from mlserver.signals import spans as declared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from mlserver.config import Config
    from mlserver.observers.traces.records import Raised
    from mlserver.serving.call import Trace

    Attributes = list[tuple[str, str | int]]

UNKNOWN_METHOD = "_OTHER"
"""As the semantic conventions call a method that is none of HTTP's."""
PORTS = {"http": 80, "https": 443}


class Finished(NamedTuple):
    """One span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start: int
    """Nanoseconds since 1970."""
    end: int
    attributes: Attributes
    is_server: bool = False
    """Of kind SERVER, its parent elsewhere."""
    state: str = ""
    failed: bool = False
    raised: Raised | None = None
    """Its ``exception`` event, at its end."""
    links: Sequence[Trace] = ()


class Spans:
    """Makes the spans of one worker's records.

    Args:
        hide: applied to what clients make up: paths, user agents.
    """

    def __init__(
        self, config: Config, *, worker: int | None, hide: Callable[[str], str] | None = None
    ) -> None:
        self._hide = hide
        self._model: Attributes = [(declared.MODEL.name, config.model.name)]
        self._of_request: Attributes = [
            *self._model,
            (declared.MODEL_VERSION.name, config.model.version),
            *([] if worker is None else [(declared.WORKER.name, worker)]),
        ]

    def of(self, record: Request | Run) -> Iterator[Finished]:
        """The spans of a record."""
        if isinstance(record, Request):
            yield from self._of_call(record)
        elif record.id:
            yield self._batch(record)
        else:
            yield self._predict(record, record.trace)

    def _of_call(self, call: Request) -> Iterator[Finished]:
        trace_id, span_id = call.trace.trace_id, call.trace.span_id or ""
        method = call.method if call.method in signals.METHODS else "HTTP"
        yield Finished(
            method if call.endpoint == UNMATCHED else f"{method} {call.endpoint}",
            trace_id,
            span_id,
            call.trace.parent_id,
            call.received,
            call.finished,
            self._attributes(call),
            is_server=True,
            state=call.state,
            failed=call.status >= 500,
            raised=call.raised,
        )

        def part(kind: declared.SpanKind, start: int, end: int) -> Finished:
            return Finished(
                kind.name, trace_id, f"{new_span_id():016x}", span_id, start, end, [], state=call.state
            )

        if call.decoded:
            yield part(declared.DECODE, call.received, call.decoded)
        if call.started:
            yield part(declared.QUEUE, call.decoded, call.started)
            if call.shared is not None:
                place = child_of(trace_id, span_id)
                yield self._predict(call.shared._replace(state=call.state), place)
        if call.predicted:
            yield part(declared.ENCODE, call.predicted, call.finished)

    def _predict(self, run: Run, place: Trace) -> Finished:
        attributes = [*self._model, (declared.BATCH_ROWS.name, run.model_rows)]
        if run.input_shape is not None:
            attributes.append((declared.INPUT_SHAPE.name, str(run.input_shape)))
        if run.output_shape is not None:
            attributes.append((declared.OUTPUT_SHAPE.name, str(run.output_shape)))
        if run.id:
            attributes.append((declared.BATCH_ID.name, run.id))
        return self._of_run(declared.PREDICT.name, run, place, attributes)

    def _batch(self, run: Run) -> Finished:
        attributes = [
            *self._model,
            (declared.BATCH_ID.name, run.id),
            (declared.BATCH_ROWS.name, run.model_rows),
            (declared.BATCH_CALLS.name, run.calls),
        ]
        return self._of_run(declared.BATCH.name, run, run.trace, attributes)

    @staticmethod
    def _of_run(name: str, run: Run, place: Trace, attributes: Attributes) -> Finished:
        if run.error_type is not None:
            attributes.append((error_attributes.ERROR_TYPE, run.error_type))
        return Finished(
            name,
            place.trace_id,
            place.span_id or "",
            place.parent_id,
            run.started,
            run.ended,
            attributes,
            state=run.state,
            failed=run.failed,
            raised=run.raised,
            links=run.links,
        )

    def _attributes(self, call: Request) -> Attributes:
        """By the semantic conventions for HTTP servers, and the server's own."""
        hide = self._hide or _as_it_is
        attributes = list(self._of_request)
        if call.id is not None:
            attributes.append((declared.REQUEST_ID.name, call.id))
        if call.method in signals.METHODS:
            attributes.append((http_attributes.HTTP_REQUEST_METHOD, call.method))
        else:
            attributes.append((http_attributes.HTTP_REQUEST_METHOD, UNKNOWN_METHOD))
            attributes.append((http_attributes.HTTP_REQUEST_METHOD_ORIGINAL, hide(call.method)))
        attributes.append((http_attributes.HTTP_RESPONSE_STATUS_CODE, call.status))
        attributes.append((url_attributes.URL_SCHEME, call.scheme))
        if call.endpoint != UNMATCHED:
            attributes.append((http_attributes.HTTP_ROUTE, call.endpoint))
        if call.path:
            attributes.append((url_attributes.URL_PATH, hide(call.path)))
        attributes += self._peers(call, hide)
        if call.error_type is not None:
            attributes.append((error_attributes.ERROR_TYPE, call.error_type))
        return attributes

    @staticmethod
    def _peers(call: Request, hide: Callable[[str], str]) -> Attributes:
        attributes: Attributes = []
        host, port = _server(call)
        if host:
            attributes.append((server_attributes.SERVER_ADDRESS, hide(host)))
            if port is not None:
                attributes.append((server_attributes.SERVER_PORT, port))
        if call.client:
            attributes.append((client_attributes.CLIENT_ADDRESS, call.client))
        if call.agent:
            attributes.append((user_agent_attributes.USER_AGENT_ORIGINAL, hide(call.agent)))
        if call.version:
            attributes.append((network_attributes.NETWORK_PROTOCOL_VERSION, call.version))
        return attributes


def events_of(span: Finished) -> Attributes:
    """The attributes of its ``exception`` event; none where it has none."""
    if span.raised is None:
        return []
    attributes: Attributes = [
        (exception_attributes.EXCEPTION_TYPE, span.raised.type),
        (exception_attributes.EXCEPTION_MESSAGE, span.raised.message),
    ]
    if span.raised.stack:
        attributes.append((exception_attributes.EXCEPTION_STACKTRACE, span.raised.stack))
    return attributes


def readable(span: Finished, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """A span as the SDK has it."""
    state = TraceState.from_header([span.state]) if span.state else TraceState()
    parent = _place(span.trace_id, span.parent_id, state, remote=span.is_server) if span.parent_id else None
    events = [Event("exception", dict(given), span.end)] if (given := events_of(span)) else []
    return ReadableSpan(
        name=span.name,
        context=_place(span.trace_id, span.span_id, state),
        parent=parent,
        resource=resource,
        attributes=dict(span.attributes),
        events=events,
        links=[Link(_place(link.trace_id, link.span_id or "0")) for link in span.links],
        kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR) if span.failed else Status(StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=scope,
    )


def _place(
    trace_id: str, span_id: str, state: TraceState | None = None, *, remote: bool = False
) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, flags, state)


def _as_it_is(text: str) -> str:
    return text


def _server(call: Request) -> tuple[str, int | None]:
    """The name and port that the client asked for, else those that it reached."""
    if call.host:
        name, colon, port = call.host.rpartition(":")
        if colon and port.isascii() and port.isdigit() and len(port) <= 5:
            return name.strip("[]"), int(port)
        return call.host.strip("[]"), PORTS.get(call.scheme)
    if call.server and isinstance(call.server[0], str):
        port_number = call.server[1]
        return call.server[0], port_number if isinstance(port_number, int) else None
    return "", None
