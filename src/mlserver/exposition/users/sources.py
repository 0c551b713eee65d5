"""The collectors of a registry, and what each of them last gave."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import InfoMetricFamily

from mlserver.exposition.users.clients import is_own
from mlserver.exposition.users.family import PROCESS, claims
from mlserver.exposition.users.vetting import Vetted, Vetting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry, Metric

    from mlserver.exposition.users.family import Family
    from mlserver.exposition.users.vetting import Outcome

MAX_BYTES = 4 << 20
"""JSON of a snapshot."""


class TargetInfo:
    """A registry's target info, as a collector."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        info = getattr(self._registry, "_target_info", None)  # get_target_info() might wait for the lock
        return [InfoMetricFamily("target", "Target metadata", dict(info))] if info else []


class Source:
    """One collector, and the families that it last gave.

    Other threads may read ``good``, which is replaced and never changed. ``own`` says that it is one of the
    client's own, which cannot hang.
    """

    def __init__(
        self,
        collector: Any,
        names: Iterable[str],
        max_series: int,
        reserved: Callable[[str], bool],
    ) -> None:
        kind = type(collector)
        self.collector = collector
        self.title = f"{next(iter(names), '')} ({kind.__module__}.{kind.__qualname__})".strip()
        one_process = issubclass(kind, GCCollector | PlatformCollector)
        # The client's own have names of ours, rightly.
        reserved = _nothing if one_process else reserved
        self.vetting = Vetting(collector, PROCESS if one_process else "", max_series, reserved)
        self.good: dict[str, Vetted] = {}
        self.stuck = False
        self.own = True

    def sort(self) -> None:
        """Looks whether it is one of the client's own still: a gauge may have been given a function."""
        if self.own and not is_own(self.collector):
            self.own = False
            self.vetting.reader = None

    def keep(self, outcome: Outcome) -> None:
        """What a collection gave; the last good families stand for those that it lost."""
        old = {
            name: vetted
            for name, vetted in self.good.items()
            if name not in outcome.families and (outcome.broken or name in outcome.unfit)
        }
        self.good = outcome.families | old


class Sources:
    """All collectors of a registry, for any thread; two must not collect from the same one at a time."""

    def __init__(self, registry: CollectorRegistry, max_series: int, reserved: Callable[[str], bool]) -> None:
        self._registry = registry
        self._max_series = max_series
        self._reserved = reserved
        self._target = TargetInfo(registry)
        self._known: dict[int, Source] = {}
        self._lock = threading.Lock()

    def collect_now(self) -> list[Family]:
        """Collects from all, in this thread, and gives their newest good families."""
        for source in self.present():
            source.keep(source.vetting.collect())
        return self.assemble()[0]

    def present(self) -> list[Source]:
        """The collectors that there are, in the order of their registration."""
        with self._lock:
            return self._present()

    def _present(self) -> list[Source]:
        # The registry's own collect() is one generator, which ends at the first collector that raises. Its
        # lock is not taken: register() holds it while it calls a collector, which may hang; and copying a
        # dict needs none.
        names = getattr(self._registry, "_collector_to_names", None)
        given = {self._registry: []} if names is None else {self._target: ["target"], **names.copy()}
        known: dict[int, Source] = {}
        for collector, known_as in given.items():
            own = issubclass(type(collector), ProcessCollector)
            if own and not getattr(collector, "_namespace", ""):  # the supervisor reads these for all workers
                continue
            key = id(collector)
            source = self._known.get(key) or Source(collector, known_as, self._max_series, self._reserved)
            source.sort()
            known[key] = source
        there = [*known.values()]
        for key, source in self._known.items():
            if source.stuck and key not in known:  # should it come back, it must not hold up another thread
                source.good = {}
                known[key] = source
        self._known = known
        return there

    def assemble(self) -> tuple[list[Family], list[tuple[Source, str, str]]]:
        """The newest good families of all collectors, and what had to be left out: whose, which, and why."""
        chosen: list[tuple[Source, Vetted]] = []
        faults: list[tuple[Source, str, str]] = []
        taken: set[str] = set()
        for source in self._known.values():
            for vetted in source.good.values():
                names = claims(vetted.family)
                if names & taken:
                    what = "is left out: another metric has its name or one of its samples' names; rename one"
                    faults.append((source, vetted.family.name, what))
                else:
                    taken |= names
                    chosen.append((source, vetted))
        size = sum(vetted.size for _, vetted in chosen)
        for entry in sorted(chosen, key=lambda entry: entry[1].size, reverse=True):
            if size <= MAX_BYTES:
                break
            source, vetted = entry
            chosen = [other for other in chosen if other is not entry]
            size -= vetted.size
            what = (
                f"is left out: it takes {vetted.size} bytes, and all metrics of a worker together may take "
                f"{MAX_BYTES}; use fewer or shorter labels"
            )
            faults.append((source, vetted.family.name, what))
        return [vetted.family for _, vetted in chosen], faults


def _nothing(_name: str) -> bool:
    return False
