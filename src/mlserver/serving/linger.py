"""How long a thread that has ended a run is kept free for the callers of that run to come back.

Clients that send a request, wait for its answer and send the next one fall into two groups otherwise: while
one group's run goes on the other's requests gather, and neither ever grows. A model for which a run of many
rows costs as much as a run of few then answers half as many as it could.
"""

from __future__ import annotations

SHARE = 0.25
"""Of the time that the last run took: so long at most."""
LEAST_S = 0.001
"""What a timer of the event loop can tell."""
MAX_S = 0.05
FIRST_REST, LAST_REST = 8, 64
"""Runs without lingering after one that was in vain; twice as many after each further one."""


class Linger:
    """Decides after each run. Where callers do not come back, as when they are many, it soon gives up.

    Args:
        max_calls: of one run.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._rest = 0
        self._next_rest = FIRST_REST
        self._had = self._hoped = 0

    def after(self, spent_s: float, answered: int, waiting: int) -> float:
        """Seconds to linger after a run, 0.0 for not at all.

        Args:
            spent_s: how long the run took.
            answered: calls that it answers now.
            waiting: calls that wait already.
        """
        seconds = min(spent_s * SHARE, MAX_S)
        hoped = min(answered, self._max_calls - waiting)
        if self._rest or seconds < LEAST_S / 2 or hoped < 1 or answered + waiting < 2:
            self._rest = max(0, self._rest - 1)
            return 0.0
        self._had, self._hoped = waiting, hoped
        return max(seconds, LEAST_S)

    def enough(self, waiting: int) -> bool:
        """Whether all have come who were hoped for."""
        return waiting >= self._had + self._hoped

    def over(self, waiting: int) -> None:
        """Takes in how many wait at the end."""
        if 2 * (waiting - self._had) >= self._hoped:
            self._next_rest = FIRST_REST
        else:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LAST_REST)
