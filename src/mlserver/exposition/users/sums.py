"""Values of many workers, put together: sums that never fall, and gauges in the client's modes.

Nothing here grows with the number of workers that have died.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from mlserver.exposition.users.family import Exemplar, Group, overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlserver.exposition.users.family import Labels

AGGREGATED = frozenset(
    f"{live}{mode}" for live in ("", "live") for mode in ("min", "max", "sum", "mostrecent")
)
"""Modes of gauges that make one value of all workers' values."""
MAX_BOUNDS = 500
"""Bucket bounds that are kept of dead workers' histograms of one label set."""

Reading = tuple[int, float]
"""When a gauge's value was seen changed (0: never set), and the value."""


class Partials:
    """An exact sum of floats: rounded once, when it is read, so that adding can never make it fall."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[float] = []

    def add(self, value: float) -> None:
        kept = []
        for part in self.parts:
            large, small = (value, part) if abs(value) >= abs(part) else (part, value)
            value = large + small
            if math.isinf(value):
                self.parts = [value]
                return
            if rest := small - (value - large):
                kept.append(rest)
        self.parts = [*kept, value]


def total(values: Iterable[float]) -> float:
    """The sum, rounded once; +Inf if it is too large for a float."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


class Totals:
    """A counter, histogram or summary of all workers, dead ones included.

    Every label set has the sum of what is past (of dead workers, and from before a worker's value fell) and
    of each live worker's last values; a value that a worker no longer gives is held. Beyond ``max_series``
    label sets, further ones are added up under ``__overflow__``.

    Args:
        on_fold: called for each label set that finds no room.
    """

    def __init__(self, max_series: int, on_fold: Callable[[], None]) -> None:
        self._max = max_series
        self._on_fold = on_fold
        self._past: dict[Labels, dict[float | str, Partials]] = {}
        self._last: dict[int, dict[Labels, Group]] = {}
        self._exemplars: dict[Labels, dict[float | str, Exemplar]] = {}
        self._known: dict[Labels, None] = {}

    def take(self, worker: int, groups: Mapping[Labels, Group]) -> None:
        """The newest values of a worker."""
        last = self._last.setdefault(worker, {})
        for labels, group in groups.items():
            if labels not in last and self._place(labels) != labels:
                self._on_fold()
            self._keep_exemplars(labels, group)
            old = last.get(labels)
            values = group.values
            if old and _fell(old.values, values):
                self._put_past(labels, old)
            elif old:
                values = {**old.values, **values}
            last[labels] = Group(values)
        spare = len(last) - 2 * self._max
        if spare > 0:  # a worker that keeps making and removing label sets
            for labels in [labels for labels in last if labels not in groups][:spare]:
                self._put_past(labels, last.pop(labels))

    def retire(self, worker: int) -> None:
        """The worker is dead: what it counted is past."""
        for labels, group in self._last.pop(worker, {}).items():
            self._put_past(labels, group)

    def read(self) -> dict[Labels, Group]:
        """The sums, by label set."""
        parts: dict[Labels, dict[float | str, list[float]]] = {
            labels: {key: list(partials.parts) for key, partials in past.items()}
            for labels, past in self._past.items()
        }
        for last in self._last.values():
            for labels, group in last.items():
                there = parts.setdefault(self._place(labels), {})
                for key, value in group.values.items():
                    there.setdefault(key, []).append(value)
        return {
            labels: Group(
                {key: total(values) for key, values in there.items()}, self._exemplars.get(labels, {})
            )
            for labels, there in parts.items()
        }

    def _place(self, labels: Labels) -> Labels:
        """The label set that these are counted under: a label set's place never changes."""
        if labels not in self._known:
            if len(self._known) >= self._max:
                return overflow(labels)
            if labels != overflow(labels) or not labels:
                self._known[labels] = None
        return labels

    def _put_past(self, labels: Labels, group: Group) -> None:
        past = self._past.setdefault(self._place(labels), {})
        for key, value in group.values.items():
            place = key
            if isinstance(key, float) and key not in past and len(past) > MAX_BOUNDS:
                bounds = sorted(bound for bound in past if isinstance(bound, float))
                place = bounds[min(bisect_left(bounds, key), len(bounds) - 1)]
            past.setdefault(place, Partials()).add(value)

    def _keep_exemplars(self, labels: Labels, group: Group) -> None:
        if group.exemplars:
            kept = self._exemplars.setdefault(self._place(labels), {})
            for key, exemplar in group.exemplars.items():
                if key not in kept or _time(exemplar) >= _time(kept[key]):
                    kept[key] = exemplar


class Readings:
    """A gauge of all workers in one of the modes `AGGREGATED`; those named ``live`` forget dead workers.

    The in-process client keeps no time of setting, so ``mostrecent`` goes by when a value was first seen
    changed; a 0 at first sight counts as never set, and is shown only if no worker has set the gauge.
    """

    def __init__(self, mode: str, max_series: int) -> None:
        self._join = _JOINS[mode.removeprefix("live")]
        self._live_only = mode.startswith("live")
        self._max = max_series
        self._past: dict[Labels, Reading] = {}
        self._last: dict[int, dict[Labels, Reading]] = {}

    def take(self, worker: int, values: Mapping[Labels, float], now: int) -> None:
        """The newest values of a worker; ``now`` is a number that rises from snapshot to snapshot."""
        last = self._last.get(worker, {})
        self._last[worker] = {
            labels: (stamp if value == old or (math.isnan(value) and math.isnan(old)) else now, value)
            for labels, value in values.items()
            for stamp, old in [last.get(labels, (0, 0.0))]
        }

    def retire(self, worker: int) -> None:
        last = self._last.pop(worker, {})
        if not self._live_only:
            for labels, reading in last.items():
                if labels in self._past:
                    self._past[labels] = self._join(self._past[labels], reading)
                elif len(self._past) < self._max:
                    self._past[labels] = reading

    def read(self) -> dict[Labels, float]:
        """The values, by label set."""
        joined = dict(self._past)
        for last in self._last.values():
            for labels, reading in last.items():
                joined[labels] = self._join(joined[labels], reading) if labels in joined else reading
        return {labels: value for labels, (_, value) in joined.items()}


def _fell(old: Mapping[float | str, float], new: Mapping[float | str, float]) -> bool:
    """Whether a worker has begun anew.

    A sum alone says nothing: negative observations make it fall, too.
    """
    counts = [key for key in old if key != "_sum"] or ["_sum"]
    # A bucket that is gone has been drawn anew; any other value may just not be given for a while.
    return any(new.get(key, 0.0 if isinstance(key, float) else old[key]) < old[key] for key in counts)


def _time(exemplar: Exemplar) -> float:
    return -math.inf if exemplar.timestamp is None else exemplar.timestamp


def _least(one: Reading, other: Reading) -> Reading:
    return other if other[1] < one[1] or math.isnan(one[1]) else one


def _most(one: Reading, other: Reading) -> Reading:
    return other if other[1] > one[1] or math.isnan(one[1]) else one


def _sum(one: Reading, other: Reading) -> Reading:
    return (0, one[1] + other[1])


_JOINS: Mapping[str, Callable[[Reading, Reading], Reading]] = {
    "min": _least,
    "max": _most,
    "sum": _sum,
    "mostrecent": max,
}
