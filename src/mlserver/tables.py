"""Tables: the series of one record in a page, by label values, and what becomes of too many of them."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from mlserver import signals
from mlserver.pages import Key, Page, PageFull

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LABEL = 200
"""Characters of a label's value: as many as the configuration allows for the name of a model."""
FULL_BUDGET = (
    "It has %d, the limit (observability.max_series): raise it if they are wanted, else find out what makes "
    "so many"
)
FULL_PAGE = "The page that this worker counts in is full: a restart of the server begins with an empty one"
_logger = logging.getLogger("mlserver.metrics")


class Table:
    """The series of one record whose label sets come from outside. Those beyond a budget count as one.

    Args:
        page: where they are.
        record: their key but for the labels.
        metric: name of the metric, for the warning.
        limit: label sets in the page, those of a predecessor among them.
        on_fold: called for every observation that is counted without its labels.
    """

    def __init__(
        self, page: Page, record: Key, *, metric: str, limit: int, on_fold: Callable[[], None]
    ) -> None:
        self._page = page
        self._record = record
        self._metric = metric
        self._limit = limit
        self._on_fold = on_fold
        self._taken = {labels for labels in page.keys(record.name) if not _is_overflow(labels)}
        self._series: dict[tuple[str, ...], memoryview[float]] = {}
        self._overflow: memoryview[float] | None = None

    def __call__(self, *labels: str) -> memoryview[float]:
        """The values in which an observation with these labels is to be counted now."""
        named = tuple(map(_clean, labels))
        found = self._series.get(named)
        return self._add(named) if found is None else found

    def __contains__(self, labels: tuple[str, ...]) -> bool:
        """Whether these very labels have a series of their own."""
        return labels in self._series

    def key(self, *labels: str) -> Key:
        """The key of the series in which these labels were counted."""
        named = tuple(map(_clean, labels))
        return self._record._replace(labels=named if named in self._series else overflow(named))

    def _add(self, labels: tuple[str, ...]) -> memoryview[float]:
        if labels not in self._taken and len(self._taken) >= self._limit:
            return self._fold(labels, FULL_BUDGET % self._limit)
        try:
            values = self._page.series(self._record._replace(labels=labels))
        except PageFull:
            return self._fold(labels, FULL_PAGE)
        self._taken.add(labels)
        self._series[labels] = values
        return values

    def _fold(self, labels: tuple[str, ...], why: str) -> memoryview[float]:
        if self._overflow is None:
            self._overflow = fixed(self._page, self._record._replace(labels=overflow(labels)))
            _logger.warning(
                "%s: other sets of labels, such as %s, are counted together as %s from now on. %s",
                self._metric,
                labels,
                signals.OVERFLOW,
                why,
            )
        self._on_fold()
        return self._overflow


def _clean(label: str) -> str:
    """A label's value that every exposition can encode, and of no more than `MAX_LABEL` characters."""
    return label[:MAX_LABEL].encode("utf-8", "replace").decode("utf-8")


def overflow(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The label set under which others of as many labels are counted together."""
    return (signals.OVERFLOW,) * len(labels)


def _is_overflow(labels: tuple[str, ...]) -> bool:
    return bool(labels) and labels == overflow(labels)


def fixed(page: Page, key: Key) -> memoryview[float]:
    """A series that has to be there, if need be in the page's spare room: one of labels known before."""
    try:
        return page.series(key, spare=True)
    except PageFull:  # counted where nobody sees it, so that whatever else there is goes on
        _logger.warning("There is no room to count %s %s until the server restarts", key.name, key.labels)
        return memoryview(bytearray(8 * key.size)).cast("d")


def series_of(page: Page, metric: signals.Metric, *labels: str) -> memoryview[float]:
    """The series of a metric that is recorded under its own name; no histogram."""
    return fixed(page, Key(metric.type, metric.name, labels))


def write_build_info(page: Page) -> None:
    """What runs here, as `signals.BUILD_INFO` has it."""
    versions = installed_version("mlserver-observability"), platform.python_version()
    series_of(page, signals.BUILD_INFO, *versions)[0] = 1.0
