"""The supervisor's side of users' own metrics: the snapshots of all workers, made one."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from mlserver.exposition.users.family import PROCESS, SUMMED, Family, Group, Sample, join, split
from mlserver.exposition.users.rules import label_set
from mlserver.exposition.users.sums import AGGREGATED, MAX_BOUNDS, Readings, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from mlserver.exposition.users.family import Labels

WORKER = "worker"
"""The label that tells which worker's a sample is."""
MAX_FAMILIES = 100
"""Metrics that are kept when no worker has them any more; those that changed longest ago go first."""

_FOLDED = {
    "label sets": "further ones are counted together as __overflow__; use fewer labels or raise "
    "observability.max_series",
    "buckets": f"beyond {MAX_BOUNDS}, further ones count in the next larger one; use fewer buckets",
}
_logger = logging.getLogger("mlserver.metrics")


@dataclass(slots=True)
class Member:
    """A worker, and what it last gave. A dead one stays until another one in its slot has given something."""

    slot: str
    alive: bool = True
    families: dict[str, Family] = field(default_factory=dict)


class Merger(Collector):
    """All workers' snapshots as the families of one server.

    Counters, histograms and summaries are added up, of dead workers too: a sample never falls while the
    merger lives, except a sum of negative observations. Gauges follow their ``multiprocess_mode``; what
    belongs to a single worker has the label ``worker``, and a label that the user has called so becomes
    ``exported_worker``. Where workers disagree about what a metric is, the newest one is right. Metrics that
    share only some of their samples' names all come out; who renders them shows the first. All calls belong
    to one thread.

    Args:
        max_series: label sets of one metric that are added up one by one.
        on_drop: counts label sets that went to ``__overflow__`` here, as the workers have different ones, and
            histograms whose buckets were too many.
    """

    def __init__(self, max_series: int = 1000, on_drop: Callable[[int], None] = lambda _: None) -> None:
        self._max_series = max_series
        self._on_drop = on_drop
        self._members: dict[int, Member] = {}
        self._retired: deque[int] = deque(maxlen=1024)
        self._kinds: dict[str, Family] = {}
        self._totals: dict[tuple[str, str], Totals] = {}
        self._readings: dict[tuple[str, str], Readings] = {}
        self._now = itertools.count(1)
        self._folded: set[tuple[str, str]] = set()

    def take(self, worker: int, slot: str, families: Sequence[Family]) -> None:
        """The newest snapshot of a worker.

        Args:
            worker: a number that no other worker ever has; a successor's is higher.
            slot: the place that it shares with its predecessors, for the label ``worker``.
            families: all that it has.
        """
        if worker in self._retired:
            return
        now = next(self._now)
        member = self._members.setdefault(worker, Member(slot))
        self._bury(slot)
        before, member.families = member.families, {family.name: family for family in families}
        for name, family in member.families.items():
            if before.get(name) != family:
                self._take_one(worker, slot, family, now)
        for (name, mode), readings in self._readings.items():
            if name in before and (name not in member.families or member.families[name].mode != mode):
                readings.take(worker, {}, now)
        self._forget()

    def retire(self, worker: int) -> None:
        """A worker is dead; a snapshot of it that comes later is not looked at."""
        self._retired.append(worker)
        for totals in self._totals.values():
            totals.retire(worker)
        for readings in self._readings.values():
            readings.retire(worker)
        member = self._members.get(worker)
        if member is not None:
            member.alive = False
            if any(its.alive and its.slot == member.slot for its in self._members.values()):
                self._bury(member.slot)
        self._forget()

    def adopt(self, max_series: int) -> None:
        """Has another budget from now on; what was counted under ``__overflow__`` stays there."""
        self._max_series = max_series
        for totals in self._totals.values():
            totals.max_series = max_series
        for readings in self._readings.values():
            readings.max_series = max_series

    def collect(self) -> Iterable[Metric]:
        """The families: those of the newest worker first, by name. All formats can show each of them."""
        kinds = {name: (0, family) for name, family in self._kinds.items()}
        newest = [member.families for _, member in self._by_age()]
        for age, families in enumerate(newest, start=1):
            kinds.update((name, (age, family)) for name, family in families.items())
        metrics: list[Metric] = []
        for age, family in sorted(kinds.values(), key=lambda kind: (-kind[0], kind[1].name)):
            try:
                samples = self._samples(family)
                if samples or age:
                    metrics.append(family.metric(samples))
            except Exception:
                _logger.exception("Metric %s could not be put together and is left out", family.name)
        return metrics

    def _take_one(self, worker: int, slot: str, family: Family, now: int) -> None:
        self._kinds.pop(family.name, None)
        self._kinds[family.name] = family.without_samples()
        if family.type in SUMMED:
            self._totals_of(family.name, family.type).take(worker, split(_owned(family, slot)))
        elif family.mode in AGGREGATED:
            self._readings_of(family.name, family.mode).take(worker, _values(family), now)

    def _bury(self, slot: str) -> None:
        """Forgets the dead of a slot that has a living one."""
        for worker in [key for key, its in self._members.items() if its.slot == slot and not its.alive]:
            del self._members[worker]

    def _by_age(self) -> list[tuple[int, Member]]:
        """Dead ones first, then the living, each from the oldest to the newest."""
        return sorted(self._members.items(), key=lambda item: (item[1].alive, item[0]))

    def _samples(self, family: Family) -> list[Sample]:
        if family.type in SUMMED:
            samples = _joined(family, self._totals_of(family.name, family.type).read())
            return samples + (self._of_each(family) if family.type == "summary" else [])
        if family.mode in AGGREGATED:
            values = self._readings_of(family.name, family.mode).read()
            return [Sample(family.name, dict(labels), value) for labels, value in values.items()]
        if family.type == "gaugehistogram":
            of_each = {
                tuple(_with_worker(dict(labels), slot).items()): group
                for slot, its in self._newest(family)
                for labels, group in split(its).items()
            }
            return _joined(family, of_each)
        if family.type == "info":
            infos = (sample for _, its in self._newest(family) for sample in its.samples)
            return list({tuple(sorted(sample.labels.items())): sample for sample in infos}.values())
        return self._of_each(family)

    def _of_each(self, family: Family) -> list[Sample]:
        """The samples that are not added up, with the label ``worker``, those of one label set together."""
        groups: dict[Labels, list[Sample]] = {}
        for slot, its in self._newest(family):
            for name, labels, value, _ in its.samples:
                if name == family.name:
                    owned = _with_worker(labels, slot)
                    groups.setdefault(label_set(family, owned), []).append(Sample(name, owned, value))
        return list(itertools.chain(*groups.values()))

    def _newest(self, family: Family) -> Iterable[tuple[str, Family]]:
        """What the newest worker of each slot gave, if it is of the same type."""
        newest = {
            member.slot: member for _, member in self._by_age() if member.alive or family.mode != "liveall"
        }
        for slot, member in sorted(newest.items()):
            its = member.families.get(family.name)
            if its and its.type == family.type:
                yield slot, its

    def _totals_of(self, name: str, kind: str) -> Totals:
        found = self._totals.get((name, kind))
        if found is None:
            found = self._totals[name, kind] = Totals(self._max_series, partial(self._fold, name))
        return found

    def _readings_of(self, name: str, mode: str) -> Readings:
        found = self._readings.get((name, mode))
        if found is None:
            found = self._readings[name, mode] = Readings(mode, self._max_series)
        return found

    def _fold(self, name: str, what: str) -> None:
        self._on_drop(1)
        if (name, what) not in self._folded:
            self._folded.add((name, what))
            _logger.warning("Metric %s has too many %s in all workers: %s", name, what, _FOLDED[what])

    def _forget(self) -> None:
        """Forgets metrics that no worker has any more, if there are too many."""
        there = set().union(*(member.families for member in self._members.values()))
        gone = [name for name in self._kinds if name not in there]
        for name in gone[: max(0, len(gone) - MAX_FAMILIES)]:
            del self._kinds[name]
            self._folded = {key for key in self._folded if key[0] != name}
            self._totals = {key: its for key, its in self._totals.items() if key[0] != name}
            self._readings = {key: its for key, its in self._readings.items() if key[0] != name}


def _joined(family: Family, groups: dict[Labels, Group]) -> list[Sample]:
    return [sample for labels, group in groups.items() for sample in join(family, labels, group)]


def _values(family: Family) -> dict[Labels, float]:
    return {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}


def _owned(family: Family, slot: str) -> Family:
    """A family of one process is added up only with those of its predecessors in the slot."""
    if family.mode != PROCESS:
        return family
    owned = family.without_samples()
    owned.samples = [sample._replace(labels=_with_worker(sample.labels, slot)) for sample in family.samples]
    return owned


def _with_worker(labels: dict[str, str], slot: str) -> dict[str, str]:
    if WORKER in labels:
        name = f"exported_{WORKER}"
        while name in labels:
            name = f"exported_{name}"
        labels = {name if label == WORKER else label: value for label, value in labels.items()}
    return {**labels, WORKER: slot}
