"""A prediction's way through the server: decode, queue, run, encode, observe, reply.

Everything here happens on the event loop, in callbacks and without a task per request; only the run itself
is on a predictor's thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from mlserver.errors import (
    ClientGone,
    CutOff,
    InternalError,
    NotFound,
    NotReady,
    Overloaded,
    PredictionFailed,
    PredictionTimeout,
    PredictorError,
    RequestError,
    RequestTimeout,
)
from mlserver.serving.call import Response
from mlserver.serving.coalescer import REST_S
from mlserver.serving.codec import output_shape, problem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlserver.serving.call import Batch, Call, Levels, Observer
    from mlserver.serving.coalescer import Coalescer
    from mlserver.serving.codec import Decoder, Encoder
    from mlserver.serving.health import Health
    from mlserver.serving.runner import Runner
    from mlserver.serving.runs import Outcome, Run

PROBLEM = b"application/problem+json"
_logger = logging.getLogger("mlserver.pipeline")


class Pipeline:
    """The request path of one worker.

    Args:
        levels: the numbers that are so right now, written as calls come and go.
        observers: called with what has finished, before the responses leave; they must not raise.
        timeout: seconds a call may take from its headers to its response.
        max_buffered: bytes of bodies held at once, all calls together.
        echo_ids: whether responses carry ``X-Request-ID``.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        health: Health,
        levels: Levels,
        observers: Sequence[Observer],
        timeout: float,
        max_buffered: int,
        echo_ids: bool,
    ) -> None:
        self._runner = runner
        self._health = health
        self._active, self._queued = levels.active, levels.queued
        self._observers = observers
        self._timeout = timeout
        self._max_buffered = max_buffered
        self._echo_ids = echo_ids
        self._buffered = 0
        self._depth = 0
        self._free = 0
        self._dispatching: asyncio.Handle | None = None
        self._lingering = False
        self._expiry: asyncio.AbstractEventLoop | None = None
        self._open: OrderedDict[Call, None] = OrderedDict()
        self._running: dict[Call, list[Call]] = {}
        self._finished: list[Call] = []
        self._batches: list[Batch] = []

    def connect(
        self,
        decode: Decoder,
        encode: Encoder,
        queue: Coalescer,
        *,
        operations: Collection[str],
        concurrency: int,
    ) -> None:
        """Takes what depends on the model, once it is loaded. From then on predictions are answered."""
        self._operations = operations
        self._decode = decode
        self._encode = encode
        self._queue = queue
        self._free = concurrency

    # The way of a prediction, in order.

    def begin(self, call: Call) -> None:
        """Opens a call; `finish` or `fail` must follow."""
        self._open[call] = None
        self._active[0] = len(self._open)
        if self._expiry is not asyncio.get_running_loop():  # none is set, or for a loop of the past
            self._expire_at(call.received + self._timeout)

    def reserve(self, call: Call, size: int) -> None:
        """Makes room for bytes of the call's body until the call is finished.

        Raises:
            Overloaded: too many bytes are held already.
        """
        if self._buffered + size > self._max_buffered:
            raise Overloaded(
                f"Bodies of {self._buffered} bytes are waiting, {size} more would pass the limit of "
                f"{self._max_buffered} (server.max_buffered_bytes). Try again later."
            )
        self._buffered += size
        call.reserved += size

    def predict(self, call: Call, body: bytes, content_type: bytes | None) -> None:
        """Decodes a body and queues the call; its reply follows in its own time."""
        if call.finished:  # its time was up while the body came
            return
        call.body = body
        try:
            self._check_model(call)
            call.rows = self._decode(body, content_type)
            call.input_shape = call.rows.shape
            call.decoded = time.perf_counter()
            if self._queue.full:
                self._dispatch()  # what came in this turn may have threads to go to
            self._queue.add(call)
        except RequestError as error:
            self.fail(call, error)
        except Exception as cause:  # noqa: BLE001  # a fault of the server's own is one 500
            self.fail(call, InternalError.because(cause))
        else:
            self._dispatch_soon()

    def _check_model(self, call: Call) -> None:
        if not self._health.model_loaded:
            raise NotReady(f"The model is not loaded{_because(self._health.failure)}.")
        if call.operation not in self._operations:
            raise NotFound(f"This model has no {call.operation}; it has {', '.join(self._operations)}.")

    def _dispatch(self) -> None:
        """Gives every free thread its next run."""
        self._dispatching = None
        waiting = len(self._queue)
        while self._free and waiting:
            self._free -= 1
            calls = self._queue.take()
            waiting -= len(calls)
            self._running.update(dict.fromkeys(calls, calls))
            self._runner.run(calls, partial(self._answered, calls))
        self._show_depth(waiting)

    def _answered(self, calls: list[Call], run: Run) -> None:
        """A thread is free again: it gets its next run first, then this one's calls are answered."""
        self._free += 1
        if _at_fault(run) and self._queue.note_fault():
            _logger.warning("Several shared runs failed within a minute: coalescing rests for %g s", REST_S)
        for call in calls:
            del self._running[call]
            if call.finished and call.reply is None:  # it ended, and left, before its run did
                call.release()
        self._dispatch()
        self._batches += run.batches
        for outcome in run.outcomes:
            if not outcome.call.finished:
                self._answer(outcome)
        self._flush()

    def _answer(self, outcome: Outcome) -> None:
        call = outcome.call
        call.batch = outcome.batch
        call.started, call.predicted = outcome.batch.started, outcome.batch.ended
        try:
            _raise(outcome.error)
            call.output_shape = output_shape(outcome.output)
            elapsed_ms = (time.perf_counter() - call.received) * 1000
            body = self._encode(call.operation or "", outcome.output, call.request_id, elapsed_ms)
        except RequestError as error:
            self.fail(call, error)
        except PredictorError as cause:
            self.fail(call, _failed(cause))
        except Exception as cause:  # noqa: BLE001  # the other calls of the run are answered
            self.fail(call, InternalError.because(cause))
        else:
            self.finish(call, Response(200, body))

    # The ends of a call. Each call meets exactly one of them.

    def fail(self, call: Call, error: RequestError) -> None:
        """Ends a call with an error, unless it has ended already."""
        if call.finished:
            return
        call.error = error
        self.finish(call, Response(error.status, problem(error, call.request_id), PROBLEM, error.headers))

    def abandon(self, call: Call) -> None:
        """Ends a call whose client has gone, unless it has ended already."""
        if not call.finished:  # asked at the end of every request
            self.fail(call, ClientGone("The client closed the connection before it was answered."))

    def cut_off(self) -> None:
        """Ends every open call, since the server does not wait for them any longer."""
        for call in list(self._open):
            self.fail(call, CutOff("The server ended before the request was answered. Send it again."))

    def finish(self, call: Call, response: Response) -> None:
        """Ends a call with its encoded response, which leaves after the observers have seen the call.

        A call that has ended already stays as it is.
        """
        if call.finished:
            return
        if self._echo_ids and call.request_id is not None:
            response = response.with_header(b"x-request-id", call.request_id.encode("ascii"))
        call.response = response
        call.finished = time.perf_counter()
        self._buffered -= call.reserved
        self._open.pop(call, None)
        if call.decoded and call.batch is None:
            self._forget(call)
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._flush)
        self._finished.append(call)

    def _forget(self, call: Call) -> None:
        """Nobody waits for this call's run any more."""
        self._queue.remove(call)
        self._show_depth(len(self._queue))
        run = self._running.get(call)
        if run is not None and all(other.finished for other in run):
            self._runner.cancel(run)

    def _flush(self) -> None:
        """The end of a turn: observers first, then the responses."""
        calls, self._finished = self._finished, []
        batches, self._batches = self._batches, []
        if not calls and not batches:
            return
        for observer in self._observers:
            observer(calls, batches)
        self._active[0] = len(self._open)
        for call in calls:
            if call.reply is not None and call.response is not None:
                call.reply(call.response)
            call.reply = None
            if call not in self._running:  # a run needs the rows of all its calls to its end
                call.release()
        for batch in batches:
            batch.calls = []

    def _show_depth(self, depth: int) -> None:
        """Shows how many calls wait. Those that are given a run within this turn of the loop never do."""
        if depth != self._depth:
            self._depth = depth
            self._queued[0] = depth

    # What the clock brings.

    def _dispatch_soon(self) -> None:
        """Lets the calls of this turn of the loop come together before a free thread is given a run."""
        wait = self._queue.wait_s
        if wait or not self._free:
            self._show_depth(len(self._queue))
        if not self._free:
            return
        if self._dispatching is not None:
            if wait or not self._lingering:
                return
            self._dispatching.cancel()
        loop = asyncio.get_running_loop()
        self._lingering = wait > 0
        self._dispatching = loop.call_later(wait, self._dispatch) if wait else loop.call_soon(self._dispatch)

    def _expire(self) -> None:
        """Answers the calls whose time is up. All have the same time, so the oldest come first."""
        self._expiry = None
        now = time.perf_counter()
        while self._open:
            call = next(iter(self._open))
            if call.received + self._timeout > now:
                self._expire_at(call.received + self._timeout)
                break
            limit = f"{self._timeout:g} s (server.request_timeout_s)"
            if call.decoded:
                self.fail(call, PredictionTimeout(f"No answer within {limit}."))
            else:
                self.fail(call, RequestTimeout(f"The body was not complete within {limit}."))

    def _expire_at(self, when: float) -> None:
        self._expiry = asyncio.get_running_loop()
        self._expiry.call_later(max(0.0, when - time.perf_counter()), self._expire)


def _failed(cause: BaseException) -> PredictionFailed:
    error = PredictionFailed("The predictor failed. The server's log has the reason under this request's id.")
    error.__cause__ = cause
    return error


def _raise(error: BaseException | None) -> None:
    if isinstance(error, RequestError):  # the rows are at fault, as only the model can tell
        raise error
    if error is not None:
        raise _failed(error)


def _at_fault(run: Run) -> bool:
    """Whether a shared run had to be taken apart, and not only because a client's rows were refused."""
    refused = all(isinstance(outcome.error, RequestError | None) for outcome in run.outcomes)
    return len(run.batches) > 1 and not (refused and any(outcome.error for outcome in run.outcomes))


def _because(failure: str | None) -> str:
    return f": {failure.rstrip('.')}" if failure else " yet"
