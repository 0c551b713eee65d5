"""FastAPI as users assemble it: metrics, JSON lines, request ids, traces. It has no batching.

Each part as its own documentation adds it: prometheus-fastapi-instrumentator and asgi-correlation-id by their
READMEs, structlog by its page on performance, OpenTelemetry's FastAPI instrumentation by its own. The access
line is written by a plain ASGI middleware, which was a third faster than FastAPI's ``@app.middleware``.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import models
import numpy as np
import orjson
import structlog
import uvicorn
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel

structlog.configure(
    cache_logger_on_first_use=True,
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(serializer=orjson.dumps),
    ],
    logger_factory=structlog.BytesLoggerFactory(),
)
log = structlog.get_logger()

provider = TracerProvider(sampler=ParentBasedTraceIdRatio(0.1))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

app = FastAPI()
predict = models.load()


class Rows(BaseModel):
    ndarray: list[list[float]]


class Predictions(BaseModel):
    predictions: list[float]


@app.post("/predict")
def answer(body: Rows) -> Predictions:
    return Predictions(predictions=predict(np.asarray(body.ndarray)).tolist())


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


class AccessLog:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def keep(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, keep)
        finally:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration=time.perf_counter() - start,
                request_id=correlation_id.get(),
            )


app.add_middleware(AccessLog)
app.add_middleware(CorrelationIdMiddleware)
Instrumentator().instrument(app).expose(app)
FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,metrics")

if __name__ == "__main__":
    # The middleware writes the access lines, so uvicorn's are off.
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
