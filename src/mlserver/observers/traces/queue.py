"""The queue between those who finish spans and the thread that sends them: bounded in spans and in bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mlserver.observers.traces.records import Request, Run
    from mlserver.observers.traces.settings import Limits

CLOSED = "the server is ending"
TOO_LARGE = "they are too large"
FULL = "the queue is full, since it takes them more slowly than they come, or not at all"


class Item(NamedTuple):
    """What one entry of the queue stands for."""

    spans: int
    size: int
    """Bytes of memory, estimated."""
    record: Request | Run | ReadableSpan


class Queue:
    """Spans that wait to be sent. Used by any thread; one takes.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._items: deque[Item] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._awaited = 1  # so many spans wake whoever takes
        self._closed = False
        self._since = 0.0  # when the oldest came
        self.spans = 0
        self.size = 0

    def put(self, items: Sequence[Item]) -> dict[str, int]:
        """Adds what fits.

        Returns:
            how many spans did not, by the reason.
        """
        lost: dict[str, int] = {}
        with self._changed:
            for item in items:
                if refusal := self._refusal(item):
                    lost[refusal] = lost.get(refusal, 0) + item.spans
                    continue
                if not self._items:
                    self._since = self._clock()
                self._items.append(item)
                self.spans += item.spans
                self.size += item.size
            if self.spans >= self._awaited:
                self._changed.notify()
        return lost

    def take(self) -> list[Item]:
        """Waits for spans and, for so long as they may wait, for as many as make a message.

        Returns:
            the oldest, at most a message full of them; none once the queue is closed and empty.
        """
        limits = self._limits
        with self._changed:
            self._await(1, None)
            self._await(limits.batch_spans, self._since + limits.delay_s - self._clock())
            taken: list[Item] = []
            spans = size = 0
            while self._items:
                item = self._items[0]
                spans += item.spans
                size += item.size
                if taken and (spans > limits.batch_spans or size > limits.batch_bytes):
                    break
                taken.append(self._items.popleft())
                self.spans -= item.spans
                self.size -= item.size
        return taken

    def close(self) -> None:
        """Takes nothing more in, and lets nobody wait for more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> int:
        """Drops everything.

        Returns:
            how many spans that were.
        """
        with self._changed:
            spans, self.spans, self.size = self.spans, 0, 0
            self._items.clear()
        return spans

    def _refusal(self, item: Item) -> str | None:
        limits = self._limits
        if self._closed:
            return CLOSED
        if item.size > limits.batch_bytes:
            return TOO_LARGE
        if self.spans + item.spans > limits.spans or self.size + item.size > limits.bytes:
            return FULL
        return None

    def _await(self, spans: int, timeout: float | None) -> None:
        if self.spans < spans and not self._closed and (timeout is None or timeout > 0):
            self._awaited = spans
            self._changed.wait_for(lambda: self.spans >= spans or self._closed, timeout)
