"""Values of many workers, put together: sums that never fall, and gauges in the client's modes.

Nothing here grows with the number of workers that have died.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlserver.exposition.users.family import Exemplar, Group, overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlserver.exposition.users.family import Labels

AGGREGATED = frozenset(
    f"{live}{mode}" for live in ("", "live") for mode in ("min", "max", "sum", "mostrecent")
)
"""Modes of gauges that make one value of all workers' values."""
MAX_OVERFLOWS = 10
"""Label sets of ``__overflow__``, of metrics whose label names are not always the same."""
MAX_BOUNDS = 500
"""Buckets of a histogram, +Inf among them; workers of a reload may have others than those before."""

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


@dataclass(slots=True)
class Held:
    """What a worker last gave of a label set, and the label set that this is counted under."""

    place: Labels
    values: dict[float | str, float]


class Totals:
    """A counter, histogram or summary of all workers, dead ones included.

    Every label set has the sum of what is past (of dead workers, and from before a worker's value fell) and
    of each live worker's last values; a value that a worker no longer gives is held. Beyond ``max_series``
    label sets, further ones are added up under ``__overflow__``; of more than `MAX_BOUNDS` buckets, further
    ones count in the next larger one. What a worker has given stays in its place while the worker lives.

    Args:
        on_fold: called with "label sets" or "buckets" for each one that finds no room.
        held: label sets that a worker no longer gives whose values are held, as they may come back.
    """

    def __init__(
        self, max_series: int, on_fold: Callable[[str], None] = lambda _: None, *, held: int = 0
    ) -> None:
        self.max_series = max_series
        self._held = held
        self._on_fold = on_fold
        self._past: dict[Labels, dict[float | str, Partials]] = {}
        self._last: dict[int, dict[Labels, Held]] = {}
        self._exemplars: dict[Labels, dict[float | str, Exemplar]] = {}
        self._known: dict[Labels, None] = {}
        self._beyond: dict[Labels, None] = {}
        self._bounds: list[float] = [math.inf]
        self._keys: set[float | str] = {math.inf}

    def take(self, worker: int, groups: Mapping[Labels, Group]) -> None:
        """The newest values of a worker."""
        last = self._last.setdefault(worker, {})
        for labels, group in groups.items():
            values = self._placed(group.values)
            held = last.get(labels)
            if held is None:
                held = last[labels] = Held(self._place(labels), values)
            elif _fell(held.values, values):
                self._put_past(held)
                held.values = values
            else:
                held.values = {**held.values, **values}
            self._keep_exemplars(held.place, group)
        spare = min(len(last) - 2 * self.max_series, len(last) - len(groups) - self._held)
        if spare > 0:  # a worker that keeps making and removing label sets
            for labels in [labels for labels in last if labels not in groups][:spare]:
                self._put_past(last.pop(labels))

    def retire(self, worker: int) -> None:
        """The worker is dead: what it counted is past."""
        for held in self._last.pop(worker, {}).values():
            self._put_past(held)

    def read(self) -> dict[Labels, Group]:
        """The sums, by label set."""
        parts: dict[Labels, dict[float | str, list[float]]] = {
            labels: {key: list(partials.parts) for key, partials in past.items()}
            for labels, past in self._past.items()
        }
        for last in self._last.values():
            for held in last.values():
                there = parts.setdefault(held.place, {})
                for key, value in held.values.items():
                    there.setdefault(key, []).append(value)
        return {
            labels: Group(
                {key: total(values) for key, values in there.items()}, self._exemplars.get(labels, {})
            )
            for labels, there in parts.items()
        }

    def _place(self, labels: Labels) -> Labels:
        """The label set that these are counted under."""
        if labels in self._known:
            return labels
        beyond = overflow(labels)
        if labels != beyond or not labels:
            if len(self._known) < self.max_series:
                self._known[labels] = None
                return labels
            self._on_fold("label sets")
        if beyond not in self._beyond and len(self._beyond) >= MAX_OVERFLOWS:
            return next(iter(self._beyond))
        self._beyond[beyond] = None
        return beyond

    def _placed(self, values: dict[float | str, float]) -> dict[float | str, float]:
        """Values with each bucket in its place, which never changes: no bucket can fall or vanish."""
        if values.keys() <= self._keys:
            return values
        placed: dict[float | str, float] = {}
        beyond = 0
        for key in sorted(values, key=lambda key: (isinstance(key, str), key)):
            place = key
            if key not in self._keys:
                if isinstance(key, str):
                    self._keys.add(key)
                elif len(self._bounds) < MAX_BOUNDS:
                    self._keys.add(key)
                    insort(self._bounds, key)
                else:
                    beyond += 1
                    place = self._bounds[bisect_left(self._bounds, key)]
            placed[place] = placed.get(place, 0.0) + values[key]
        if beyond:
            self._on_fold("buckets")
        return placed

    def _put_past(self, held: Held) -> None:
        past = self._past.setdefault(held.place, {})
        for key, value in held.values.items():
            past.setdefault(key, Partials()).add(value)

    def _keep_exemplars(self, labels: Labels, group: Group) -> None:
        if group.exemplars:
            kept = self._exemplars.setdefault(labels, {})
            for key, exemplar in group.exemplars.items():
                if key in self._keys and (key not in kept or _time(exemplar) >= _time(kept[key])):
                    kept[key] = exemplar


class Readings:
    """A gauge of all workers in one of the modes `AGGREGATED`; those named ``live`` forget dead workers.

    The in-process client keeps no time of setting, so ``mostrecent`` goes by when a value was first seen
    changed; a 0 at first sight counts as never set, and is shown only if no worker has set the gauge.
    """

    def __init__(self, mode: str, max_series: int) -> None:
        self._join = _JOINS[mode.removeprefix("live")]
        self._live_only = mode.startswith("live")
        self.max_series = max_series
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
                elif len(self._past) < self.max_series:
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
