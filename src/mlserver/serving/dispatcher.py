"""When waiting calls are given to the predictor, and in which thread they run."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from mlserver.errors import RequestError
from mlserver.serving.coalescer import REST_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlserver.serving.brevity import Brevity
    from mlserver.serving.call import Call, Level
    from mlserver.serving.coalescer import Coalescer
    from mlserver.serving.linger import Linger
    from mlserver.serving.runner import Runner
    from mlserver.serving.runs import Run

_logger = logging.getLogger("mlserver.pipeline")


class Dispatcher:
    """Gives every free thread its next run, once the calls of a turn of the event loop have come together.

    Args:
        queued: shows how many calls wait.
        concurrency: how many runs there may be at once.
        brevity: says which runs may be done on the event loop; without it, none.
        linger: says how long a thread waits for callers to come back; without it, never.
        answer: called with what became of a run, when its thread is free again.
    """

    def __init__(
        self,
        queue: Coalescer,
        runner: Runner,
        *,
        queued: Level,
        concurrency: int,
        brevity: Brevity | None,
        linger: Linger | None,
        answer: Callable[[Run], None],
    ) -> None:
        self._queue = queue
        self._runner = runner
        self._queued = queued
        self._free = concurrency
        self._brevity = brevity
        self._linger = linger
        self._answer = answer
        self.running: dict[Call, list[Call]] = {}
        """Calls that are with a thread, and all that are in the same run."""
        self._depth = 0
        self._planned: asyncio.Handle | None = None
        self._patient = False  # what is planned waits for more calls
        self._lingering = False  # likewise, after a run

    def add(self, call: Call) -> None:
        """Queues a decoded call.

        Raises:
            QueueFull: too many are waiting.
        """
        if self._queue.full:
            self._dispatch()  # what came in this turn may have threads to go to
        self._queue.add(call)
        if self._planned is None or self._patient:
            self._plan()

    def forget(self, call: Call) -> None:
        """Nobody waits for this call's run any more."""
        self._queue.remove(call)
        self._show(len(self._queue))
        run = self.running.get(call)
        if run is not None and all(other.finished for other in run):
            self._runner.cancel(run)

    def _plan(self) -> None:
        """Has the calls of this turn dispatched at its end, or later if that is worth it."""
        waiting = len(self._queue)
        if self._lingering and self._linger is not None and not self._linger.enough(waiting):
            self._show(waiting)
            return
        wait = self._queue.wait_s
        if wait or not self._free:
            self._show(waiting)
        if not self._free:
            return
        if self._planned is not None:
            if wait:
                return
            self._planned.cancel()
        loop = asyncio.get_running_loop()
        self._patient = wait > 0
        self._planned = loop.call_later(wait, self._dispatch) if wait else loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._planned = None
        waiting = len(self._queue)
        if self._lingering:
            self._lingering = False
            if self._linger is not None:
                self._linger.over(waiting)
        while self._free and waiting:
            calls = self._queue.take()
            waiting -= len(calls)
            if self._is_short(calls) and (run := self._runner.run_here(calls)) is not None:
                self._end(run)
                if waiting and self._planned is None:  # what has come meanwhile is read before the next run
                    self._patient = False
                    self._planned = asyncio.get_running_loop().call_soon(self._dispatch)
                break
            self._free -= 1
            self.running.update(dict.fromkeys(calls, calls))
            self._runner.run(calls, partial(self._ended, calls))
        self._show(waiting)

    def _is_short(self, calls: list[Call]) -> bool:
        """Whether a run may be done here, where it holds up all else."""
        if self._brevity is None:
            return False
        rows = calls[0].rows
        return self._brevity.expects(len(rows) if len(calls) == 1 and rows is not None else 0)

    def _ended(self, calls: list[Call], run: Run) -> None:
        """A thread is free again: it gets its next run first, then this one's calls are answered."""
        self._free += 1
        if _at_fault(run) and self._queue.note_fault():
            _logger.warning("Several shared runs failed within a minute: coalescing rests for %g s", REST_S)
        for call in calls:
            del self.running[call]
            if call.finished and call.reply is None:  # it ended, and left, before its run did
                call.release()
        if not self._linger_after(run, len(calls)):
            self._dispatch()
        self._end(run)

    def _end(self, run: Run) -> None:
        if self._brevity is not None:
            for batch in run.batches:
                self._brevity.note(batch)
        self._answer(run)

    def _linger_after(self, run: Run, answered: int) -> bool:
        """Keeps the thread free for those who are answered now, if that is worth it."""
        if self._linger is None or not self._queue.shares or self._planned is not None or not run.batches:
            return False
        batch = run.batches[0]
        seconds = self._linger.after(batch.ended - batch.started, answered, len(self._queue))
        if not seconds:
            return False
        self._patient = self._lingering = True
        self._planned = asyncio.get_running_loop().call_later(seconds, self._dispatch)
        return True

    def _show(self, depth: int) -> None:
        """Shows how many calls wait. Those that are given a run within this turn of the loop never do."""
        if depth != self._depth:
            self._depth = depth
            self._queued[0] = depth


def _at_fault(run: Run) -> bool:
    """Whether a shared run had to be taken apart, and not only because a client's rows were refused."""
    if len(run.batches) < 2:
        return False
    errors = [error for _, _, _, error in run.outcomes if error is not None]
    return not errors or not all(isinstance(error, RequestError) for error in errors)
