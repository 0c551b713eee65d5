"""The fields of log lines."""

from __future__ import annotations

from typing import Literal, NamedTuple


class LogField(NamedTuple):
    """One field of a log line."""

    name: str
    type: Literal["date", "keyword", "text", "integer", "float", "object"]
    """What a store such as Elasticsearch should take it for; a list has the type of its items."""
    help: str
    ecs: str
    """Its name under ``log_format: ecs``: that of the Elastic Common Schema where it has one."""
    always: bool = True
    """Whether every line of its kind has it; a value that does not exist is ``null``."""


TIMESTAMP = LogField("timestamp", "date", "when the line was written: UTC with milliseconds", "@timestamp")
LEVEL = LogField("level", "keyword", "see below", "log.level")
MESSAGE = LogField("message", "text", "what happened", "message")
REQUEST_ID = LogField("request_id", "keyword", "as in the response's `X-Request-ID`", "http.request.id")
TRACE_ID = LogField("trace_id", "keyword", "the trace, where it is sampled", "trace.id", always=False)
SPAN_ID = LogField("span_id", "keyword", "the span that the line was written in", "span.id", always=False)
WORKER = LogField("worker", "integer", "number of the worker, counted from 0", "mlserver.worker")
BATCH_ID = LogField(
    "batch_id",
    "keyword",
    "the run, where it answered several requests",
    "mlserver.batch.id",
    always=False,
)
ERROR = LogField(
    "error", "text", "what the client was told or the predictor raised", "error.message", always=False
)
EXCEPTION = LogField("exception", "text", "the end of the traceback", "error.stack_trace", always=False)

REQUEST_FIELDS = (
    TIMESTAMP,
    LEVEL,
    MESSAGE._replace(help="`Prediction` or, for any other path, `Request`; then `completed` or `failed`"),
    REQUEST_ID._replace(help=f"{REQUEST_ID.help}; `null` where `observability.correlation_ids` is off"),
    LogField("model", "keyword", "the model's name, as configured", "service.name"),
    LogField("version", "keyword", "the model's version, as configured", "service.version"),
    LogField("duration_ms", "float", "from its complete headers to its encoded response", "event.duration"),
    LogField(
        "input_shape", "integer", "rows and features; `null` if it was not decoded", "mlserver.input_shape"
    ),
    LogField("output_shape", "integer", "of its part of the answer; `null` if none", "mlserver.output_shape"),
    LogField("status", "keyword", "`success` below 400, else `error`", "event.outcome"),
    LogField("endpoint", "keyword", "a path that the server has, otherwise `unmatched`", "mlserver.endpoint"),
    LogField("method", "keyword", "as it was sent", "http.request.method"),
    LogField("http_status", "integer", "499 where the client had gone", "http.response.status_code"),
    LogField(
        "error_type",
        "keyword",
        "class of the error, of the predictor's own exception where it raised one; `null` otherwise",
        "error.type",
    ),
    WORKER._replace(help=f"{WORKER.help}; `null` where another server runs the application"),
    TRACE_ID,
    SPAN_ID._replace(help="the request's own span"),
    BATCH_ID,
    ERROR,
    EXCEPTION,
    LogField(
        "request_body",
        "text",
        "only with `observability.log_payloads`",
        "http.request.body.content",
        always=False,
    ),
    LogField("response_body", "text", "likewise", "http.response.body.content", always=False),
)
"""Of the one line that every request has, in their order."""

EVENT_FIELDS = (
    TIMESTAMP,
    LEVEL,
    MESSAGE,
    LogField("logger", "keyword", "who wrote it", "log.logger"),
    WORKER._replace(help=f"{WORKER.help}; `null` in the supervisor"),
    REQUEST_ID._replace(help="the request that the predictor is running for", always=False),
    BATCH_ID._replace(help="where it runs for several, the run's id"),
    LogField("request_ids", "keyword", "and the ids of them all", "mlserver.request_ids", always=False),
    TRACE_ID._replace(help="the trace of that request or run, where it is sampled"),
    SPAN_ID._replace(help="the innermost span, also of the predictor's own making"),
    LogField("lost", "integer", "of a line about lost lines: how many", "mlserver.lost", always=False),
    EXCEPTION,
)
"""Of every other line, in their order; what is logged beside the message follows under its own names."""

ECS_VERSION = "8.11.0"
