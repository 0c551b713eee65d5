"""One run of the predictor: several calls' rows in, each call's own slice of the answer out."""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

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


Outcome = tuple["Call", Batch, Any, BaseException | None]
"""What became of one call in a run: its slice of the predictor's answer, or an error.

The event loop takes it over: a thread never writes to a call."""


class Run(NamedTuple):
    """All that one hand-over of calls to the predictor led to."""

    outcomes: list[Outcome]
    """One for every call."""
    batches: list[Batch]
    """The runs it took: more than one where a shared run had to be taken apart."""


async def answer(predictor: Predictor, calls: list[Call], enter: Sequence[Enter] = ()) -> Run:
    """Runs the calls together; a shared run that fails is bisected down to the calls at fault.

    A synchronous predictor never suspends this coroutine, so that `drive` can run it without an event loop.
    """
    batch = _batch(calls)
    output = None
    try:
        output = await _predict(predictor, batch, enter)
    except BaseException as error:  # noqa: BLE001  # a predictor may raise SystemExit, too
        batch.error = error
    batch.ended, batch.cpu_s = time.perf_counter(), time.thread_time() - batch.cpu_s
    if batch.error is None:
        return Run(_slices(batch, output), [batch])
    if len(calls) == 1 or isinstance(batch.error, asyncio.CancelledError):
        return Run([(call, batch, None, batch.error) for call in calls], [batch])
    middle = len(calls) // 2
    first = await answer(predictor, calls[:middle], enter)
    second = await answer(predictor, calls[middle:], enter)
    return Run(first.outcomes + second.outcomes, [batch, *first.batches, *second.batches])


def answer_alone(predictor: Predictor, calls: list[Call], enter: Sequence[Enter] = ()) -> Run | None:
    """As `answer`, without taking a shared run apart: None where that would have to be done."""
    batch = _batch(calls)
    output = None
    try:
        output = drive(_predict(predictor, batch, enter))
    except BaseException as error:  # noqa: BLE001  # as below
        batch.error = error
    batch.ended, batch.cpu_s = time.perf_counter(), time.thread_time() - batch.cpu_s
    if batch.error is None:
        return Run(_slices(batch, output), [batch])
    return Run([(calls[0], batch, None, batch.error)], [batch]) if len(calls) == 1 else None


def drive(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    raise AssertionError("a synchronous predictor cannot suspend")


async def in_context(context: Context, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
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


def _batch(calls: list[Call]) -> Batch:
    """A run that begins."""
    sizes: list[int] = [call.rows.shape[0] for call in calls]  # type: ignore[union-attr]  # they are decoded
    batch = Batch(calls, calls[0].operation or "", sum(sizes))
    if len(calls) > 1:
        batch.id = new_id()
    batch.started, batch.cpu_s = time.perf_counter(), time.thread_time()
    return batch


async def _predict(predictor: Predictor, batch: Batch, enter: Sequence[Enter]) -> Any:
    """The predictor's answer to all rows of the batch, one element for each."""
    own = batch.calls[0].context if len(batch.calls) == 1 else None
    context = copy_context() if own is None else own.copy()
    rows = join([call.rows for call in batch.calls if call.rows is not None])
    for hook in enter:
        context.run(hook, batch)
    if predictor.is_async:
        output = await in_context(context, partial(predictor.run_async, batch.operation, rows))
    else:
        output = context.run(predictor.run, batch.operation, rows)
    return normalise(output, batch.rows)


def _slices(batch: Batch, output: Any) -> list[Outcome]:
    outcomes: list[Outcome] = []
    at = 0
    for call in batch.calls:
        end = at + call.rows.shape[0]  # type: ignore[union-attr]  # it is decoded
        outcomes.append((call, batch, output[at:end], None))
        at = end
    return outcomes
