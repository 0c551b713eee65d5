"""Spans that were lost: all are counted, and told of once a minute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("mlserver.traces")


class Losses:
    """Counts lost spans, in any thread.

    Args:
        collector: where they were to go.
        on_drop: told how many more.
        clock: as of `Pace`.
    """

    def __init__(
        self, collector: str, on_drop: Callable[[int], None], clock: Callable[[], float] | None = None
    ) -> None:
        self._collector = collector
        self._on_drop = on_drop
        self._pace = Pace(clock)
        self._lock = threading.Lock()
        self._untold = 0

    def count(self, spans: int, reason: str) -> None:
        """Counts spans that are lost for this reason."""
        if not spans:
            return
        self._on_drop(spans)
        with self._lock:
            self._untold += spans
            if not self._pace.due():
                return
            untold, self._untold = self._untold, 0
        _logger.warning("%d spans are lost, for the collector at %s: %s", untold, self._collector, reason)
