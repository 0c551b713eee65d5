"""Traces of one worker: which requests are traced, where their runs are, and their spans on the way out."""

from __future__ import annotations

import threading
import time
from functools import partial
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from mlserver.observers.traces import records
from mlserver.observers.traces.exporter import Exporter
from mlserver.observers.traces.losses import Losses
from mlserver.observers.traces.places import Places, current_fields
from mlserver.observers.traces.provider import Provider, install, size_of
from mlserver.observers.traces.queue import Item, Queue
from mlserver.observers.traces.sampling import decider
from mlserver.observers.traces.settings import disabled, limits_of, rate_of, resource_of, target_of
from mlserver.observers.traces.spans import Spans
from mlserver.observers.traces.transport import connect
from mlserver.propagation import read_traceparent
from mlserver.serving.call import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mlserver.config import Config
    from mlserver.redaction import Redaction
    from mlserver.serving.call import Batch, Call

FULL = "the queue is full, since it takes them more slowly than they come, or not at all"


class Traces:
    """The tracer of requests, the hook of runs and the observer, over one queue to the collector.

    Args:
        worker: number of the worker; None where another server runs the application.
        on_drop: told how many spans are lost, in any thread.
        redaction: of the texts in spans.

    Raises:
        MLServerError: what is configured cannot be had.
    """

    def __init__(
        self,
        config: Config,
        *,
        worker: int | None,
        on_drop: Callable[[int], None],
        redaction: Redaction | None = None,
    ) -> None:
        target, rate, resource = target_of(config), rate_of(config), resource_of(config)
        self._resource, self._ratio = resource, rate.ratio
        self._off = disabled()
        self._places = Places()
        self._provider = Provider(resource, rate.ratio)
        self._queue = Queue(limits_of())
        self._losses = Losses(target.shown, on_drop)
        self._recorder = records.Recorder(redaction)
        self._exporter = Exporter(
            self._queue,
            Spans(config, worker=worker, hide=redaction.text if redaction is not None else None),
            partial(connect, target),
            self._losses,
            resource=resource,
            scope=InstrumentationScope("mlserver", installed_version("mlserver-observability")),
            passes=lambda: self._provider.processors.others,
        )
        self._closing = threading.Lock()
        self._closed = False
        decide = self._places.decider(decider(rate))
        if worker is None:
            decide = self._places.below_current(decide)
        self.decide = _caller_trace if self._off else decide
        """The tracer: the place of a request that is sampled, by its headers."""
        self.enter = _stay if self._off else self._places.enter
        """The hook: makes a run's span the current one before the predictor is run."""
        self.observe = self._observer()
        """The observer itself; calling the object is the same."""

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:
        """Hands over what is sampled of one turn."""
        self.observe(calls, batches)

    def _observer(self) -> Callable[[Sequence[Call], Sequence[Batch]], None]:
        """What most turns go through, where nothing is sampled; a closure is the cheapest to call."""
        hand_over = self._hand_over

        def observe(calls: Sequence[Call], batches: Sequence[Batch]) -> None:
            for call in calls:
                if call.trace is not None:
                    hand_over(calls, batches)
                    return
            for batch in batches:
                if batch.trace is not None:
                    hand_over((), batches)
                    return

        return observe

    def install(self) -> None:
        """Makes the predictor's own spans part of it; to be called before the predictor is imported."""
        if self._off:
            return
        self._provider = install(self._provider)
        self._provider.serve(self._resource, self._ratio, self._take)

    def start(self) -> None:
        """Begins to send; what has come before waits for it."""
        self._exporter.start()

    def close(self, timeout: float) -> None:
        """Sends what is left; blocks for so many seconds at most. May be called twice."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        until = time.monotonic() + timeout
        others = threading.Thread(
            target=self._provider.processors.leave, name="traces-of-others", daemon=True
        )
        self._exporter.close(timeout)
        if self._provider.processors.take == self._take:
            self._provider.processors.take = None
            others.start()
            others.join(max(0.0, until - time.monotonic()))

    def outgoing(self) -> Mapping[str, str]:
        """Headers of the current span or run, for requests that the predictor makes."""
        return {} if self._off else self._places.outgoing()

    def fields(self) -> Mapping[str, str]:
        """``trace_id`` and ``span_id`` of the current span where it is sampled, for log lines."""
        return current_fields()

    def _hand_over(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:
        self._recorder.turn()
        items: list[Item] = []
        fault = None
        makes = [partial(self._of_call, call, call.trace) for call in calls if call.trace is not None]
        runs = [partial(self._of_run, batch, batch.trace) for batch in batches if batch.trace is not None]
        for make in (*makes, *runs):
            try:
                items.append(make())
            except Exception as error:  # noqa: BLE001  # the others of the turn are handed over
                fault = error
                self._losses.count(1, "they could not be made")
        self._losses.count(self._queue.put(items), FULL)
        if fault is not None:
            raise fault

    def _of_call(self, call: Call, trace: Trace) -> Item:
        record = self._recorder.request(call, trace)
        spans = 1 + bool(record.decoded) + bool(record.started) + bool(record.predicted)
        spans += record.shared is not None
        return Item(spans, records.size_of(record), record)

    def _of_run(self, batch: Batch, trace: Trace) -> Item:
        record = self._recorder.run(batch, trace)
        return Item(1, records.size_of(record), record)

    def _take(self, span: ReadableSpan) -> None:
        """Takes a span of the predictor's own."""
        self._losses.count(self._queue.put([Item(1, size_of(span), span)]), FULL)


def _caller_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The caller's place, for exemplars and log lines where nothing is traced here."""
    parent = read_traceparent(headers.get(b"traceparent"))
    return Trace(parent.trace_id, None, parent.span_id) if parent is not None and parent.sampled else None


def _stay(batch: Batch) -> None:
    """The hook where nothing is traced."""
