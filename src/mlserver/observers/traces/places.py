"""Places in a trace as OpenTelemetry has them: read from a request, entered by a run, sent on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from mlserver.errors import MLServerError
from mlserver.observers.traces.sampling import RUN, child_of, new_trace
from mlserver.observers.traces.silence import Calm
from mlserver.propagation import BAGGAGE, MAX_BYTES, TRACE_CONTEXT, passed_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import TraceState

    from mlserver.serving.call import Batch, Call, Trace, Tracer

_RANDOM = 0x02
"""The flag of a trace whose id is random, by W3C Trace Context Level 2."""
_set_run = RUN.set
_calm = Calm()  # one, since it stays


class Places:
    """Reads and writes trace context by the propagators that ``OTEL_PROPAGATORS`` names.

    Raises:
        MLServerError: one of them is not known.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate  # noqa: PLC0415  # it reads the variable
        except ValueError as error:
            raise MLServerError(f"OTEL_PROPAGATORS: {error}") from None
        _calm.begin()
        self._propagator: TextMapPropagator = propagate.get_global_textmap()
        self._fields = sorted(self._propagator.fields)
        self.usual = {"traceparent", "tracestate"} <= set(self._fields) <= set(TRACE_CONTEXT)
        """Whether all that matters is in W3C's own headers."""

    def decider(self, decide: Tracer) -> Tracer:
        """Asks a decision that knows ``traceparent`` only, by whatever headers there are."""
        if self.usual:
            return decide

        def decide_by_any(headers: Mapping[bytes, bytes]) -> Trace | None:
            parent = get_current_span(self._extract(self._any(headers))).get_span_context()
            if not parent.is_valid:
                return decide({})
            ids = f"{parent.trace_id:032x}-{parent.span_id:016x}-{parent.trace_flags:02x}"
            return decide({b"traceparent": f"00-{ids}".encode("ascii")})

        return decide_by_any

    @staticmethod
    def below_current(decide: Tracer) -> Tracer:
        """Asks a decision only where no span is current, such as of an application around this one."""

        def decide_below(headers: Mapping[bytes, bytes]) -> Trace | None:
            place = get_current_span().get_span_context()
            if not place.is_valid:
                return decide(headers)
            if not place.trace_flags.sampled:
                return None
            return child_of(f"{place.trace_id:032x}", f"{place.span_id:016x}")

        return decide_below

    def enter(self, batch: Batch) -> None:
        """Makes a run's own span the current one, where a call that it answers is sampled."""
        _set_run(batch)
        calls = batch.calls
        if len(calls) == 1:
            call = calls[0]
            if call.trace is not None and call.trace.span_id is not None:
                self._enter_alone(batch, call, call.trace)
            elif b"baggage" in call.headers or not self.usual:
                contexts.attach(self._unsampled(call))
            return
        for call in calls:
            if call.trace is not None and call.trace.span_id is not None:
                batch.trace = trace = new_trace()
                _attach(_context_of(trace, _RANDOM), contexts.get_current())
                break

    def _enter_alone(self, batch: Batch, call: Call, trace: Trace) -> None:
        batch.trace = place = child_of(trace.trace_id, trace.span_id or "")
        if trace.parent_id is None and b"baggage" not in call.headers:
            _attach(_context_of(place, _RANDOM), contexts.get_current())
            return
        context = self._extract(self._carrier(call))
        caller = get_current_span(context).get_span_context()
        flags = _RANDOM if trace.parent_id is None else caller.trace_flags & _RANDOM
        _attach(_context_of(place, flags, caller.trace_state), context)

    def outgoing(self) -> Mapping[str, str]:
        """Headers that carry the current place on: of the current span, or of a run that is not sampled."""
        carrier: dict[str, str] = {}
        context = None
        if not get_current_span().get_span_context().is_valid:
            if (run := RUN.get()) is None:
                return carrier
            context = self._unsampled(run.calls[0] if len(run.calls) == 1 else None)
        with _calm:
            self._propagator.inject(carrier, context)
        return carrier

    def _unsampled(self, call: Call | None) -> Context:
        """Where a run is that is not sampled: at its caller's span, else in a trace of its own."""
        context = contexts.get_current() if call is None else self._extract(self._carrier(call))
        place = get_current_span(context).get_span_context()
        if not place.is_valid:
            context = set_span_in_context(NonRecordingSpan(_context_of(new_trace(), _RANDOM)), context)
            place = get_current_span(context).get_span_context()
        flags = TraceFlags(place.trace_flags & _RANDOM)
        place = SpanContext(place.trace_id, place.span_id, place.is_remote, flags, place.trace_state)
        return set_span_in_context(NonRecordingSpan(place), context)

    def _extract(self, carrier: dict[str, str]) -> Context:
        if not carrier:
            return contexts.get_current()
        with _calm:
            return self._propagator.extract(carrier, contexts.get_current())

    def _carrier(self, call: Call) -> dict[str, str]:
        repeated = call.scope.get("headers", ())
        return passed_on(call.headers, repeated) if self.usual else self._any(call.headers, repeated)

    def _any(
        self, headers: Mapping[bytes, bytes], repeated: Iterable[tuple[bytes, bytes]] = ()
    ) -> dict[str, str]:
        carrier = passed_on(headers, repeated)
        for name in self._fields:
            value = headers.get(name.lower().encode("ascii"), b"").decode("latin-1")
            if name not in TRACE_CONTEXT and value.isascii() and 0 < len(value) <= MAX_BYTES[BAGGAGE]:
                carrier[name] = value
        return carrier


def current_fields() -> Mapping[str, str]:
    """The ids of the current span, where it is sampled, for a log line."""
    place = get_current_span().get_span_context()
    if not place.is_valid or not place.trace_flags.sampled:
        return {}
    return {"trace_id": f"{place.trace_id:032x}", "span_id": f"{place.span_id:016x}"}


def _context_of(trace: Trace, flags: int = 0, state: TraceState | None = None) -> SpanContext:
    return SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id or "0", 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED | flags),
        trace_state=state,
    )


def _attach(place: SpanContext, context: Context) -> None:
    """For the rest of this context, which is a copy made for the run."""
    contexts.attach(set_span_in_context(NonRecordingSpan(place), context))
