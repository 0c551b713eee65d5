"""The SDK's exporters as a way for messages that are encoded already."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mlserver.observers.traces.silence import Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mlserver.observers.traces.settings import Target

    Readable = Callable[[], Sequence[ReadableSpan]]

_logger = logging.getLogger("mlserver.traces")


class Transport(Protocol):
    """Delivers messages to one collector."""

    def send(self, message: bytes, spans: Readable) -> str | None:
        """Sends an encoded message; waits for the collector, and tries again for a while.

        Args:
            message: an ``ExportTraceServiceRequest``.
            spans: gives the same spans as the SDK has them.

        Returns:
            what went wrong, as far as it is known here; None where the collector has taken it.
        """

    def close(self) -> None:
        """Ends what goes on in another thread."""


def connect(target: Target) -> Transport:
    """The way to a collector; does not wait for it. All else is by ``OTEL_EXPORTER_OTLP_*``."""
    malformed: list[str] = []
    silence = Silence(("opentelemetry.util.re",), lambda: malformed.append("one"))
    silence.begin()
    with silence:
        transport = _grpc(target) if target.protocol == "grpc" else _http(target)
    silence.end()
    if malformed:  # the SDK would show it, and it may be a secret
        _logger.warning("OTEL_EXPORTER_OTLP_HEADERS holds what is no name=value, which is left out")
    return transport


class _ByHttp:
    def __init__(self, exporter: SpanExporter, client: Any) -> None:
        self._exporter = exporter
        self._client = client

    def send(self, message: bytes, spans: Readable) -> str | None:  # noqa: ARG002
        result = self._client.export(message)
        if result.success:
            return None
        if result.status_code:
            return f"HTTP {result.status_code} {result.reason or ''}".rstrip()
        return str(result.error or "no answer in time")

    def close(self) -> None:
        self._exporter.shutdown()


class _ByExporter:
    """By the exporter's public method. It encodes once more, which costs time and nothing else."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def send(self, message: bytes, spans: Readable) -> str | None:  # noqa: ARG002
        return "" if self._exporter.export(spans()) is not SpanExportResult.SUCCESS else None

    def close(self) -> None:
        self._exporter.shutdown()


class _ByGrpc(_ByExporter):
    def send(self, message: bytes, spans: Readable) -> str | None:  # noqa: ARG002
        sent = self._exporter.export(message)  # type: ignore[arg-type]  # one that takes messages, see below
        return "" if sent is not SpanExportResult.SUCCESS else None


def _http(target: Target) -> Transport:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    exporter = OTLPSpanExporter(endpoint=target.url)
    client = getattr(exporter, "_client", None)  # not promised to be there
    return _ByHttp(exporter, client) if hasattr(client, "export") else _ByExporter(exporter)


def _grpc(target: Target) -> Transport:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceRequest,
    )

    class MessageExporter(OTLPSpanExporter):
        def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
            message: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(data)
            return message

    if hasattr(OTLPSpanExporter, "_translate_data"):  # not promised to be there, either
        return _ByGrpc(MessageExporter(endpoint=target.url))
    return _ByExporter(OTLPSpanExporter(endpoint=target.url))
