"""When a slot's next worker starts after one has died, and when it is time to give up."""

from __future__ import annotations

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
CALM_S = 60.0
"""A worker that lived this long ends the series of deaths that it came after."""
CRASH_LOOP = 5
"""Deaths in a row, each before the worker had loaded its model or said why it could not."""


class Respawn:
    """The deaths of one slot's workers."""

    def __init__(self) -> None:
        self._deaths = 0
        self._stillborn = 0

    def died(self, *, lived_s: float, settled: bool) -> float | None:
        """Takes note of a death.

        Args:
            lived_s: seconds from the worker's start to its end.
            settled: it had loaded its model, or was up to say why the model did not load.

        Returns:
            seconds to wait before the next start: 0, then 0.5, 1, 2, … 30; None for a crash loop.
        """
        if lived_s >= CALM_S:
            self._deaths = 0
        self._stillborn = 0 if settled else self._stillborn + 1
        if self._stillborn >= CRASH_LOOP:
            return None
        self._deaths += 1
        return 0.0 if self._deaths == 1 else min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (self._deaths - 2))
