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
from mlserver.observers.traces.settings import limits_of, masked, rate_of, resource_of, target_of
from mlserver.observers.traces.spans import Spans
from mlserver.observers.traces.transport import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mlserver.config import Config
    from mlserver.redaction import Redaction
    from mlserver.serving.call import Batch, Call


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
        self._hide = redaction.text if redaction is not None else None
        self._places = Places()
        self._provider = Provider(resource, rate.ratio)
        self._queue = Queue(limits_of())
        self._losses = Losses(target.shown, on_drop, mask=masked)
        self._recorder = records.Recorder(redaction)
        self._exporter = Exporter(
            self._queue,
            Spans(config, worker=worker, hide=self._hide),
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
        self.decide = decide
        """The tracer: the place of a request that is sampled, by its headers."""
        self.enter = self._places.enter
        """The hook: makes a run's span the current one before the predictor is run."""
        self.observe = self._observer()
        """The observer: hands over what is sampled of one turn."""

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
        self._provider = install(self._provider)
        self._provider.serve(
            self._resource, self._ratio, take=self._take, lose=self._losses.count, hide=self._hide
        )

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
        if self._provider.leave(self._take):
            others.start()
            others.join(max(0.0, until - time.monotonic()))
        self._losses.close()

    def outgoing(self) -> Mapping[str, str]:
        """Headers of the current span or run, for requests that the predictor makes."""
        return self._places.outgoing()

    def fields(self) -> Mapping[str, str]:
        """``trace_id`` and ``span_id`` of the current span where it is sampled, for log lines."""
        return current_fields()

    def _hand_over(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:
        self._recorder.turn()
        items: list[Item] = []
        for call in calls:
            if (trace := call.trace) is not None and trace.span_id is not None:
                self._make(items, _spans_of(call), partial(self._recorder.request, call, trace))
        for batch in batches:
            if (trace := batch.trace) is not None and trace.span_id is not None:
                self._make(items, 1, partial(self._recorder.run, batch, trace))
        self._put(items)

    def _make(self, items: list[Item], spans: int, make: Callable[[], records.Request | records.Run]) -> None:
        """Adds a record; one that cannot be made costs the others of its turn nothing."""
        try:
            record = make()
            items.append(Item(spans, records.size_of(record), record))
        except Exception as error:  # noqa: BLE001  # as said
            self._losses.count(spans, f"they cannot be made: {type(error).__name__}")

    def _take(self, span: ReadableSpan) -> None:
        """Takes a span of the predictor's own."""
        self._put([Item(1, size_of(span), span)])

    def _put(self, items: Sequence[Item]) -> None:
        for reason, spans in self._queue.put(items).items():
            self._losses.count(spans, reason)


def _spans_of(call: Call) -> int:
    """How many spans will be made of a call."""
    batch = call.batch
    shared = batch is not None and bool(batch.id) and batch.trace is not None
    return 1 + bool(call.decoded) + bool(call.started) * (1 + shared) + bool(call.predicted)
