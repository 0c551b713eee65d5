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


class Outcome(NamedTuple):
    """What became of one call in a run. The event loop takes it over: a thread never writes to a call."""

    call: Call
    batch: Batch
    output: Any
    """This call's slice of the predictor's answer; None where ``error`` is set."""
    error: BaseException | None


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
    batch = Batch(calls, calls[0].operation or "", sum(len(call.rows or ()) for call in calls))
    if len(calls) > 1:
        batch.id = new_id()
    batch.started = time.perf_counter()
    output = None
    try:
        output = await _predict(predictor, batch, enter)
    except BaseException as error:  # noqa: BLE001  # a predictor may raise SystemExit, too
        batch.error = error
    batch.ended = time.perf_counter()
    if batch.error is None:
        return Run(_slices(batch, output), [batch])
    if len(calls) == 1 or isinstance(batch.error, asyncio.CancelledError):
        return Run([Outcome(call, batch, None, batch.error) for call in calls], [batch])
    middle = len(calls) // 2
    first = await answer(predictor, calls[:middle], enter)
    second = await answer(predictor, calls[middle:], enter)
    return Run(first.outcomes + second.outcomes, [batch, *first.batches, *second.batches])


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
    outcomes, at = [], 0
    for call in batch.calls:
        end = at + len(call.rows or ())
        outcomes.append(Outcome(call, batch, output[at:end], None))
        at = end
    return outcomes
