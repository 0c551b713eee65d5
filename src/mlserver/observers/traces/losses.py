"""Spans that were lost: all are counted, and told of once a minute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from mlserver.lines.texts import cut
from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REASON = 300
MAX_REASONS = 4
"""In one line; what is lost for more is lost for other reasons."""
_logger = logging.getLogger("mlserver.traces")


class Losses:
    """Counts lost spans, in any thread.

    Args:
        collector: where they were to go.
        on_drop: told how many more.
        mask: of a reason, what may be shown.
        clock: as of `Pace`.
    """

    def __init__(
        self,
        collector: str,
        on_drop: Callable[[int], None],
        *,
        mask: Callable[[str], str] = str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._collector = collector
        self._on_drop = on_drop
        self._mask = mask
        self._pace = Pace(clock)
        self._lock = threading.Lock()
        self._untold: dict[str, int] = {}  # by reason

    def count(self, spans: int, reason: str) -> None:
        """Counts spans that are lost for this reason."""
        if not spans:
            return
        self._on_drop(spans)
        with self._lock:
            if reason not in self._untold and len(self._untold) >= MAX_REASONS:
                reason = "other reasons"
            self._untold[reason] = self._untold.get(reason, 0) + spans
            if not self._pace.due():
                return
        self._tell()

    def close(self) -> None:
        """Tells of what has not been told of, since there may be no next time."""
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, {}
        if not untold:
            return
        reasons = [cut(self._mask(reason), MAX_REASON) for reason in untold]
        if len(untold) > 1:
            reasons = [f"{reason} ({spans})" for reason, spans in zip(reasons, untold.values(), strict=True)]
        _logger.warning(
            "%d spans are lost, for the collector at %s: %s",
            sum(untold.values()),
            self._collector,
            "; ".join(reasons),
        )
