"""Metrics: counts finished calls and runs into a metric page, where whoever is scraped reads them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING

from mlserver import signals
from mlserver.errors import PredictionFailed
from mlserver.pages import Key, Page, PageFull
from mlserver.serving.call import Levels
from mlserver.tables import Table, fixed, series_of, write_build_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlserver.config import Config
    from mlserver.serving.call import Batch, Call


class Metrics:
    """The observer that counts. It is the one writer of its page, and goes on from its predecessor.

    Args:
        page: where to count.
        config: what the model is called, the histograms' buckets, the budget of label sets.
    """

    levels: Levels
    """What is so right now, for others to write."""

    def __init__(self, page: Page, config: Config) -> None:
        model, settings = config.model.name, config.observability
        self._page, self._model = page, model
        self._lock = threading.Lock()
        page.reset_gauges()

        values = partial(series_of, page)

        def key(record: str, like: signals.Metric, *labels: str) -> Key:
            return Key(like.type, record, labels, signals.bounds(like, settings.buckets))

        def table(metric: signals.Metric, record: Key) -> Table:
            name = metric.full_name(settings.metrics_prefix)
            fold = partial(self.dropped, "metrics")
            return Table(page, record, metric=name, limit=settings.max_series, on_fold=fold)

        self._dropped = {name: values(signals.SIGNALS_DROPPED, name) for name in signals.DROPPABLE}
        self._rejected = {code: values(signals.REJECTED, code) for code in signals.REJECTIONS}
        self._answered = values(signals.PREDICTIONS, model)
        self._errors = table(
            signals.PREDICTION_ERRORS, key(signals.PREDICTION_ERRORS.name, signals.PREDICTION_ERRORS)
        )
        self._calls = table(signals.REQUESTS, key(signals.CALLS.record, signals.REQUEST_DURATION))
        self._of_call: dict[tuple[str, str, int], memoryview[float]] = {}
        self._bounds = signals.bounds(signals.REQUEST_DURATION, settings.buckets)

        phases, runs = signals.REQUEST_PHASES, signals.PREDICTION_DURATION
        self._decode, self._queue, self._predict, self._encode = (
            key(phases.name, phases, phase) for phase in signals.PHASES
        )
        self._alone = key(signals.RUNS_ALONE.record, runs, model)
        self._shared = key(signals.RUNS_SHARED.record, runs, model)
        self._rows = key(signals.BATCH_ROWS.name, signals.BATCH_ROWS, model)
        # A run alone stands for its call's phase, too. Without the same buckets, no run is counted so.
        self._most_alone = 1 if self._alone.bounds == self._predict.bounds else -1
        if self._most_alone < 1:
            self._alone = self._shared
        self._predict_values = fixed(page, self._predict)
        self._count_calls, self._count_runs = self._counter_of_calls(), self._counter_of_runs()

        self.levels = Levels(
            active=values(signals.ACTIVE_REQUESTS),
            queued=values(signals.QUEUE_DEPTH),
            model_loaded=values(signals.MODEL_LOADED, model, config.model.version),
        )
        self.levels.active[0] = self.levels.queued[0] = self.levels.model_loaded[0] = 0.0
        write_build_info(page)

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:
        """Counts what has finished."""
        if calls:
            self._count_calls(calls)
        if batches:
            self._count_runs(batches)

    def dropped(self, signal: str, count: int = 1) -> None:
        """Counts signals that could not be given; for those of `signals.DROPPABLE`, in any thread."""
        with self._lock:
            self._dropped[signal][0] += count

    # Once a turn. An access to the page costs as much as several steps around it. So sums, which nobody else
    # changes, are kept beside it and only stored; what is needed is in a closure, at no cost; and the first
    # bucket, where most of what is fast falls, is found without a search.

    def _counter_of_calls(self) -> Callable[[Sequence[Call]], None]:
        of_call, bounds, phase_bounds = self._of_call, self._bounds, self._decode.bounds
        first, first_phase = bounds[0], phase_bounds[0]
        total, phase_total = len(bounds) + 1, len(phase_bounds) + 1
        decode, queue, encode = (fixed(self._page, key) for key in (self._decode, self._queue, self._encode))
        answered = self._answered
        decode_s, queue_s, encode_s, rows = decode[-1], queue[-1], encode[-1], answered[0]
        look_up, count_more = self._look_up, self._count_more

        def count(calls: Sequence[Call]) -> None:
            nonlocal decode_s, queue_s, encode_s, rows
            fault = None
            for call in calls:
                received, decoded, finished = call.received, call.decoded, call.finished
                status = call.response.status  # type: ignore[union-attr]  # it is finished
                try:
                    duration = of_call[call.endpoint, call.method, status]
                except KeyError:
                    duration = look_up(call.endpoint, call.method, status)
                spent = finished - received
                duration[0 if spent <= first else bisect_left(bounds, spent)] += 1.0
                duration[total] += spent
                if decoded:
                    spent = decoded - received
                    decode[0 if spent <= first_phase else bisect_left(phase_bounds, spent)] += 1.0
                    decode_s += spent
                    if predicted := call.predicted:
                        spent = call.started - decoded
                        queue[0 if spent <= first_phase else bisect_left(phase_bounds, spent)] += 1.0
                        queue_s += spent
                        spent = finished - predicted
                        encode[0 if spent <= first_phase else bisect_left(phase_bounds, spent)] += 1.0
                        encode_s += spent
                        if status == 200 and (shape := call.input_shape):
                            rows += shape[0]
                if call.error is not None or call.trace is not None:
                    try:
                        count_more(call)
                    except Exception as error:  # noqa: BLE001  # an exception of a user's own may be odd
                        fault = error
            decode[phase_total] = decode_s
            queue[phase_total] = queue_s
            encode[phase_total] = encode_s
            answered[0] = rows
            if fault is not None:  # the other calls of the turn are counted
                raise fault

        return count

    def _counter_of_runs(self) -> Callable[[Sequence[Batch]], None]:
        bounds, row_bounds, most_alone = self._alone.bounds, self._rows.bounds, self._most_alone
        first, first_rows = bounds[0], row_bounds[0]
        total, row_total = len(bounds) + 1, len(row_bounds) + 1
        alone, shared, batch_rows = (
            fixed(self._page, key) for key in (self._alone, self._shared, self._rows)
        )
        alone_s, rows = alone[-1], batch_rows[-1]
        count_phase = self._count_phase

        def count(batches: Sequence[Batch]) -> None:
            nonlocal alone_s, rows
            for batch in batches:
                calls, spent, its_rows = len(batch.calls), batch.ended - batch.started, batch.rows
                bucket = 0 if spent <= first else bisect_left(bounds, spent)
                if calls <= most_alone:
                    alone[bucket] += 1.0
                    alone_s += spent
                    alone[total] = alone_s
                else:
                    shared[bucket] += 1.0
                    shared[total] += spent
                    if calls == 1 or batch.error is None:  # else its calls ran again, in smaller runs
                        count_phase(spent, calls)
                batch_rows[0 if its_rows <= first_rows else bisect_left(row_bounds, its_rows)] += 1.0
                rows += its_rows
                batch_rows[row_total] = rows

        return count

    # Seldom.

    def _count_phase(self, spent: float, calls: int) -> None:
        """Counts a run as the phase of each of its calls."""
        self._predict_values[bisect_left(self._predict.bounds, spent)] += calls
        self._predict_values[-1] += spent * calls

    def _look_up(self, endpoint: str, method: str, status: int) -> memoryview[float]:
        labels = _labels(endpoint, method, status)
        values = self._calls(*labels)
        if labels[1] == method and labels in self._calls:  # nothing that clients make up is kept
            self._of_call[endpoint, method, status] = values
        return values

    def _count_more(self, call: Call) -> None:
        """What few calls have: an error, a trace."""
        error = call.error
        if isinstance(error, PredictionFailed):
            self._errors(self._model, call.error_type or "")[0] += 1.0
        elif error is not None and error.code in self._rejected:
            self._rejected[error.code][0] += 1.0
        if call.trace is not None:
            self._exemplify(call, call.trace.trace_id)

    def _exemplify(self, call: Call, trace_id: str) -> None:
        """Keeps a traced call as an example in the histograms that it was counted in."""
        now = time.time()
        try:
            for key, value in self._observed(call):
                self._page.put_exemplar(key, bisect_left(key.bounds, value), trace_id, value, now)
        except PageFull:
            self.dropped("metrics")

    def _observed(self, call: Call) -> Iterator[tuple[Key, float]]:
        yield (
            self._calls.key(*_labels(call.endpoint, call.method, call.status)),
            call.finished - call.received,
        )
        if call.decoded:
            yield self._decode, call.decoded - call.received
        if call.predicted and call.batch is not None:
            yield self._queue, call.started - call.decoded
            yield self._encode, call.finished - call.predicted
            spent = call.predicted - call.started
            if len(call.batch.calls) <= self._most_alone:
                yield self._alone, spent
            else:
                yield self._shared, spent
                yield self._predict, spent
            yield self._rows, call.batch.rows


def _labels(endpoint: str, method: str, status: int) -> tuple[str, str, str]:
    return endpoint, method if method in signals.METHODS else signals.OTHER, str(status)
