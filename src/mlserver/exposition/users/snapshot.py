"""A worker's side of users' own metrics: what is in ``prometheus_client``'s registry, once a second.

``_created`` samples are left out: of several processes, some of them dead, they say nothing true. So are
timestamps of samples, and ``process_*`` of this process, which the supervisor reads for all workers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from mlserver.exposition.users.lanes import HUNG_TICKS, Lane
from mlserver.exposition.users.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from mlserver.exposition.users.family import Family

QUIET_S = 60.0
"""Between two warnings about the same thing."""
MAX_TOLD = 10_000
"""Things that were warned about and are remembered."""

_logger = logging.getLogger("mlserver.metrics")


class Snapshots:
    """Snapshots of the metrics of a registry, made in two threads of its own.

    One thread has the client's own metrics, the other all that may hang, which so cannot hold up the first.
    Whatever a collector does, nothing is raised here: what is good of its metrics is kept, the last good
    values stand for what is not, and the loss is counted and told. A collector that hangs is found out after
    `HUNG_TICKS` ticks, left alone until it returns, and then asked again. `tick`, `take` and ``on_drop``
    belong to the event loop's thread.

    Args:
        max_series: label sets of one metric, not counting ``le`` and ``quantile``. The rest of a counter,
            histogram or summary is added up under ``__overflow__``, of other types it is left out.
        reserved: whether a name is one of the server's own, which a user's metric cannot have.
        on_drop: counts losses: 1 for each collector and snapshot.
        clock: seconds, for the time between two warnings.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        max_series: int,
        reserved: Callable[[str], bool],
        on_drop: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = Sources(registry, max_series, reserved)
        self._on_drop = on_drop
        self._clock = clock
        self._changed = threading.Condition()
        self._told: dict[str, float] = {}
        self._lanes = [
            Lane(name, self._sources, self._changed, self._tell, own=own)
            for name, own in (("user-metrics-own", True), ("user-metrics-other", False))
        ]

    def start(self) -> None:
        """Starts the threads."""
        with self._changed:
            for lane in self._lanes:
                lane.start()

    def close(self) -> None:
        """Lets the threads end and takes return; what holds up a thread is not waited for."""
        with self._changed:
            for lane in self._lanes:
                lane.close()

    def tick(self) -> None:
        """Asks for a new snapshot, and looks after the one being made. To be called once a second."""
        with self._changed:
            stuck = [lane.watch() for lane in self._lanes]
            for lane in self._lanes:
                lane.ask()
        for source in filter(None, stuck):
            self._tell(
                source.title,
                f"hangs in collect(): its metrics keep their last values until it returns. Look for what it "
                f"waits for; it was left behind after {HUNG_TICKS} s",
            )
        self._deliver()

    async def take(self, timeout_s: float) -> list[Family]:
        """A snapshot begun after this call, or else each collector's newest good values.

        Args:
            timeout_s: seconds to wait for it.
        """
        with self._changed:
            futures = [lane.ask_anew() for lane in self._lanes]
        try:
            await asyncio.wait(futures, timeout=timeout_s)
        finally:
            with self._changed:
                for lane in self._lanes:
                    lane.waiting = [waiting for waiting in lane.waiting if waiting[2] not in futures]
        self._deliver()
        return self._sources.assemble()[0]

    def _deliver(self) -> None:
        with self._changed:
            dropped = sum(lane.dropped for lane in self._lanes)
            for lane in self._lanes:
                lane.dropped = 0
        if dropped:
            try:
                self._on_drop(dropped)
            except Exception:
                _logger.exception("Losses of metrics could not be counted")

    def _tell(self, title: str, what: str, once: bool = False) -> None:  # noqa: FBT001, FBT002
        """Logs, at most once a minute for the same thing."""
        now = self._clock()
        with self._changed:
            last = self._told.get(title)
            if last is not None and (once or now - last < QUIET_S):
                return
            if len(self._told) > MAX_TOLD:
                self._told.clear()
            self._told[title] = now
        _logger.warning("Metric %s %s", title, what)
