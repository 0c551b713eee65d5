"""The metrics of one process: what a scrape gets where there is no supervisor to ask."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from mlserver import signals
from mlserver.exposition.processes import Processes
from mlserver.exposition.scrape import Exposition, Rendered
from mlserver.exposition.users.merge import Merger
from mlserver.exposition.users.snapshot import Snapshots
from mlserver.tables import series_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mlserver.config import Config
    from mlserver.pages import Page

    Answer = Callable[[str, str], Awaitable[Rendered]]

TICK_S = 1.0
FRESH_S = 0.5
"""How long a scrape waits for the user's metrics as they are now."""


class OwnMetrics:
    """Scrapes of this process.

    Args:
        pages: what to sum.
        worker: value of the label ``worker``.
        ready: whether this process can predict; with a supervisor, that counts who can.
        on_drop: told how many times metrics of the user's had to be left out.
    """

    def __init__(
        self,
        config: Config,
        pages: Sequence[Page],
        *,
        worker: int,
        ready: Callable[[], bool],
        on_drop: Callable[[int], None],
    ) -> None:
        self._worker = str(worker)
        self._page, self._ready = pages[0], ready
        settings = config.observability
        reserved = signals.reserved_names(settings.metrics_prefix)
        self._merger = Merger(settings.max_series, on_drop=on_drop)
        self.snapshots = Snapshots(
            max_series=settings.max_series, reserved=reserved.__contains__, on_drop=on_drop
        )
        self.exposition = Exposition(
            config, pages, (Processes(lambda: {self._worker: os.getpid()}), self._merger), on_drop=on_drop
        )
        self._ticker: asyncio.TimerHandle | None = None
        self._answer: Answer = self._alone

    async def answer(self, accept: str, accept_encoding: str) -> Rendered:
        """What a scrape gets.

        Args:
            accept: the header ``Accept``, or "".
            accept_encoding: the header ``Accept-Encoding``, or "".
        """
        return await self._answer(accept, accept_encoding)

    def answer_with(self, answer: Answer) -> None:
        """Has scrapes answered by somebody who knows more than this process."""
        self._answer = answer

    def start(self) -> None:
        """Begins to take snapshots of the user's metrics; to be called on the event loop."""
        self.snapshots.start()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def close(self) -> None:
        """Ends what `start` began."""
        if self._ticker is not None:
            self._ticker.cancel()
        self.snapshots.close()

    def _tick(self) -> None:
        self.snapshots.tick()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def _alone(self, accept: str, accept_encoding: str) -> Rendered:
        series_of(self._page, signals.WORKERS)[0] = float(self._ready())
        self._merger.take(0, self._worker, await self.snapshots.take(FRESH_S))
        return self.exposition.render(accept, accept_encoding)
