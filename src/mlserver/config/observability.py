"""The settings of observability."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mlserver.config.kinds import (
    Buckets,
    CollectorUrl,
    Endpoint,
    LogFile,
    LogLevel,
    Patterns,
    Prefix,
    Ratio,
    Settings,
    Texts,
)


class PayloadSettings(Settings):
    """What of the bodies gets into the log, and what never leaves the server in any signal."""

    redact: Texts = Field(
        (),
        description="Names of fields and features whose values are left out of log lines and spans, at any "
        "depth and in any case of letters; those of error messages, too.",
    )
    redact_patterns: Patterns = Field(
        (), description="Regular expressions; what they match in a logged text is left out."
    )
    max_bytes: Annotated[int, Field(ge=1, le=2**20)] = Field(
        4096, description="Bytes of one body in a line; on a pipe, a whole line has at most 4096."
    )
    sample_ratio: Ratio = Field(1.0, description="Share of the requests whose bodies are logged.")


class TracingSettings(Settings):
    """Spans, and the collector that they are sent to."""

    enabled: bool = Field(default=False, description="Trace requests and send the spans to a collector.")
    endpoint: CollectorUrl = Field(
        "http://localhost:4318", description="The collector; `/v1/traces` is added for `http/protobuf`."
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        "http/protobuf", description="How spans are sent by OTLP; `grpc` mostly has port 4317."
    )
    sample_ratio: Ratio = Field(
        1.0, description="Share of the requests that are traced where the caller has not decided."
    )


class ObservabilitySettings(Settings):
    """Which signals are given, and how."""

    metrics: bool = Field(default=True, description="Collect metrics and serve them.")
    metrics_endpoint: Endpoint = Field("/metrics", description="Path of the metrics, on both listeners.")
    metrics_prefix: Prefix = Field(
        "mlserver_", description="Start of the name of every metric of the server."
    )
    structured_logging: bool = Field(default=True, description="One JSON object a line; else plain text.")
    log_level: LogLevel = Field("INFO", description="Least level that is logged, in any case of letters.")
    log_file: LogFile | None = Field(
        None, description="File to append log lines to; `null`: standard output."
    )
    log_format: Literal["default", "ecs"] = Field(
        "default", description="Names of the fields; `ecs`: those of the Elastic Common Schema."
    )
    log_payloads: bool = Field(
        default=False, description="Log the bodies of requests and responses. They may hold personal data."
    )
    payloads: PayloadSettings = PayloadSettings()
    correlation_ids: bool = Field(
        default=True, description="Give every request an id: kept or made, logged, echoed as `X-Request-ID`."
    )
    buckets: Buckets = Field(
        {},
        description="Upper bounds of a histogram's buckets in place of its own, such as "
        "`{request_duration_seconds: [0.1, 0.5, 1]}`.",
    )
    max_series: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1000, description="Sets of labels of one metric; what comes later is counted as `__overflow__`."
    )
    tracing: TracingSettings = TracingSettings()
