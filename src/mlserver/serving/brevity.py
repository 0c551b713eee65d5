"""Which runs are so short that the event loop does them itself, rather than wait for a thread to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlserver.serving.call import Batch

SHORT_S = 0.001
"""Seconds that the event loop may be held up by a run."""
_FORGET = 0.02
"""The share of the estimate that each further run replaces, if it takes less."""


class Brevity:
    """Estimates how long the next run will take. One long run is remembered for about a hundred short ones.

    Args:
        max_rows: a run of more is never short, since it was never measured.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._seconds: float | None = None

    def expects(self, rows: int) -> bool:
        """Whether a run of so many rows will be short."""
        return self._seconds is not None and self._seconds < SHORT_S and rows <= self._max_rows

    def note(self, batch: Batch) -> None:
        """Takes in how long a run took."""
        if batch.rows <= self._max_rows:
            # Not the time that passed: a thread may have waited for its turn.
            spent, known = batch.cpu_s, self._seconds
            self._seconds = spent if known is None or spent > known else known + (spent - known) * _FORGET
