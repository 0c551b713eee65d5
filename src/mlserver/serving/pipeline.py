"""A prediction's way through the server: decode, queue, run, encode, observe, reply.

Everything here happens on the event loop, in callbacks and without a task per request; only the run itself
is on a predictor's thread.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NoReturn

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
from mlserver.serving.codec import output_shape, problem
from mlserver.serving.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlserver.serving.brevity import Brevity
    from mlserver.serving.call import Batch, Call, Levels, Observer
    from mlserver.serving.coalescer import Coalescer
    from mlserver.serving.codec import Decoder, Encoder
    from mlserver.serving.health import Health
    from mlserver.serving.linger import Linger
    from mlserver.serving.runner import Runner
    from mlserver.serving.runs import Run

PROBLEM = b"application/problem+json"


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
        self._expiry: asyncio.AbstractEventLoop | None = None
        self._open: dict[Call, None] = {}  # in the order in which they came
        self._running: Collection[Call] = ()
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
        brevity: Brevity | None = None,
        linger: Linger | None = None,
    ) -> None:
        """Takes what depends on the model, once it is loaded. From then on predictions are answered.

        ``concurrency`` is how many runs there may be at once. Without ``brevity`` none is done on the event
        loop; without ``linger`` no thread waits for callers to come back.
        """
        self._operations = operations
        self._decode = decode
        self._encode = encode
        self._dispatcher = Dispatcher(
            queue,
            self._runner,
            queued=self._queued,
            concurrency=concurrency,
            brevity=brevity,
            linger=linger,
            answer=self._answer_all,
        )
        self._running = self._dispatcher.running

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

    def take(self, call: Call, body: bytes, content_type: bytes | None) -> None:
        """Makes room for a body that has come at once, decodes it and queues the call."""
        try:
            self.reserve(call, len(body))
        except Overloaded as error:
            self.fail(call, error)
        else:
            self.predict(call, body, content_type)

    def predict(self, call: Call, body: bytes, content_type: bytes | None) -> None:
        """Decodes a body and queues the call; its reply follows in its own time."""
        if call.finished:  # its time was up while the body came
            return
        call.body = body
        try:
            if not self._health.model_loaded or call.operation not in self._operations:
                self._refuse(call)
            call.rows = rows = self._decode(body, content_type)
            call.input_shape = rows.shape
            call.decoded = time.perf_counter()
            self._dispatcher.add(call)
        except RequestError as error:
            self.fail(call, error)
        except Exception as cause:  # noqa: BLE001  # a fault of the server's own is one 500
            self.fail(call, InternalError.because(cause))

    def _refuse(self, call: Call) -> NoReturn:
        if not self._health.model_loaded:
            raise NotReady(f"The model is not loaded{_because(self._health.failure)}.")
        raise NotFound(f"This model has no {call.operation}; it has {', '.join(self._operations)}.")

    def _answer_all(self, run: Run) -> None:
        """Encodes what became of a run."""
        self._batches += run.batches
        for outcome in run.outcomes:
            if not outcome[0].finished:
                self._answer(*outcome)
        self._flush()

    def _answer(self, call: Call, batch: Batch, output: Any, fault: BaseException | None) -> None:
        call.batch = batch
        call.started, call.predicted = batch.started, batch.ended
        try:
            if fault is not None:
                _raise(fault)
            call.output_shape = output_shape(output)
            elapsed_ms = (time.perf_counter() - call.received) * 1000
            body = self._encode(call.operation or "", output, call.request_id, elapsed_ms)
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
            response.headers += ((b"x-request-id", call.request_id.encode("ascii")),)
        call.response = response
        call.finished = time.perf_counter()
        self._buffered -= call.reserved
        del self._open[call]
        if call.decoded and call.batch is None:
            self._dispatcher.forget(call)
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._flush)
        self._finished.append(call)

    def _flush(self) -> None:
        """The end of a turn: observers first, then the responses."""
        calls, self._finished = self._finished, []
        batches, self._batches = self._batches, []
        if not calls and not batches:
            return
        for observer in self._observers:
            observer(calls, batches)
        self._active[0] = len(self._open)
        running = self._running
        for call in calls:
            reply, call.reply = call.reply, None
            if reply is not None and call.response is not None:
                reply(call.response)
            if call not in running:  # a run needs the rows of all its calls to its end
                call.release()
        for batch in batches:
            batch.calls = []

    # What the clock brings.

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
                self.fail(
                    call, RequestTimeout(f"Only {call.reserved} bytes of the body came within {limit}.")
                )

    def _expire_at(self, when: float) -> None:
        self._expiry = asyncio.get_running_loop()
        self._expiry.call_later(max(0.0, when - time.perf_counter()), self._expire)


def _failed(cause: BaseException) -> PredictionFailed:
    error = PredictionFailed("The predictor failed. The server's log has the reason under this request's id.")
    error.__cause__ = cause
    return error


def _raise(error: BaseException) -> NoReturn:
    # The rows may be at fault, as only the model can tell.
    raise error if isinstance(error, RequestError) else _failed(error)


def _because(failure: str | None) -> str:
    return f": {failure.rstrip('.')}" if failure else " yet"
