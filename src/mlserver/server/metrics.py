"""The numbers of the whole server: what workers wrote and said, joined with the supervisor's own."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from mlserver import signals
from mlserver.exposition import Exposition, Rendered
from mlserver.exposition.processes import Processes
from mlserver.exposition.users.family import unpack
from mlserver.exposition.users.merge import Merger
from mlserver.exposition.users.sources import Sources
from mlserver.pages import Page, create_memory
from mlserver.tables import series_of, write_build_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.config import Config

SUPERVISOR = "supervisor"
"""Label ``worker`` of the supervisor's own process."""
_OWN_ID = -1


class FleetMetrics:
    """Owns the metric pages, which outlive the workers that write them, and answers scrapes.

    Args:
        slots: places for workers; each has two pages, since a successor starts before its predecessor ends.
    """

    def __init__(self, config: Config, *, slots: int) -> None:
        self.descriptors = [create_memory() for _ in range(2 * slots + 1)]
        """Of all pages; the last is the supervisor's own."""
        self._pages = [Page.shared(descriptor) for descriptor in self.descriptors]
        own = self._pages[-1]
        write_build_info(own)
        self._workers = series_of(own, signals.WORKERS)
        self._restarts = series_of(own, signals.WORKER_RESTARTS)
        self._dropped = {
            signal: series_of(own, signals.SIGNALS_DROPPED, signal) for signal in signals.DROPPABLE
        }
        self._pids: Mapping[str, int] = {}
        max_series = config.observability.max_series
        on_drop = partial(self.note_dropped, "user_metrics")
        self._interpreter = Sources(REGISTRY, max_series, lambda _: False)
        self._merger = Merger(max_series, on_drop=on_drop)
        collectors = (Processes(self._processes), self._merger)
        self._exposition = Exposition(
            config, self._pages, collectors, on_drop=on_drop, on_fold=partial(self.note_dropped, "metrics")
        )

    def adopt(self, config: Config) -> None:
        """Shows metrics as a configuration says from now on."""
        self._merger.adopt(config.observability.max_series)
        self._exposition.adopt(config)

    def render(self, accept: str, accept_encoding: str) -> Rendered:
        """What a scrape is answered with; the headers of that name, or "" for each."""
        self._merger.take(_OWN_ID, SUPERVISOR, self._interpreter.collect_now())
        return self._exposition.render(accept, accept_encoding)

    def note_workers(self, *, ready: int, pids: Mapping[str, int]) -> None:
        """How many workers can predict, and the process behind each value of the label ``worker``."""
        self._workers[0] = float(ready)
        self._pids = pids

    def note_restart(self) -> None:
        """A worker died and has to be replaced."""
        self._restarts[0] += 1.0

    def note_dropped(self, signal: str, count: int) -> None:
        """Signals of the supervisor's own were lost."""
        self._dropped[signal][0] += count

    def take(self, worker: int, slot: int, families: list[Any]) -> None:
        """A worker's snapshot of its user's own metrics."""
        self._merger.take(worker, str(slot), unpack(families))

    def reset(self, page: int) -> None:
        """Whoever wrote a page is dead: what it counted stays, what was so of it is so no longer."""
        self._pages[page].reset_gauges()

    def retire(self, worker: int) -> None:
        """A worker is dead and has said its last."""
        self._merger.retire(worker)

    def _processes(self) -> Mapping[str, int]:
        return {**self._pids, SUPERVISOR: os.getpid()}
