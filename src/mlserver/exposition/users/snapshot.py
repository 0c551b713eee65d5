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

from prometheus_client import REGISTRY, Counter, Histogram, Summary

from mlserver.exposition.users.sources import Source, Sources
from mlserver.exposition.users.vetting import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from mlserver.exposition.users.family import Family

HUNG_TICKS = 5
"""Ticks that find the same collection going on, after which it is left behind."""
QUIET_S = 60.0
"""Between two warnings about the same thing."""
MAX_TOLD = 10_000
"""Things that were warned about and are remembered."""

_logger = logging.getLogger("mlserver.metrics")


class Collecting(threading.Thread):
    """The thread that collects; if it is ``left`` behind, another one goes on."""

    def __init__(self, work: Callable[[Collecting], None]) -> None:
        super().__init__(name="user-metrics", daemon=True)
        self._work = work
        self.left = False
        self.source: Source | None = None
        self.collections = 0

    def run(self) -> None:
        self._work(self)


class Snapshots:
    """Snapshots of the metrics of a registry, made in a thread of its own.

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
        self._running = False
        self._thread: Collecting | None = None
        self._watched: tuple[Collecting, int] | None = None
        self._seen = 0
        self._wanted = self._begun = self._done = 0
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._losses: set[int] = set()
        self._dropped = 0
        self._told: dict[str, float] = {}

    def start(self) -> None:
        """Starts the thread."""
        with self._changed:
            self._running = True
            self._ensure_thread()

    def close(self) -> None:
        """Lets the thread end; what it holds up is not waited for."""
        with self._changed:
            self._running = False
            self._changed.notify_all()
            for _, loop, future in self._waiting:
                _wake(loop, future)

    def tick(self) -> None:
        """Asks for a new snapshot, and looks after the one being made. To be called once a second."""
        with self._changed:
            stuck = self._watch()
            if self._running:
                self._wanted = max(self._wanted, self._done + 1)
                self._ensure_thread()
                self._changed.notify_all()
        if stuck:
            self._tell(
                stuck.title,
                f"hangs in collect(): its metrics keep their last values until it returns. Look for what it "
                f"waits for; it was left behind after {HUNG_TICKS} s",
            )
        self._deliver()

    async def take(self, timeout_s: float) -> list[Family]:
        """A snapshot begun after this call, or else each collector's newest good values.

        Args:
            timeout_s: seconds to wait for it.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._changed:
            if self._running:
                self._wanted = self._begun + 1
                self._waiting.append((self._wanted, loop, future))
                self._ensure_thread()
                self._changed.notify_all()
            else:
                future.set_result(None)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            with self._changed:
                self._waiting = [waiting for waiting in self._waiting if waiting[2] is not future]
        self._deliver()
        return self._sources.assemble()[0]

    def _watch(self) -> Source | None:
        """Leaves the thread behind if it is in the same collection as so many ticks ago."""
        thread = self._thread
        if thread is None or thread.source is None:
            self._watched = None
            return None
        now = (thread, thread.collections)
        self._seen = self._seen + 1 if self._watched == now else 1
        self._watched = now
        if self._seen < HUNG_TICKS:
            return None
        thread.left = thread.source.stuck = True
        self._thread = None
        return thread.source

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = Collecting(self._work)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the next tick tries again
                _logger.warning("Metrics of the model's own are not collected: %s", told(error))
            else:
                self._thread = thread
                if self._done < self._begun:  # one that was not ended
                    self._wanted = self._begun + 1

    def _work(self, thread: Collecting) -> None:
        while self._next(thread):
            try:
                if not self._snapshot(thread):
                    return
            except Exception as error:  # noqa: BLE001  # the next one may fare better
                self._losses.add(0)
                self._tell("snapshot", f"failed: {told(error)}")
            with self._changed:
                self._dropped += len(self._losses)
                self._losses.clear()
                self._done = self._begun
                for number, loop, future in self._waiting:
                    if number <= self._done:
                        _wake(loop, future)

    def _snapshot(self, thread: Collecting) -> bool:
        """Collects from all. False if the thread has been left behind."""
        # Those that cannot hang come first: a thread that is left behind has them.
        for source in sorted(self._sources.present(), key=_may_hang):
            if not self._collect(thread, source):
                return False
        for source, name, what in self._sources.assemble()[1]:
            self._lose(source)
            self._tell(f"{name} of {source.title}", what)
        return True

    def _next(self, thread: Collecting) -> bool:
        with self._changed:
            while self._running and not thread.left and self._wanted <= self._begun:
                self._changed.wait()
            if not self._running or thread.left:
                return False
            self._begun += 1
            return True

    def _collect(self, thread: Collecting, source: Source) -> bool:
        """Collects from one collector. False if the thread has been left behind."""
        with self._changed:
            if thread.left:
                return False
            if source.stuck:
                self._lose(source)
                return True
            thread.source = source
            thread.collections += 1
        outcome = source.vetting.collect()
        with self._changed:
            if thread.left:
                source.stuck = False
                return False
            thread.source = None
        source.keep(outcome)
        for name, what, once in outcome.faults:
            self._lose(source)
            self._tell(f"{name} of {source.title}" if name else source.title, what, once=once)
        return True

    def _lose(self, source: Source) -> None:
        self._losses.add(id(source))

    def _deliver(self) -> None:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            try:
                self._on_drop(dropped)
            except Exception:
                _logger.exception("Losses of metrics could not be counted")

    def _tell(self, title: str, what: str, *, once: bool = False) -> None:
        """Logs, at most once a minute for the same thing."""
        now = self._clock()
        last = self._told.get(title)
        if last is None or (not once and now - last >= QUIET_S):
            if len(self._told) > MAX_TOLD:
                self._told.clear()
            self._told[title] = now
            _logger.warning("Metric %s %s", title, what)


def _may_hang(source: Source) -> bool:
    return not issubclass(type(source.collector), Counter | Histogram | Summary)


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, future)
    except RuntimeError:  # the loop is closed: nobody waits
        return


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
