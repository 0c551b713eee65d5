"""Which requests are traced: decided by their headers, before there is any span."""

from __future__ import annotations

from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult, TraceIdRatioBased

from mlserver.propagation import read_traceparent
from mlserver.serving.call import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

    from mlserver.observers.traces.settings import Rate
    from mlserver.serving.call import Batch, Tracer

RUN: ContextVar[Batch | None] = ContextVar("run", default=None)
"""The run of the predictor that this context belongs to."""

_BITS = 64
_ZEROS = b"0" * 16
_AS_ZEROS = bytes.maketrans(b"123456789abcdef", b"0" * 15)
_FORM = b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00"
_TRACE_END, _SPAN_END, _FLAGS_END = 34, 51, 54
_ODD = frozenset(b"13579bdf")
# One of this process's own: a predictor that seeds Python's would make the same ids in every worker.
_random_bits = Random().getrandbits  # noqa: S311  # ids, no secrets


def new_span_id() -> int:
    """Eight random bytes as a number, not 0."""
    return _random_bits(_BITS) or 1


def decider(rate: Rate) -> Tracer:
    """The decision on each request, by ratio and by what a caller's ``traceparent`` says.

    As OpenTelemetry's samplers do it: by the last 64 bits of the trace's id.
    """
    bound = round(rate.ratio * 2**_BITS)
    follows_caller = rate.follows_caller
    random_bits, form, zeros, as_zeros, odd = _random_bits, _FORM, _ZEROS, _AS_ZEROS, _ODD
    zero = ord("0")

    def decide(headers: Mapping[bytes, bytes]) -> Trace | None:
        value = headers.get(b"traceparent")
        if value is None:
            low = random_bits(_BITS)
            return _root(low) if low < bound else None
        # Most are of this form, which is seen in half the time of a regular expression. What might be an id
        # of nothing but zeros is left to that.
        if (
            follows_caller
            and value.translate(as_zeros) == form
            and value[0] == zero
            and value[_FLAGS_END] not in odd
            and ((value[_TRACE_END] != zero and value[_SPAN_END] != zero) or value.find(zeros) < 0)
        ):
            return None
        return _decide_with(value, bound, follows_caller=follows_caller)

    return decide


def _decide_with(value: bytes, bound: int, *, follows_caller: bool) -> Trace | None:
    parent = read_traceparent(value)
    if parent is None:
        low = _random_bits(_BITS)
        return _root(low) if low < bound else None
    sampled = parent.sampled if follows_caller else int(parent.trace_id[16:], 16) < bound
    return child_of(parent.trace_id, parent.span_id) if sampled else None


def _root(low: int) -> Trace:
    high = _random_bits(_BITS) or 1
    return Trace(f"{high:016x}{low:016x}", f"{new_span_id():016x}")


def child_of(trace_id: str, span_id: str) -> Trace:
    """A new place in a trace, below a span."""
    return Trace(trace_id, f"{new_span_id():016x}", span_id)


def new_trace() -> Trace:
    """A new place in a trace of its own."""
    return _root(_random_bits(_BITS))


class RunSampler(Sampler):
    """Of spans without a parent: in a run that is not sampled none, elsewhere the share that is configured.

    A predictor's span has a parent wherever its run is sampled.
    """

    def __init__(self, ratio: float) -> None:
        self.set_ratio(ratio)

    def set_ratio(self, ratio: float) -> None:
        """Sets the share of spans outside of runs."""
        self._elsewhere = TraceIdRatioBased(ratio)

    def should_sample(  # noqa: PLR0917  # the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The decision on one span."""
        run = RUN.get()
        if run is not None and run.trace is None:
            return SamplingResult(Decision.DROP)
        return self._elsewhere.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """As the SDK asks for it."""
        return f"Run{{{self._elsewhere.get_description()}}}"


class RunIds(IdGenerator):
    """Ids of the predictor's own spans; in a run that is not sampled, of the trace that it passes on."""

    def generate_span_id(self) -> int:
        """Eight random bytes."""
        return new_span_id()

    def generate_trace_id(self) -> int:
        """Sixteen bytes: random, or of the caller's trace that is not sampled."""
        run = RUN.get()
        if run is not None and run.trace is None and len(run.calls) == 1:
            parent = read_traceparent(run.calls[0].headers.get(b"traceparent"))
            if parent is not None:
                return int(parent.trace_id, 16)
        return int(new_trace().trace_id, 16)
