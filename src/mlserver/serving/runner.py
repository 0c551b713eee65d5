"""The predictor's threads: the model is loaded, run and closed there, never on the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from mlserver.errors import PredictorError
from mlserver.serving.runs import Run, answer, answer_alone, drive, in_context

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from mlserver.serving.call import Call, Enter
    from mlserver.serving.predictors import Predictor

T = TypeVar("T")
_logger = logging.getLogger("mlserver.runner")


class Runner:
    """Runs calls on the predictor's own threads and hands back what became of them on the event loop.

    A synchronous predictor may have several; an asynchronous one runs as tasks on an event loop in its one.

    Args:
        enter: hooks called in the run's context before each run.
    """

    def __init__(self, *, enter: Sequence[Enter] = ()) -> None:
        self._enter = tuple(enter)
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._leaving = threading.Lock()
        self._working = 0  # threads that have not left
        self._predictor: Predictor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of an asynchronous predictor
        self._tasks: dict[int, asyncio.Task[Run]] = {}  # its runs, by the identity of their list of calls

    # Before the first run.

    async def load(self, factory: Callable[[], Predictor]) -> Predictor:
        """Makes the predictor in its own thread: some libraries are bound to the one they were loaded in.

        Raises:
            whatever the factory raises; what is no ``Exception``, such as ``SystemExit``, as
                `PredictorError`.
        """
        self._start_thread()
        self._predictor = await self._do(factory)
        return self._predictor

    async def prepare(self, concurrency: int) -> None:
        """Makes room for several runs at once, and runs the predictor once where that is possible."""
        predictor = self._loaded
        if predictor.is_async:
            await self._start_loop()
        else:
            for _ in range(concurrency - 1):
                self._start_thread()
        await self._call(predictor.warm_up, predictor.warm_up_async)

    async def check_health(self) -> bool:
        """What the predictor says of what it depends on.

        Raises:
            whatever its ``check_health`` raises.
        """
        return await self._call(self._loaded.check_health, self._loaded.check_health_async)

    # Runs.

    def run(self, calls: list[Call], done: Callable[[Run], None]) -> None:
        """Starts a run; ``done`` is called with its result on the event loop that called this.

        A run that was cancelled may end with no outcomes.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not None:
            # A context of its own: not that of the request whose arrival happened to start the run.
            self._loop.call_soon_threadsafe(self._start_task, calls, loop, done, context=Context())
        else:
            predictor = self._loaded
            self._jobs.put(lambda: _post(loop, done, drive(answer(predictor, calls, self._enter))))

    def run_here(self, calls: list[Call]) -> Run | None:
        """A run in the thread that calls this, of a predictor that does nothing but compute.

        Returns:
            None for a shared run that failed: it is for `run` to find out whose fault it is.
        """
        return answer_alone(self._loaded, calls, self._enter)

    def cancel(self, calls: list[Call]) -> None:
        """Ends a run that nobody waits for any more, where that is possible: a thread cannot be stopped."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel_task, id(calls))

    def _start_task(
        self, calls: list[Call], loop: asyncio.AbstractEventLoop, done: Callable[[Run], None]
    ) -> None:
        def end(task: asyncio.Task[Run]) -> None:
            del self._tasks[id(calls)]
            _post(loop, done, Run([], []) if task.cancelled() else task.result())

        task = asyncio.get_running_loop().create_task(answer(self._loaded, calls, self._enter))
        self._tasks[id(calls)] = task
        task.add_done_callback(end)  # of one that was cancelled before its first step, too

    def _cancel_task(self, key: int) -> None:
        if key in self._tasks:
            self._tasks[key].cancel()

    # The end.

    async def close(self, timeout: float) -> bool:
        """Closes the predictor in its thread, when all runs have ended, and ends the threads.

        Args:
            timeout: seconds given to what goes on. A thread that outlives it is left behind, and closes the
                predictor if it ever ends.

        Returns:
            whether all ended in time.
        """
        deadline = time.monotonic() + timeout
        if self._loop is not None:
            for key in list(self._tasks):
                self._loop.call_soon_threadsafe(self._cancel_task, key)
            await self._close_async(timeout)
            self._loop.call_soon_threadsafe(self._loop.stop)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    async def _close_async(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._call(self._loaded.close, self._loaded.close_async)
        except Exception:
            _logger.exception("The predictor could not be closed")

    # Threads.

    @property
    def _loaded(self) -> Predictor:
        assert self._predictor is not None  # noqa: S101  # load() came first
        return self._predictor

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"predictor-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        self._working += 1
        thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds the calls of its run
        with self._leaving:
            self._working -= 1
            if self._working or self._predictor is None:
                return
        try:  # in the last thread, so that no run goes on; of an asynchronous one it is done already
            self._predictor.close()
        except BaseException:
            _logger.exception("The predictor's close() raised")

    async def _start_loop(self) -> None:
        """Turns the predictor's thread into one that runs an event loop."""
        loop = asyncio.new_event_loop()

        def serve() -> None:
            # The context manager cancels what is left and closes the loop.
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.get_loop().run_forever()

        self._jobs.put(serve)
        self._loop = loop
        await self._call(lambda: None, _nothing)

    async def _do(self, work: Callable[[], T]) -> T:
        """The result of work on the predictor's thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # a user's code may raise SystemExit, too
                _post(loop, _fail, future, error)
            else:
                _post(loop, _settle, future, result)

        self._jobs.put(job)
        return await future

    async def _call(self, work: Callable[[], T], on_loop: Callable[[], Coroutine[object, object, T]]) -> T:
        """The result of a predictor's method in its thread; of the second form, on its event loop."""
        if self._loop is None:
            return await self._do(work)

        async def settle() -> T:
            try:
                return await in_context(copy_context(), on_loop)
            except Exception:
                raise
            except BaseException as error:  # SystemExit would take the loop with it
                raise PredictorError(repr(error)) from error

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(settle(), self._loop))


async def _nothing() -> None:
    """Shows that an event loop runs."""


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        # A future refuses StopIteration, and SystemExit would end the loop of whoever awaits it.
        future.set_exception(error if _can_be_awaited(error) else PredictorError(repr(error)))


def _can_be_awaited(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, StopIteration)


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:  # the loop is closed: nobody waits for the result any more
        _logger.debug("A result came after the event loop was closed")
