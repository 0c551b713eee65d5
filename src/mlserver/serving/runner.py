"""The predictor's threads: the model is loaded, run and closed there, never on the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from mlserver.errors import PredictorError
from mlserver.serving.call import Batch
from mlserver.serving.codec import normalise
from mlserver.serving.ids import new_id
from mlserver.serving.rows import join

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context

    from mlserver.serving.call import Call, Enter
    from mlserver.serving.predictors import Predictor

T = TypeVar("T")
_logger = logging.getLogger("mlserver.runner")


class Outcome(NamedTuple):
    """What became of one call in a run. The event loop takes it over: a thread never writes to a call."""

    call: Call
    batch: Batch
    output: Any
    """This call's slice of the predictor's answer; None where ``error`` is set."""
    error: BaseException | None


class Run(NamedTuple):
    """All that one hand-over to the predictor led to."""

    outcomes: list[Outcome]
    """One for every call."""
    batches: list[Batch]
    """The runs it took: more than one where a shared run had to be taken apart."""


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
        self._predictor: Predictor | None = None
        self._async_loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, factory: Callable[[], Predictor]) -> Predictor:
        """Makes the predictor in its own thread: some libraries are bound to the one they were loaded in.

        Raises:
            whatever the factory raises; what is no ``Exception``, such as ``SystemExit``, as
                `PredictorError`.
        """
        self._start_thread()
        self._predictor = await self.do(factory)
        return self._predictor

    async def prepare(self, concurrency: int) -> None:
        """Makes room for several runs at once, and runs the predictor once where that is possible."""
        assert self._predictor is not None  # noqa: S101  # load() came first
        if self._predictor.is_async:
            await self._start_loop()
        else:
            for _ in range(concurrency - 1):
                self._start_thread()
        await self._call(self._predictor.warm_up, self._predictor.warm_up_async)

    async def check_health(self) -> bool:
        """What the predictor says of what it depends on.

        Raises:
            whatever its ``check_health`` raises.
        """
        assert self._predictor is not None  # noqa: S101  # load() came first
        return await self._call(self._predictor.check_health, self._predictor.check_health_async)

    async def do(self, work: Callable[[], T]) -> T:
        """The result of any other work on a predictor's thread, such as a health check."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # a user's code may raise SystemExit, too
                _post(loop, _settle, future, None, error)
            else:
                _post(loop, _settle, future, result, None)

        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(job)
        else:
            self._jobs.put(job)
        return await future

    def run(self, calls: list[Call], done: Callable[[Run], None]) -> None:
        """Starts a run; ``done`` is called with its result on the event loop that called this."""
        loop = asyncio.get_running_loop()
        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._start_task, calls, loop, done)
        else:
            self._jobs.put(lambda: _post(loop, done, self._drive(calls)))

    async def close(self, timeout: float) -> bool:
        """Closes the predictor in its thread and ends the threads.

        Args:
            timeout: seconds given to a run that goes on. A thread that outlives it is left behind.

        Returns:
            whether all ended in time.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._predictor is not None:
                    await self._call(self._predictor.close, self._predictor.close_async)
        except TimeoutError:
            return False
        except Exception:
            _logger.exception("The predictor's close() raised")
        if self._async_loop is not None:
            self._async_loop.call_soon_threadsafe(self._async_loop.stop)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, timeout)
        return not any(thread.is_alive() for thread in self._threads)

    async def _call(self, work: Callable[[], T], on_loop: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a predictor's method in its thread; of the second form, on its event loop."""
        if self._async_loop is None:
            return await self.do(work)

        async def settle() -> T:
            try:
                return await _in_context(copy_context(), on_loop)
            except Exception:
                raise
            except BaseException as error:  # SystemExit would take the loop with it
                raise PredictorError(repr(error)) from error

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(settle(), self._async_loop))

    def _start_thread(self) -> None:
        name = f"predictor-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def _start_loop(self) -> None:
        """Turns the predictor's thread into one that runs an event loop."""
        loop = asyncio.new_event_loop()

        def serve() -> None:
            # The context manager cancels what is left and closes the loop.
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.get_loop().run_forever()

        self._jobs.put(serve)
        self._async_loop = loop
        await self.do(lambda: None)

    def _drive(self, calls: list[Call]) -> Run:
        """Runs `_answer` of a synchronous predictor, which never suspends, to its end."""
        try:
            self._answer(calls).send(None)
        except StopIteration as stop:
            run: Run = stop.value
            return run
        raise AssertionError("a synchronous predictor cannot suspend")

    def _start_task(
        self, calls: list[Call], loop: asyncio.AbstractEventLoop, done: Callable[[Run], None]
    ) -> None:
        async def answer() -> None:
            _post(loop, done, await self._answer(calls))

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)  # a loop alone does not keep its tasks alive
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, calls: list[Call]) -> Run:
        """Runs the calls together; a shared run that fails is bisected down to the calls at fault."""
        batch = Batch(calls, calls[0].operation or "", sum(len(call.rows or ()) for call in calls))
        if len(calls) > 1:
            batch.id = new_id()
        batch.started = time.perf_counter()
        try:
            output = await self._predict(batch)
        except BaseException as error:  # noqa: BLE001  # a predictor may raise SystemExit, too
            batch.error = error
        batch.ended = time.perf_counter()
        if batch.error is None:
            return Run(_slices(batch, output), [batch])
        if len(calls) == 1:
            return Run([Outcome(calls[0], batch, None, batch.error)], [batch])
        middle = len(calls) // 2
        first, second = await self._answer(calls[:middle]), await self._answer(calls[middle:])
        return Run(first.outcomes + second.outcomes, [batch, *first.batches, *second.batches])

    async def _predict(self, batch: Batch) -> Any:
        """The predictor's answer to all rows of the batch; has `len(rows)` elements."""
        predictor = self._predictor
        assert predictor is not None  # noqa: S101  # load() came first
        own = batch.calls[0].context if len(batch.calls) == 1 else None
        context = copy_context() if own is None else own.copy()
        rows = join([call.rows for call in batch.calls if call.rows is not None])
        for hook in self._enter:
            context.run(hook, batch)
        if predictor.is_async:
            output = await _in_context(context, partial(predictor.run_async, batch.operation, rows))
        else:
            output = context.run(predictor.run, batch.operation, rows)
        return normalise(output, batch.rows)


async def _in_context(context: Context, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Awaits what a coroutine function gives, as a task in a context."""

    async def settle() -> tuple[T | None, BaseException | None]:
        # A task that ends in SystemExit takes the whole loop with it, so the exception leaves as a value.
        try:
            return await work(), None
        except BaseException as error:  # noqa: BLE001
            return None, error

    result, error = await asyncio.get_running_loop().create_task(settle(), context=context)
    if error is not None:
        raise error
    return cast("T", result)


def _slices(batch: Batch, output: Any) -> list[Outcome]:
    outcomes, at = [], 0
    for call in batch.calls:
        end = at + len(call.rows or ())
        outcomes.append(Outcome(call, batch, output[at:end], None))
        at = end
    return outcomes


def _settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        # A future refuses StopIteration, and SystemExit would end the loop of whoever awaits it.
        future.set_exception(error if isinstance(error, Exception) else PredictorError(repr(error)))


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:  # the loop is closed: nobody waits for the result any more
        _logger.debug("A result came after the event loop was closed")
