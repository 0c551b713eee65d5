"""One timer per connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_EARLY_S = 0.001
"""How much too early a loop with a clock of milliseconds may ring."""


class Deadline:
    """Something that happens at a time, unless the time is moved before.

    Moving it is cheap: the loop's own timer is only touched where it would ring too late, and moves itself on
    where it rings too early.
    """

    __slots__ = ("_action", "_loop", "_rings", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._action: Callable[[], object] | None = None
        self._when = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0

    def set(self, seconds: float, action: Callable[[], object]) -> None:
        """From now on, ``action`` is what happens, and this is when."""
        self._action = action
        self._when = self._loop.time() + seconds
        if self._timer is None or self._rings > self._when:
            self._arm()

    def clear(self) -> None:
        """Nothing is to happen."""
        self._action = None

    def close(self) -> None:
        """Nothing will happen any more."""
        self._action = None
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._when
        self._timer = self._loop.call_at(self._when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._action is None:
            return
        if self._loop.time() < self._when - _EARLY_S:
            self._arm()
        else:
            action, self._action = self._action, None
            action()
