"""Lines that were lost: counted at once, told once lines can be written again."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

_STDERR = 2


class Notice(bytes):
    """A line that says how many lines were lost; to lose it is not counted."""

    lost: int = 0


class Losses:
    """What one writer has lost.

    Args:
        on_drop: told how many lines were lost, as soon as they are.
    """

    def __init__(self, on_drop: Callable[[int], None] | None = None) -> None:
        self.on_drop = on_drop
        self.tell: Callable[[int], bytes] | None = None
        """Renders the line that says how many were lost."""
        self.untold = 0
        """Lost since the last such line."""
        self._pace = Pace()

    def add(self, lines: int, reason: str) -> None:
        """Counts lines, and says why on standard error once a minute."""
        if not lines:
            return
        self.untold += lines
        if self.on_drop is not None:
            with contextlib.suppress(Exception):  # whoever logs must not feel it
                self.on_drop(lines)
        self.complain(f"log lines cannot be written and are lost: {reason}")

    def notice(self) -> Notice | None:
        """The line that says how many were lost, if there is anything to say."""
        if not self.untold or self.tell is None:
            return None
        try:
            notice = Notice(self.tell(self.untold))
        except Exception:  # noqa: BLE001  # as above
            return None
        notice.lost = self.untold
        return notice

    def complain(self, text: str) -> None:
        """Says something on standard error, once a minute and unless that would block."""
        if self._pace.due():
            with contextlib.suppress(OSError, ValueError):
                poll = select.poll()
                poll.register(_STDERR, select.POLLOUT)
                if poll.poll(0):
                    os.write(_STDERR, f"mlserver: {text}\n".encode())
