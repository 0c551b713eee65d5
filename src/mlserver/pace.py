"""How often a thing that goes on is told: once a minute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 60.0


class Pace:
    """Says when one thing may be told again.

    Args:
        clock: seconds, never going back; by default ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._after = float("-inf")

    def due(self) -> bool:
        """Whether it is time; if so, the next time is `EVERY_S` later."""
        now = (self._clock or time.monotonic)()
        if now < self._after:
            return False
        self._after = now + EVERY_S
        return True
