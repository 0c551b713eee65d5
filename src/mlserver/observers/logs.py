"""Logs: one line for every finished call, in the same form as what anybody else logs in this process."""

from __future__ import annotations

import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from mlserver.lines import bound_fields, cut, cut_stack, plain, take_over_logging, timestamp

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from mlserver.lines import LineWriter, Render
    from mlserver.serving.call import Batch, Call


class RequestLog:
    """The observer that writes one line for every call, before its response leaves.

    Args:
        level: calls whose line would be below it have none.
        payloads: adds the bodies of request and response.
    """

    def __init__(
        self,
        writer: LineWriter,
        render: Render,
        *,
        model: str,
        version: str,
        worker: int | None,
        level: int,
        payloads: bool = False,
    ) -> None:
        self._writer = writer
        self._render = render
        self._model = model
        self._version = version
        self._worker = worker
        self._level = level
        self._payloads = payloads

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:  # noqa: ARG002
        """Writes the lines of one turn at once."""
        now = timestamp(time.time())
        leveled = [(call, level_of(call)) for call in calls]
        lines = [
            self._render(self._record(call, level, now)) for call, level in leveled if level >= self._level
        ]
        if lines:
            self._writer.write(lines)

    def _record(self, call: Call, level: int, now: str) -> dict[str, Any]:
        failed = call.status >= 400
        record: dict[str, Any] = {
            "timestamp": now,
            "level": logging.getLevelName(level),
            "message": _message(call, failed=failed),
            "request_id": call.request_id,
            "model": self._model,
            "version": self._version,
            "duration_ms": round((call.finished - call.received) * 1000, 3),
            "input_shape": call.input_shape,
            "output_shape": call.output_shape,
            "status": "error" if failed else "success",
            "endpoint": call.endpoint,
            "method": cut(call.method),
            "http_status": call.status,
            "error_type": call.error_type,
            "worker": self._worker,
        }
        if call.batch is not None and call.batch.id:
            record["batch_id"] = call.batch.id
        if call.error is not None:
            record |= _failure(call.error)
        if self._payloads:
            record["request_body"] = cut(call.body.decode("utf-8", "replace"))
            record["response_body"] = (
                cut(call.response.body.decode("utf-8", "replace")) if call.response else None
            )
        return record


def _message(call: Call, *, failed: bool) -> str:
    subject = "Prediction" if call.operation else "Request"
    return f"{subject} failed" if failed else f"{subject} completed"


def level_of(call: Call) -> int:
    """INFO below 400, WARNING for 4xx, ERROR for 5xx; probes and scrapes at DEBUG."""
    if call.quiet:
        return logging.DEBUG
    if call.status >= 500:
        return logging.ERROR
    return logging.WARNING if call.status >= 400 else logging.INFO


def _failure(error: Exception) -> dict[str, str]:
    """What the client was told and, if the predictor raised, where."""
    cause = error.__cause__
    if cause is None:
        return {"error": cut(str(error))}
    stack = "".join(traceback.format_exception(cause))
    return {"error": cut(plain(cause)), "exception": cut_stack(stack)}


def bind_ids(batch: Batch) -> None:
    """Puts the ids of the calls that a run answers on what the predictor logs; an `Enter` hook."""
    ids = [call.request_id for call in batch.calls]
    bound_fields.set({"batch_id": batch.id, "request_ids": ids} if batch.id else {"request_id": ids[0]})


def configure(writer: LineWriter, render: Render, *, level: int, worker: int | None = None) -> None:
    """Sends what this process logs through ``logging`` and ``structlog`` to the same lines.

    For a process of our own only: it takes over the root logger.
    """
    take_over_logging(writer, render, level=level, worker=worker)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _to_logging,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _to_logging(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hands an event of structlog to ``logging``, its fields under one name that cannot clash."""
    options = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    return (event.pop("event", ""),), {"extra": {"fields": dict(event)}, **options}
