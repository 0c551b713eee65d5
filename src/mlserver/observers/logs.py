"""Logs: one line for every finished call, in the same form as what anybody else logs in this process."""

from __future__ import annotations

import logging
import time
import traceback
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any

import orjson

from mlserver import lines
from mlserver.lines.texts import without
from mlserver.redaction import Redaction
from mlserver.serving.call import Call, Response
from mlserver.signals.lines import REQUEST_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlserver.config import PayloadSettings
    from mlserver.lines import LineWriter
    from mlserver.lines.forms import Form
    from mlserver.redaction import Hidden
    from mlserver.serving.call import Batch, Enter

    Record = dict[str, Any]
    Quick = Callable[[Call, orjson.Fragment], bytes | None]
    """The line of a call with a common beginning; None if it is to be made by the form."""

_LEAST_BODY = 16
"""Bytes of a body that are shown whatever else is in the line."""


class RequestLog:
    """The observer that writes one line for every call, before its response leaves.

    Args:
        form: makes a line of a record.
        structured: whether that is JSON, and…
        ecs: …whether its names are those of the Elastic Common Schema.
        level: calls whose line would be below it have none.
        redaction: what must not be shown of errors and bodies.
        payloads: adds the bodies of requests and responses, as these settings say.
    """

    level: int
    """May be changed at any time."""

    def __init__(
        self,
        writer: LineWriter,
        form: Form,
        *,
        structured: bool,
        ecs: bool,
        model: str,
        version: str,
        worker: int | None,
        level: int,
        redaction: Redaction | None = None,
        payloads: PayloadSettings | None = None,
    ) -> None:
        self.level = level
        self._writer = writer
        self._form = form
        self._model = model
        self._version = version
        self._worker = worker
        self._redaction = redaction or Redaction()
        self._max_body = payloads.max_bytes if payloads else 0
        self._ratio = payloads.sample_ratio if payloads else 0.0
        self._second, self._stamp = 0, ""
        self._head = b""
        self._quick = self._quick_lines(ecs=ecs) if structured else None

    def __call__(self, calls: Sequence[Call], batches: Sequence[Batch]) -> None:  # noqa: ARG002
        """Writes the lines of one turn at once.

        Raises:
            RuntimeError: something went wrong with a line. It says less than it should; the others are whole.
        """
        least, now, ratio = self.level, self._now(), self._ratio
        quick = self._quick if least <= logging.INFO else None
        begin = orjson.Fragment(b'"%b"%b' % (now.encode("ascii"), self._head))
        made: list[bytes] = []
        fault: Exception | None = None
        for call in calls:
            bodies = ratio > 0.0 and random() < ratio  # noqa: S311  # a sample
            try:
                line = quick(call, begin) if quick is not None and not bodies else None
                if line is None and (level := level_of(call)) >= least:
                    line = self._line(call, level, now, bodies=bodies)
            except Exception as error:  # noqa: BLE001  # the other calls of the turn have their lines
                fault = error
                line = self._least_line(call, now)
            if line is not None:
                made.append(line)
        if made:
            self._writer.write(made)
        if fault is not None:  # what its message quotes may have to be hidden
            what = f"{type(fault).__name__} when the line of a request was made"
            raise RuntimeError(what).with_traceback(fault.__traceback__) from None

    def _now(self) -> str:
        """The time as `lines.timestamp` has it, all but the milliseconds made once a second."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, lines.timestamp(second)[:-4]
        return f"{self._stamp}{int((now - second) * 1000):03d}Z"

    # Most lines are of answered predictions. What these have in common is made once, by the form itself, and
    # orjson takes it as it is: as the value of the first of the fields that it is made of.

    def _quick_lines(self, *, ecs: bool) -> Quick:
        own = (field.ecs if ecs else field.name for field in REQUEST_FIELDS if field.name in _OWN)
        timestamp, request_id, model, duration, input_shape, output_shape, status, *others = own
        trace_id, span_id, batch_id = others
        dumps, fragment, newline = orjson.dumps, orjson.Fragment, orjson.OPT_APPEND_NEWLINE
        longest = self._writer.longest
        tails: dict[str, orjson.Fragment] = {}

        def in_common(endpoint: str) -> tuple[bytes, bytes, bytes]:
            """What stands between timestamp and id, between id and duration, and behind the shapes."""
            call = Call("POST", endpoint, 0.0, request_id="-", operation="-", response=Response(200, b""))
            call.input_shape = call.output_shape = (1,)
            fields = list(orjson.loads(self._form(self._record(call, logging.INFO, self._now()))).items())
            place = {key: index for index, (key, _) in enumerate(fields)}
            first = _after_key(fields[: place[request_id]])
            return (
                first[len(_after_key(fields[:1])) :],
                _after_key(fields[place[model] : place[duration]]),
                _after_key(fields[place[status] :]),
            )

        self._head, between, _ = in_common("")
        middle = fragment(between)

        def line(call: Call, begin: orjson.Fragment) -> bytes | None:
            request, given, output = call.request_id, call.input_shape, call.output_shape
            if output is None or given is None or call.error is not None or call.method != "POST":
                return None
            if call.quiet or call.operation is None or (ecs and request is None):
                return None
            if call.response.status != 200:  # type: ignore[union-attr]  # it is finished
                return None
            tail = tails.get(call.endpoint)
            if tail is None:
                tail = tails[call.endpoint] = fragment(in_common(call.endpoint)[2])
            micros = int((call.finished - call.received) * 1e6 + 0.5)  # as _micros has it
            record: Record = {
                timestamp: begin,
                request_id: request,
                model: middle,
                duration: micros * 1000 if ecs else micros / 1000,
                input_shape: given,
                output_shape: output,
                status: tail,
            }
            if (trace := call.trace) is not None:
                record[trace_id] = trace.trace_id
                if trace.span_id is not None:
                    record[span_id] = trace.span_id
            if (batch := call.batch) is not None and batch.id:
                record[batch_id] = batch.id
            made = dumps(record, option=newline)
            return made if len(made) <= longest else None

        return line

    # All others.

    def _line(self, call: Call, level: int, now: str, *, bodies: bool) -> bytes:
        record = self._record(call, level, now)
        if call.error is None and not bodies:
            return self._form(record)
        hidden = None
        if self._redaction:
            hidden = self._redaction.hide([call.body])
            record["method"] = lines.cut(hidden(call.method))
            if call.error_type is not None:  # some make classes as they need them
                record["error_type"] = lines.cut(without(call.error_type, hidden))
        if call.error is not None:
            record |= _failure(call.error, hidden)
        if bodies:
            record |= self._bodies(call, hidden, self._writer.longest - len(self._form(record)))
        return self._form(record)

    def _record(self, call: Call, level: int, now: str) -> Record:
        failed = call.status >= 400
        record: Record = {
            "timestamp": now,
            "level": logging.getLevelName(level),
            "message": _message(call, failed=failed),
            "request_id": call.request_id,
            "model": self._model,
            "version": self._version,
            "duration_ms": _micros(call) / 1000,
            "input_shape": call.input_shape,
            "output_shape": call.output_shape,
            "status": "error" if failed else "success",
            "endpoint": call.endpoint,
            "method": lines.cut(call.method),
            "http_status": call.status,
            "error_type": call.error_type,
            "worker": self._worker,
        }
        if call.trace is not None:
            record["trace_id"] = call.trace.trace_id
            if call.trace.span_id is not None:
                record["span_id"] = call.trace.span_id
        if call.batch is not None and call.batch.id:
            record["batch_id"] = call.batch.id
        return record

    def _least_line(self, call: Call, now: str) -> bytes | None:
        """A line without what is not our own, for a call whose line could not be made otherwise."""
        try:
            record = self._record(call, level_of(call), now)
            if self._redaction:
                record["method"] = record["error_type"] = None
            return self._form(record)
        except Exception:  # noqa: BLE001  # the fault that led here is told
            return None

    def _bodies(self, call: Call, hidden: Hidden | None, room: int) -> Record:
        """The bodies, which share the room that is left in the line."""
        response = call.response.body if call.response is not None else b""
        answer_in = partial(self._body, response, hidden, short=call.error is not None)
        room -= len(b',"request_body":,"response_body":') + 32  # where their names are longer
        asked = self._body(call.body, hidden, room - _size(answer_in(room // 2)))
        answer = answer_in(room - _size(asked))
        return {"request_body": asked, "response_body": answer}

    def _body(self, data: bytes, hidden: Hidden | None, room: int, *, short: bool = False) -> str:
        """A body as the settings want it, in so many bytes of JSON."""
        limit = min(self._max_body, max(room, _LEAST_BODY))
        while True:
            text = self._redaction.body(data, limit=limit, hidden=hidden, short=short)
            size = _size(text)
            if size <= room or limit <= _LEAST_BODY:
                return text
            limit = max(limit * room // size - _LEAST_BODY, _LEAST_BODY)


_OWN = frozenset({
    "timestamp", "request_id", "model", "duration_ms", "input_shape", "output_shape", "status", "trace_id",
    "span_id", "batch_id",
})  # fmt: skip
"""Fields whose value each call has its own of, or that others follow which answered predictions share."""


def level_of(call: Call) -> int:
    """INFO below 400, WARNING for 4xx, ERROR for 5xx; probes and scrapes at DEBUG."""
    if call.quiet:
        return logging.DEBUG
    if call.status >= 500:
        return logging.ERROR
    return logging.WARNING if call.status >= 400 else logging.INFO


def hide_values(redaction: Redaction) -> Enter:
    """A hook: what the predictor logs in a run is without the hidden values of the run's requests."""

    def enter(batch: Batch) -> None:
        lines.hidden.set(redaction.hide([call.body for call in batch.calls]))

    return enter


def _message(call: Call, *, failed: bool) -> str:
    subject = "Prediction" if call.operation else "Request"
    return f"{subject} failed" if failed else f"{subject} completed"


def _micros(call: Call) -> int:
    return int((call.finished - call.received) * 1e6 + 0.5)


def _failure(error: Exception, hidden: Hidden | None) -> dict[str, str]:
    """What the client was told and, if the predictor raised, where."""
    cause = error.__cause__
    if cause is None:
        return {"error": lines.cut(without(str(error), hidden))}
    stack = "".join(traceback.format_exception(cause))
    return {
        "error": lines.cut(without(lines.plain(cause), hidden)),
        "exception": lines.cut_stack(without(stack, hidden, end=True)),
    }


def _after_key(fields: list[tuple[str, Any]]) -> bytes:
    """Fields as JSON, without braces and without the name of the first."""
    return orjson.dumps(dict(fields))[len(orjson.dumps(fields[0][0])) + 2 : -1]


def _size(text: str) -> int:
    return len(orjson.dumps(text))
