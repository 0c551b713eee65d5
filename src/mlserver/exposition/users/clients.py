"""The client's own metrics, read value by value.

Their ``collect()`` makes everything anew, also what has not changed; this does a sixth of its work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Enum, Gauge, Histogram, Info, Summary

from mlserver.exposition.users import rules
from mlserver.exposition.users.family import Group, Sample, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlserver.exposition.users.family import Exemplar, Family, Labels

    Admits = Callable[[Labels], bool]

_KINDS = frozenset({Counter, Gauge, Histogram, Summary, Info, Enum})
_GROWTH = 4
"""Bytes by which the JSON of a value may grow."""


def is_own(collector: Any) -> bool:
    """Whether it is one of the client's own classes and nothing of the user's runs while it is read."""
    if type(collector) not in _KINDS or "collect" in vars(collector):
        return False
    try:
        its = children(collector).values() if type(collector) is Gauge else ()
    except AttributeError:  # the client has changed inside
        return False
    return not any("_child_samples" in vars(child) for child in its)


def children(metric: Any) -> dict[tuple[str, ...], Any]:
    """What a metric has for each label set, in the order of creation."""
    if not metric._is_parent():  # noqa: SLF001  # a test pins what is leant on
        return {(): metric}
    with metric._lock:  # noqa: SLF001
        return dict(metric._metrics)  # noqa: SLF001


@dataclass(slots=True)
class Line:
    """One label set, the labels of its buckets and of its other samples, and what it last had."""

    key: Labels
    labels: list[dict[str, str]]
    raw: list[Any]
    samples: list[Sample]
    faults: list[str]
    size: int


MAX_CHILDREN = 20_000
"""Label sets of one metric that are looked at each second, whether shown or added up."""


class Reader:
    """Reads a Counter, Gauge, Histogram or Summary of the client's, not of a class made from them."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self.given = metric._get_metric  # noqa: SLF001
        self._names = metric._labelnames  # noqa: SLF001
        self._read = _READERS[type(metric)]
        bounds = metric._upper_bounds if type(metric) is Histogram else []  # noqa: SLF001
        self._keys: list[float | str] = [*bounds, *_SUFFIXES[type(metric)]]
        self._bounds = [{"le": number(bound)} for bound in bounds]
        self._signed = bool(bounds) and bounds[0] < 0
        self._lines: dict[tuple[str, ...], Line] = {}
        self._samples: list[Sample] = []

    @staticmethod
    def of(collector: Any) -> Reader | None:
        """A reader, or None if this is none of its kinds or the client has changed inside."""
        try:
            return Reader(collector) if type(collector) in _READERS else None
        except AttributeError:
            return None

    def read(self, family: Family, admits: Admits) -> tuple[dict[Labels, Group], list[str], int]:
        """Puts the samples into the family.

        Args:
            family: one without samples.
            admits: whether a label set may be one of them.

        Returns:
            The label sets that may not, what is wrong with the others, and bytes of the family's JSON.

        Raises:
            Unfit: a value is no number, or there are too many label sets to look at.
        """
        try:
            return self._put(family, admits)
        except BaseException:
            self._lines = {}  # what was drawn before it is in no family
            raise

    def _put(self, family: Family, admits: Admits) -> tuple[dict[Labels, Group], list[str], int]:
        there = children(self._metric)
        if len(there) > MAX_CHILDREN:
            raise rules.Unfit(
                f"{family.name} has {len(there)} label sets, up to {MAX_CHILDREN} are read: use fewer"
            )
        rest: dict[Labels, Group] = {}
        lines: dict[tuple[str, ...], Line] = {}
        changed = False
        for key, child in there.items():
            raw = self._read(child)
            line = self._lines.get(key)
            if line is None:
                labels = rules.labels_of(zip(self._names, key, strict=False))
                line = Line(
                    tuple(sorted(labels.items())), [{**labels, **le} for le in self._bounds], [], [], [], 0
                )
                line.labels.append(labels)
            if not admits(line.key):
                rest[line.key] = self._group(family, raw)
                if type(self._metric) is Gauge:  # whose further ones are left out
                    break
                continue
            if not line.samples:
                self._draw(family, line, raw)
                line.size = _bytes(line)
                changed = True
            elif raw != line.raw:
                self._draw(family, line, raw)
                if any(raw[len(self._keys) :]):  # exemplars, of whatever length
                    line.size = _bytes(line)
                changed = True
            lines[key] = line
        if changed or lines.keys() != self._lines.keys():
            self._samples = [sample for line in lines.values() for sample in line.samples]
        self._lines = lines
        family.samples = self._samples
        faults = [fault for line in lines.values() if line.faults for fault in line.faults]
        return rest, faults, sum(line.size for line in lines.values())

    def _draw(self, family: Family, line: Line, raw: list[Any]) -> None:
        line.faults = []
        values, marks = self._values(family, raw, line.faults)
        common = line.labels[-1]
        samples = []
        if self._bounds:
            name, below = f"{family.name}_bucket", 0.0
            for labels, key, mark in zip(line.labels, self._keys, marks, strict=False):
                below += values[key]
                samples.append(Sample(name, labels, below, mark))
            samples.append(Sample(f"{family.name}_count", common, below))
        for suffix in _SUFFIXES[type(self._metric)]:
            if suffix in values and not self._signed:
                mark = marks[0] if suffix == "_total" else None
                samples.append(Sample(family.name + suffix, common, values[suffix], mark))
        line.raw, line.samples = raw, samples

    def _group(self, family: Family, raw: list[Any]) -> Group:
        values, marks = self._values(family, raw, [])
        named = zip(self._keys, marks, strict=False)
        return Group(values, {key: mark for key, mark in named if mark})

    def _values(
        self, family: Family, raw: list[Any], faults: list[str]
    ) -> tuple[dict[float | str, float], list[Exemplar | None]]:
        """Values by key, without those that cannot be, and exemplars in the order of the keys."""
        values: dict[float | str, float] = {}
        for key, given in zip(self._keys, raw, strict=False):
            value = given if type(given) is float else rules.value_of(family.name, given)
            if type(key) is str and key and not rules.counts(key, value):
                faults.append(rules.no_count(key, value))
            else:
                values[key] = value
        marks = []
        for given in raw[len(self._keys) :]:
            mark = None if given is None else rules.exemplar_of(given)
            if mark is None and given is not None:
                faults.append(rules.BAD_EXEMPLAR)
            marks.append(mark)
        return values, marks


def _bytes(line: Line) -> int:
    """About those of the line's JSON, for as long as it lives."""
    return len(json.dumps(line.samples)) + _GROWTH * len(line.samples)


def _of_counter(child: Any) -> list[Any]:
    value = child._value  # noqa: SLF001
    return [value.get(), value.get_exemplar()]


def _of_gauge(child: Any) -> list[Any]:
    return [child._value.get()]  # noqa: SLF001


def _of_summary(child: Any) -> list[Any]:
    return [child._count.get(), child._sum.get()]  # noqa: SLF001


def _of_histogram(child: Any) -> list[Any]:
    buckets = child._buckets  # noqa: SLF001
    raw = [bucket.get() for bucket in buckets]
    raw.append(child._sum.get())  # noqa: SLF001
    raw += [bucket.get_exemplar() for bucket in buckets]
    return raw


_READERS: Mapping[Any, Callable[[Any], list[Any]]] = {
    Counter: _of_counter,
    Gauge: _of_gauge,
    Summary: _of_summary,
    Histogram: _of_histogram,
}
_SUFFIXES: Mapping[Any, tuple[str, ...]] = {
    Counter: ("_total",),
    Gauge: ("",),
    Summary: ("_count", "_sum"),
    Histogram: ("_sum",),
}
