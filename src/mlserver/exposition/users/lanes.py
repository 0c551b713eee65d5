"""Threads that collect, and how it is found out that one is held up."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from mlserver.exposition.users.vetting import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlserver.exposition.users.sources import Source, Sources

HUNG_TICKS = 5
"""Ticks that find the same collection going on, after which it is left behind."""

_logger = logging.getLogger("mlserver.metrics")


class Collecting(threading.Thread):
    """A thread that collects; if it is ``left`` behind, another one goes on."""

    def __init__(self, name: str, work: Callable[[Collecting], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.left = False
        self.source: Source | None = None
        self.collections = 0

    def run(self) -> None:
        self._work(self)


class Lane:
    """Collects from some of the collectors, one after the other, in a thread of its own.

    Public methods are called with ``changed`` held.

    Args:
        own: whether its collectors are those of the client's own classes, or all others.
        tell: warns about a thing (title, what is wrong, whether only once).
    """

    def __init__(
        self,
        name: str,
        sources: Sources,
        changed: threading.Condition,
        tell: Callable[[str, str, bool], None],
        *,
        own: bool,
    ) -> None:
        self._name = name
        self._own = own
        self._sources = sources
        self._changed = changed
        self._tell = tell
        self._running = False
        self.thread: Collecting | None = None
        self._watched: tuple[Collecting, int] | None = None
        self._seen = 0
        self._wanted = self._begun = self._done = 0
        self.waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._losses: set[int] = set()
        self.dropped = 0

    def start(self) -> None:
        self._running = True
        self._ensure_thread()

    def close(self) -> None:
        """Lets the thread end and wakes whoever waits."""
        self._running = False
        self._changed.notify_all()
        for _, loop, future in self.waiting:
            _wake(loop, future)

    def ask(self) -> None:
        """Wants a snapshot, unless one is being made."""
        if self._running:
            self._wanted = max(self._wanted, self._done + 1)
            self._ensure_thread()
            self._changed.notify_all()

    def ask_anew(self) -> asyncio.Future[None]:
        """Wants a snapshot that begins now or later; what is returned is settled when it is there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._running:
            self._wanted = self._begun + 1
            self.waiting.append((self._wanted, loop, future))
            self._ensure_thread()
            self._changed.notify_all()
        else:
            future.set_result(None)
        return future

    def watch(self) -> Source | None:
        """Leaves the thread behind if it is in the same collection as so many ticks ago, and says whose."""
        thread = self.thread
        if thread is None or thread.source is None:
            self._watched = None
            return None
        now = (thread, thread.collections)
        self._seen = self._seen + 1 if self._watched == now else 1
        self._watched = now
        if self._seen < HUNG_TICKS:
            return None
        thread.left = thread.source.stuck = True
        self.thread = None
        return thread.source

    def _ensure_thread(self) -> None:
        if self.thread is None or not self.thread.is_alive():
            thread = Collecting(self._name, self._work)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the next tick tries again
                _logger.warning("Metrics of the model's own are not collected: %s", told(error))
            else:
                self.thread = thread
                if self._done < self._begun:  # one that was not ended
                    self._wanted = self._begun + 1

    def _work(self, thread: Collecting) -> None:
        while self._next(thread):
            try:
                if not self._snapshot(thread):
                    return
            except Exception as error:  # noqa: BLE001  # the next one may fare better
                self._losses.add(0)
                self._tell("snapshot", f"failed: {told(error)}", False)  # noqa: FBT003
            with self._changed:
                self.dropped += len(self._losses)
                self._losses.clear()
                self._done = self._begun
                for number, loop, future in self.waiting:
                    if number <= self._done:
                        _wake(loop, future)

    def _snapshot(self, thread: Collecting) -> bool:
        """Collects from all of the lane. False if the thread has been left behind."""
        for source in self._sources.present():
            if source.own == self._own and not self._collect(thread, source):
                return False
        for source, name, what in self._sources.assemble()[1]:
            if source.own == self._own:
                self._lose(source)
                self._tell(f"{name} of {source.title}", what, False)  # noqa: FBT003
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
        source.keep(outcome)  # of one that was only slow, too
        with self._changed:
            if thread.left:
                source.stuck = False
                return False
            thread.source = None
        for name, what, once in outcome.faults:
            self._lose(source)
            self._tell(f"{name} of {source.title}" if name else source.title, what, once)
        return True

    def _lose(self, source: Source) -> None:
        self._losses.add(id(source))


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, future)
    except RuntimeError:  # the loop is closed: nobody waits
        return


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
