"""Metrics: counts finished calls and batches into a metric page, and renders all pages for a scrape."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mlserver import signals
from mlserver.errors import PredictionFailed
from mlserver.pages import Key, Page, PageFull
from mlserver.serving.call import Levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from mlserver.config import Config
    from mlserver.serving.call import Batch, Call

OVERFLOW = "__overflow__"
MAX_SERIES = 1000
"""Label sets of one metric in one page; what comes later is counted together as ``__overflow__``."""


DROPPABLE = ("logs", "metrics")
"""Signals whose losses are counted; their series are there from the start, which is also what lets any
thread count: adding a series is for the event loop alone."""


MAX_LABEL = 120
"""Characters of a label's value."""
_logger = logging.getLogger("mlserver.metrics")


class Table:
    """The series of one metric in one page, by label values."""

    def __init__(self, page: Page, metric: signals.Metric) -> None:
        self._page = page
        self._metric = metric
        self._series: dict[tuple[str, ...], memoryview[float]] = {}

    def __call__(self, *labels: str) -> memoryview[float]:
        """The values of a label set; a new one is added with zeros."""
        found = self._series.get(labels)
        return self._add(labels) if found is None else found

    def _add(self, labels: tuple[str, ...]) -> memoryview[float]:
        overflow = (OVERFLOW,) * len(labels)
        if len(self._series) >= MAX_SERIES and labels != overflow:
            return self(*overflow)
        named = tuple(label[:MAX_LABEL] for label in labels)
        key = Key(self._metric.type, self._metric.name, named, self._metric.buckets)
        try:
            values = self._page.series(key)
        except PageFull:  # counted where nobody sees it, so that whatever else there is goes on
            _logger.warning("There is no room to count %s %s", key.name, key.labels)
            values = memoryview(bytearray(8 * key.size)).cast("d")
        self._series[labels] = values
        return values


class Metrics:
    """The observer that counts. It is the one writer of its page.

    Args:
        page: where to count.
        model: name of the model, for the label.
        endpoints: routes and methods whose series are there from the start, at zero.
    """

    def __init__(
        self, page: Page, *, model: str, version: str, endpoints: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._model = model
        self._requests = Table(page, signals.REQUESTS)
        self._durations = Table(page, signals.REQUEST_DURATION)
        self._errors = Table(page, signals.PREDICTION_ERRORS)
        self._dropped = Table(page, signals.SIGNALS_DROPPED)
        for signal in DROPPABLE:
            self._dropped(signal)
        self._runs = Table(page, signals.PREDICTION_DURATION)(model)
        self._bounds = signals.REQUEST_DURATION.buckets
        self._run_bounds = signals.PREDICTION_DURATION.buckets
        self._of_call: dict[tuple[str, str, int], tuple[memoryview[float], memoryview[float]]] = {}
        page.reset_gauges()
        self.levels = Levels(
            active=Table(page, signals.ACTIVE_REQUESTS)(),
            model_loaded=Table(page, signals.MODEL_LOADED)(model, version),
        )
        for endpoint, method in endpoints:
            self._look_up(endpoint, method, 200)

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:
        """Counts what has finished."""
        for call in calls:
            count, histogram = self._look_up(call.endpoint, call.method, call.status)
            count[0] += 1.0
            _observe(histogram, self._bounds, call.finished - call.received)
            if isinstance(call.error, PredictionFailed):
                self._errors(self._model, call.error_type or "")[0] += 1.0
        for batch in batches:
            _observe(self._runs, self._run_bounds, batch.ended - batch.started)

    def dropped(self, signal: str, count: int = 1) -> None:
        """Counts signals that could not be given; may be called in any thread for those of `DROPPABLE`."""
        self._dropped(signal)[0] += count

    def _look_up(
        self, endpoint: str, method: str, status: int
    ) -> tuple[memoryview[float], memoryview[float]]:
        key = (endpoint, method, status)
        found = self._of_call.get(key)
        if found is None:
            known = method if method in signals.METHODS else "OTHER"
            found = (self._requests(endpoint, known, str(status)), self._durations(endpoint, known))
            if known == method:
                self._of_call[key] = found
        return found


def _observe(histogram: memoryview[float], bounds: Sequence[float], value: float) -> None:
    histogram[bisect_left(bounds, value)] += 1.0
    histogram[-1] += value


class PageCollector(Collector):
    """Sums the pages of all workers, for ``prometheus_client``."""

    def __init__(self, pages: Sequence[Page], prefix: str) -> None:
        self._pages = pages
        self._prefix = prefix

    def collect(self) -> Iterable[Family]:
        """One family for every metric of the catalogue."""
        found: dict[str, dict[Key, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
        for page in self._pages:
            for key, values in page.read():
                found[key.name][key].append(values)
        for metric in signals.METRICS:
            yield self._family(metric, found[metric.name])

    def _family(self, metric: signals.Metric, series: dict[Key, list[tuple[float, ...]]]) -> Family:
        name = self._prefix + metric.name
        join = max if metric.over_workers == "max" else sum
        if metric.type == "histogram":
            histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
            for key, parts in series.items():
                *counts, total = [sum(column) for column in zip(*parts, strict=True)]
                bounds = [*map(floatToGoString, key.bounds), "+Inf"]
                buckets = list(zip(bounds, accumulate(counts), strict=True))
                histogram.add_metric(key.labels, buckets, sum_value=total)
            return histogram
        kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
        family = kind(name, metric.help, labels=metric.labels)
        for key, parts in series.items():
            family.add_metric(key.labels, join(value for (value,) in parts))
        return family


class Exposition:
    """What a scrape gets, from whichever process is asked."""

    def __init__(self, config: Config, pages: Sequence[Page]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(PageCollector(pages, config.observability.metrics_prefix))

    def render(self, accept: str) -> tuple[bytes, bytes]:
        """The metrics as text or OpenMetrics.

        Args:
            accept: the request's ``Accept`` header, or "".

        Returns:
            content type and body.
        """
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # of a version that is no version
            encoder, content_type = choose_encoder("")
        return content_type.encode("ascii"), encoder(self._registry)
