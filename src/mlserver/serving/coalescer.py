"""The queue before the predictor, and which waiting calls one run answers together."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from mlserver.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlserver.serving.call import Call

FAULTS = 3
FAULT_WINDOW_S = 60.0
REST_S = 10.0


class Coalescer:
    """Waiting calls in order of arrival. Used by the event loop only.

    Unless ``max_wait_s`` is set nothing waits to be coalesced: `take` gives what is there when a thread
    becomes free. So an idle server adds no delay, and a busy one makes batches by itself.

    Args:
        enabled: whether calls may share a run at all.
        max_rows: rows of a shared run; a call with more runs alone.
        max_queue: waiting calls beyond which `add` refuses.
        max_wait_s: how long a free thread may be kept waiting for a run to fill up. 0: it is never.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        max_rows: int,
        max_queue: int,
        max_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enabled = enabled
        self._max_rows = max_rows
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s if enabled else 0.0
        self._clock = clock
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        self._faults: deque[float] = deque(maxlen=FAULTS)
        self._rest_until = -1.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def resting(self) -> bool:
        """Whether coalescing rests after runs that had to be taken apart."""
        return self._clock() < self._rest_until

    @property
    def full(self) -> bool:
        """Whether `add` would refuse."""
        return len(self._waiting) >= self._max_queue

    @property
    def shares(self) -> bool:
        """Whether calls share runs now, and without waiting for it."""
        return self._enabled and not self._max_wait_s and not self.resting

    @property
    def wait_s(self) -> float:
        """Seconds to wait before the next `take` is worth it."""
        if not self._max_wait_s or self.resting:
            return 0.0
        rows = sum(len(call.rows or ()) for call in self._waiting)
        return self._max_wait_s if rows < self._max_rows else 0.0

    def add(self, call: Call) -> None:
        """Puts a decoded call last.

        Raises:
            QueueFull: ``max_queue`` calls are waiting.
        """
        if len(self._waiting) >= self._max_queue:
            raise QueueFull(
                f"{len(self._waiting)} requests are waiting for the model, the limit (api.max_queue) is "
                f"{self._max_queue}. Try again later."
            )
        self._waiting[call] = None

    def remove(self, call: Call) -> None:
        """Forgets a call that nobody waits for any more; one that is not waiting is no error."""
        self._waiting.pop(call, None)

    def take(self) -> list[Call]:
        """The calls of the next run: the oldest, and what can share its run, in order of arrival.

        Returns:
            at least one call.

        Raises:
            KeyError: none is waiting.
        """
        first, _ = self._waiting.popitem(last=False)
        if not self._enabled or not self._waiting or self.resting:
            return [first]
        calls = [first, *self._companions(first)]
        for call in calls[1:]:
            del self._waiting[call]
        return calls

    def note_fault(self) -> bool:
        """Notes that a shared run had to be taken apart; after `FAULTS` in a minute coalescing rests.

        Returns:
            whether the rest begins now.
        """
        now = self._clock()
        self._faults.append(now)
        if len(self._faults) < FAULTS or now - self._faults[0] > FAULT_WINDOW_S:
            return False
        self._faults.clear()
        self._rest_until = now + REST_S
        return True

    def _companions(self, first: Call) -> list[Call]:
        assert first.rows is not None  # noqa: S101  # only decoded calls are added
        operation, row, max_rows = first.operation, first.rows, self._max_rows
        size, found = len(row), []
        for call in self._waiting:
            rows = call.rows
            assert rows is not None  # noqa: S101
            if call.operation != operation or not rows.joins(row):
                continue
            size += rows.shape[0]
            if size > max_rows:
                break
            found.append(call)
        return found
