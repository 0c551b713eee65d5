"""The spans of a request."""

from __future__ import annotations

from typing import NamedTuple


class Attribute(NamedTuple):
    """One attribute of a span."""

    name: str
    help: str


class SpanKind(NamedTuple):
    """One kind of span that the server gives."""

    name: str
    help: str
    attributes: tuple[Attribute, ...] = ()


REQUEST_ID = Attribute("mlserver.request_id", "the request's `X-Request-ID`")
MODEL = Attribute("mlserver.model", "the model's name, as configured")
MODEL_VERSION = Attribute("mlserver.model.version", "its version")
WORKER = Attribute("mlserver.worker", "number of the worker, counted from 0")
INPUT_SHAPE = Attribute("input.shape", "rows and features, such as `(1, 4)`")
OUTPUT_SHAPE = Attribute("output.shape", "of this request's part of the answer")
BATCH_ROWS = Attribute("mlserver.batch.rows", "rows of the run, all its requests together")
BATCH_CALLS = Attribute("mlserver.batch.requests", "how many requests shared the run")
BATCH_ID = Attribute("mlserver.batch.id", "the run, where several requests shared it")

REQUEST = SpanKind(
    "{method} {route}",
    "a request, from its complete headers to its encoded response; of kind SERVER, with the attributes of "
    "OpenTelemetry's semantic conventions for HTTP; `{method}` alone where there is no such path",
    (REQUEST_ID, MODEL, MODEL_VERSION, WORKER),
)
DECODE = SpanKind("decode", "its body made rows, the wait for the body included")
QUEUE = SpanKind("queue", "its wait for a run")
PREDICT = SpanKind(
    "predict",
    "its run; what the predictor traces itself nests under it, unless the run was shared",
    (MODEL, INPUT_SHAPE, OUTPUT_SHAPE, BATCH_ROWS, BATCH_ID),
)
ENCODE = SpanKind("encode", "its answer made a body")
BATCH = SpanKind(
    "batch",
    "a run that several requests shared, in a trace of its own, linked to the spans of all of them; what the "
    "predictor traces itself nests under it",
    (BATCH_ID, MODEL, BATCH_ROWS, BATCH_CALLS),
)

SPANS = (REQUEST, DECODE, QUEUE, PREDICT, ENCODE, BATCH)
