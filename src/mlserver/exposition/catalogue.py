"""The catalogue's families: what the pages of all workers say, made one."""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from mlserver import signals
from mlserver.exposition.known import known
from mlserver.pages import EXEMPLAR_AGE_S
from mlserver.tables import overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from mlserver.config import Config
    from mlserver.exposition.known import Labels
    from mlserver.pages import Exemplar as Seen
    from mlserver.pages import Key, Page

    Bounds = tuple[float, ...]
    Part = tuple[Key, tuple[float, ...]]
    Traced = tuple[Key, list[Seen | None]]

_logger = logging.getLogger("mlserver.metrics")
_KINDS = {"counter": ("counter", "histogram"), "gauge": ("gauge",), "histogram": ("histogram",)}
"""What series a metric of a type can be made from."""


class Budget:
    """Which label sets of one metric have series of their own; the rest are added up as `signals.OVERFLOW`.

    A label set is given its place once and keeps it. If one could move, a counter would fall.
    """

    def __init__(self, on_fold: Callable[[Labels], None]) -> None:
        self._on_fold = on_fold
        self._named: set[Labels] = set()
        self._folded: set[Labels] = set()

    def place(self, labels: Labels, known: set[Labels], limit: int) -> Labels:
        """The label set under which this one counts, once and for all."""
        if labels in self._named:
            return labels
        place = overflow(labels)
        if labels == place:
            return labels
        if labels not in self._folded and (labels in known or len(self._named) < limit):
            self._named.add(labels)
            return labels
        if labels not in self._folded:
            self._folded.add(labels)
            self._on_fold(labels)
        return place

    def zeros(self, known: set[Labels]) -> set[Labels]:
        """Those of the known label sets that have, or will have, a series of their own."""
        return known - self._folded

    def keep(self, present: Iterable[Labels]) -> None:
        """Frees the places of all others; for gauges only, since they may fall."""
        self._named.intersection_update(present)
        self._folded.intersection_update(present)


class PageCollector(Collector):
    """The pages of all workers as families of the catalogue, in its order.

    Args:
        config: prefix, buckets and budget, and what its series at 0 are.
        pages: all there are.
        on_fold: told of each label set for which there is no series of its own; the log has the first one.
        now: seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        pages: Sequence[Page],
        *,
        on_fold: Callable[[int], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._pages = pages
        self._on_fold = on_fold
        self._now = now
        self._told: set[str] = set()
        self._budgets = {metric.name: Budget(partial(self._note_fold, metric)) for metric in signals.METRICS}
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Takes over another configuration; label sets that have a series of their own keep it."""
        self._settings = config.observability
        self._known = known(config)

    def collect(self) -> Iterator[Family]:
        """One family for every metric of the catalogue, with exemplars."""
        return self.families(exemplars=True)

    def families(self, *, exemplars: bool) -> Iterator[Family]:
        """As `collect`; a format that has no exemplars saves the time to read them."""
        series: dict[str, list[Part]] = defaultdict(list)
        seen: dict[str, list[Traced]] = defaultdict(list)
        for page in self._pages:
            for key, values in page.read():
                series[key.name].append((key, values))
            for key, found in page.read_exemplars() if exemplars else ():
                seen[key.name].append((key, found))
        for metric in signals.METRICS:
            parts = self._parts(metric, series)
            if metric.type == "histogram":
                yield self._histogram(metric, parts, self._exemplars(metric, seen))
            elif metric.type == "counter":
                yield self._counter(metric, parts)
            else:
                yield self._gauge(metric, parts)

    def _parts(self, metric: signals.Metric, series: dict[str, list[Part]]) -> dict[Labels, list[Part]]:
        """What there is of each label set, the known ones among them, in order of the labels."""
        found: dict[Labels, list[Part]] = defaultdict(list)
        for source in metric.recorded():
            pick = _picker(metric, source)
            for part in series[source.record]:
                key, values = part
                # Of another kind or number of labels are those of another release's workers.
                alike = key.kind in _KINDS[metric.type] and len(key.labels) == len(source.labels)
                if alike and not math.isnan(values[0]):
                    found[pick(key.labels)].append(part)
        budget, wanted = self._budgets[metric.name], self._known.get(metric.name, set())
        if metric.type == "gauge":
            budget.keep(found)
        placed: dict[Labels, list[Part]] = {labels: [] for labels in budget.zeros(wanted)}
        for labels, parts in found.items():
            place = budget.place(labels, wanted, self._settings.max_series)
            placed.setdefault(place, []).extend(parts)
        if not metric.labels:
            placed.setdefault((), [])
        return dict(sorted(placed.items()))

    def _counter(self, metric: signals.Metric, found: dict[Labels, list[Part]]) -> Family:
        family = CounterMetricFamily(self._name(metric), metric.help, labels=metric.labels, unit=metric.unit)
        for labels, parts in found.items():
            family.add_metric(labels, math.fsum(_total(key, values) for key, values in parts))
        return family

    def _gauge(self, metric: signals.Metric, found: dict[Labels, list[Part]]) -> Family:
        family = GaugeMetricFamily(self._name(metric), metric.help, labels=metric.labels, unit=metric.unit)
        join = max if metric.over_workers == "max" else math.fsum
        for labels, parts in found.items():
            family.add_metric(labels, join([values[0] for _, values in parts] or [0.0]))
        return family

    def _histogram(
        self,
        metric: signals.Metric,
        found: dict[Labels, list[Part]],
        exemplars: dict[Labels, dict[int, Seen]],
    ) -> Family:
        family = HistogramMetricFamily(
            self._name(metric), metric.help, labels=metric.labels, unit=metric.unit
        )
        bounds = self._bounds(metric)
        tops = [*map(floatToGoString, bounds), "+Inf"]
        for labels, parts in found.items():
            shown = exemplars.get(labels, {})
            buckets = [
                (top, count, _exemplar(shown.get(index)))
                for index, (top, count) in enumerate(zip(tops, _counts(parts, bounds), strict=True))
            ]
            # The library renders an exemplar of None as it should; its types do not say so.
            family.add_metric(labels, buckets, math.fsum(values[-1] for _, values in parts))  # type: ignore[arg-type]
        return family

    def _exemplars(
        self, metric: signals.Metric, seen: dict[str, list[Traced]]
    ) -> dict[Labels, dict[int, Seen]]:
        """By label set and index of the bucket, the worst recent one."""
        bounds, since = self._bounds(metric), self._now() - EXEMPLAR_AGE_S
        budget, wanted = self._budgets[metric.name], self._known.get(metric.name, set())
        best: dict[Labels, dict[int, Seen]] = defaultdict(dict)
        for source in metric.recorded():
            pick = _picker(metric, source)
            for key, exemplars in seen[source.record]:
                if len(key.labels) != len(source.labels):
                    continue
                shown = best[budget.place(pick(key.labels), wanted, self._settings.max_series)]
                for exemplar in filter(None, exemplars):
                    index = bisect_left(bounds, exemplar.value)
                    before = shown.get(index)
                    if before is None or _rank(exemplar, since) > _rank(before, since):
                        shown[index] = exemplar
        return best

    def _note_fold(self, metric: signals.Metric, labels: Labels) -> None:
        self._on_fold(1)
        if metric.name not in self._told:
            self._told.add(metric.name)
            _logger.warning(
                "%s: all workers together have more than %d sets of labels (observability.max_series): "
                "others, such as %s, are counted together as %s from now on",
                self._name(metric),
                self._settings.max_series,
                labels,
                signals.OVERFLOW,
            )

    def _name(self, metric: signals.Metric) -> str:
        return metric.full_name(self._settings.metrics_prefix)

    def _bounds(self, metric: signals.Metric) -> Bounds:
        return signals.bounds(metric, self._settings.buckets)


def _picker(metric: signals.Metric, source: signals.Source) -> Callable[[Labels], Labels]:
    """Makes a metric's label set of a source's."""
    if source.labels == metric.labels:
        return lambda labels: labels
    constants = tuple(value for _, value in source.constants)
    names = (*source.labels, *(name for name, _ in source.constants))
    indexes = [names.index(name) for name in metric.labels]

    def pick(labels: Labels) -> Labels:
        given = (*labels, *constants)
        return tuple([given[index] for index in indexes])

    return pick


def _total(key: Key, values: tuple[float, ...]) -> float:
    """A counter's value, or the number of a histogram's observations."""
    return math.fsum(values[:-1]) if key.kind == "histogram" else values[0]


def _counts(parts: list[Part], bounds: Bounds) -> list[float]:
    """Observations up to each bound and, last, all of them.

    A part with other bounds, from before a reload, is counted at its largest bound that is not above: never
    too many, and never fewer than before.
    """
    alike = [values for key, values in parts if key.bounds == bounds]
    counts = [sum(column) for column in zip(*alike, strict=True)][:-1] or [0.0] * (len(bounds) + 1)
    joined = list(accumulate(counts))
    for key, values in parts:
        if key.bounds != bounds:
            own = [0.0, *accumulate(values[:-1])]
            joined = [
                count + own[bisect_right(key.bounds, bound)]
                for count, bound in zip(joined, bounds, strict=False)
            ] + [joined[-1] + own[-1]]
    return joined


def _rank(exemplar: Seen, since: float) -> tuple[bool, float]:
    return (True, exemplar.value) if exemplar.at > since else (False, exemplar.at)


def _exemplar(seen: Seen | None) -> Exemplar | None:
    return None if seen is None else Exemplar({"trace_id": seen.trace_id}, seen.value, seen.at)
