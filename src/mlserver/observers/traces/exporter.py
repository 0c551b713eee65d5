"""The thread that makes spans of records and sends them."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry.sdk.trace import ReadableSpan

from mlserver.observers.traces.encoding import Encoding, encode, encode_live
from mlserver.observers.traces.silence import SENDING, Silence
from mlserver.observers.traces.spans import readable
from mlserver.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from mlserver.observers.traces.losses import Losses
    from mlserver.observers.traces.queue import Item, Queue
    from mlserver.observers.traces.spans import Finished, Spans
    from mlserver.observers.traces.transport import Transport

    Pass = Callable[[ReadableSpan], None]

GRACE_S = 1.0
"""How long the end waits for a collector that is in trouble already."""
PIECE = 16
"""Records made spans in a row; then other threads may run, above all the event loop."""
REST_S = 20e-6
_logger = logging.getLogger("mlserver.traces")
_pace = Pace()


class Exporter:
    """Sends what comes through the queue, until it is closed.

    Args:
        connect: makes the way to the collector, in the thread.
        passes: whom the finished spans are given, too, such as the predictor's own span processors.
    """

    def __init__(
        self,
        queue: Queue,
        spans: Spans,
        connect: Callable[[], Transport],
        losses: Losses,
        *,
        resource: Resource,
        scope: InstrumentationScope,
        passes: Callable[[], Sequence[Pass]],
    ) -> None:
        self._queue = queue
        self._spans = spans
        self._connect = connect
        self._losses = losses
        self._resource, self._scope = resource, scope
        self._encoding = Encoding(resource, scope)
        self._passes = passes
        self._silence = Silence(SENDING, self._note_trouble)
        self._transport: Transport | None = None
        self._thread: threading.Thread | None = None
        self._state = threading.Condition()
        self._troubled = self._ended = self._abandoned = False
        self._in_flight = 0

    def start(self) -> None:
        """Begins to send."""
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Sends what is left, and counts as lost what the collector does not take.

        Args:
            timeout: seconds at most; of a collector that is in trouble, `GRACE_S`.
        """
        until = time.monotonic() + timeout
        self._queue.close()
        if self._thread is not None:
            with self._state:
                self._state.wait_for(lambda: self._ended or self._troubled, timeout)
                grace = min(GRACE_S, max(0.0, until - time.monotonic()))
                self._state.wait_for(lambda: self._ended, grace)
        with self._state:
            self._abandoned = True
            left = self._in_flight + self._queue.clear()
            transport = self._transport
        self._losses.count(left, "the server ended before it took them")
        if transport is not None:
            transport.close()

    def _work(self) -> None:
        try:
            self._send()
        finally:
            self._silence.end()

    def _send(self) -> None:
        contexts.attach(_uninstrumented())
        with suppress(Exception):  # it will be told of when there is something to send
            self._connected()  # now, since what it imports would take time from the first requests
        while items := self._queue.take():
            with self._state:
                self._in_flight = sum(item.spans for item in items)
            fault = self._deliver(items)
            with self._state:
                if self._abandoned:
                    return  # who closed has counted them
                lost, self._in_flight = self._in_flight, 0
                if fault is None:
                    self._troubled = False
            if fault is not None:
                self._note_trouble()
                self._losses.count(lost, fault)
        with self._state:
            self._ended = True
            self._state.notify_all()

    def _deliver(self, items: Sequence[Item]) -> str | None:
        """What went wrong; None where the collector has the spans."""
        try:
            finished, live = self._made(items)
            encoded: list[bytes] = []
            for at, span in enumerate(finished):
                encoded.append(encode(span))
                if at % (PIECE * 5) == 0:
                    time.sleep(REST_S)
            theirs, faulty = encode_live(live)
            self._forget(faulty, "they hold what cannot be encoded")
            message = self._encoding.message(encoded) + theirs
            passes = self._passes()

            def spans() -> list[ReadableSpan]:
                return [readable(one, self._resource, self._scope) for one in finished]

            if passes:
                _pass_on(spans(), passes)
            transport = self._connected()
            self._silence.said = ""
            with self._silence:
                fault = transport.send(message, lambda: [*spans(), *live])
        except Exception as error:  # noqa: BLE001  # the next ones may be better
            return f"{type(error).__name__}: {error}"
        return fault if fault is None else fault or self._silence.said or "it does not take them"

    def _made(self, items: Sequence[Item]) -> tuple[list[Finished], list[ReadableSpan]]:
        finished: list[Finished] = []
        live: list[ReadableSpan] = []
        for at, (_, _, record) in enumerate(items):
            if isinstance(record, ReadableSpan):
                live.append(record)
            else:
                finished += self._spans.of(record)
            if at % PIECE == 0:
                time.sleep(REST_S)
        return finished, live

    def _connected(self) -> Transport:
        if self._transport is None:
            transport = self._connect()
            self._silence.begin()  # now that it has loggers
            with self._state:
                self._transport = transport
        return self._transport

    def _forget(self, spans: int, reason: str) -> None:
        with self._state:
            self._in_flight -= spans
        self._losses.count(spans, reason)

    def _note_trouble(self) -> None:
        with self._state:
            self._troubled = True
            self._state.notify_all()


def _pass_on(spans: Sequence[ReadableSpan], passes: Sequence[Pass]) -> None:
    for give in passes:
        try:
            for span in spans:
                give(span)
        except Exception:
            if _pace.due():
                _logger.exception("A span processor that was added to the server's tracer provider raised")


def _uninstrumented() -> contexts.Context:
    """What keeps instrumentations of HTTP clients from making spans of how spans are sent."""
    context = contexts.Context()
    for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
        if key := getattr(contexts, name, None):
            context = contexts.set_value(key, value=True, context=context)
    return context
