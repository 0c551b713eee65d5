"""OTLP by hand: finished spans as the protobuf message that a collector takes.

The SDK's encoder takes 80 µs for the five spans of a request, most of it for objects that are thrown away.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage

from mlserver.observers.traces.spans import Finished, events_of, readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

# Fields of opentelemetry/proto/trace/v1/trace.proto as they stand in a message: number * 8 + wire type.
_TRACE_ID, _SPAN_ID = b"\x0a\x10", b"\x12\x08"  # of spans and links, with their fixed lengths
_STATE, _PARENT, _NAME, _ATTRIBUTE, _EVENT, _LINK = b"\x1a", b"\x22\x08", b"\x2a", b"\x4a", b"\x5a", b"\x6a"
_INTERNAL, _SERVER = b"\x30\x01", b"\x30\x02"  # kind
_TIMES = struct.Struct("<BQBQ")  # start and end: fixed64 of fields 7 and 8
_STATUS_ERROR = b"\x7a\x02\x18\x02"
_STATUS_UNSET = b"\x7a\x00"
_FLAGS_LOCAL, _FLAGS_REMOTE = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
_LINK_FLAGS = b"\x35\x00\x01\x00\x00"
_EVENT_TIME = struct.Struct("<BQ")
_EVENT_NAME = b"\x12\x09exception"
_EVENT_ATTRIBUTE = b"\x1a"
_KEY, _VALUE, _TEXT, _INT = b"\x0a", b"\x12", b"\x0a", b"\x18"
_SHORT = tuple(bytes((number,)) for number in range(128))
_KEPT = 64
"""Characters of a text that may well come again."""


class Encoding:
    """Makes messages of spans.

    Args:
        resource: who gives them.
        scope: the library that makes the finished ones.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        (empty,) = encode_spans([_nothing(resource, scope)]).resource_spans
        self._resource = _field(b"\x0a", empty.resource.SerializeToString())
        message = ScopeMessage(name=scope.name, version=scope.version or "")
        self._scope = _field(b"\x0a", message.SerializeToString())

    def message(self, spans: Sequence[bytes]) -> bytes:
        """An ``ExportTraceServiceRequest`` of encoded spans; empty without any."""
        if not spans:
            return b""
        scope_spans = self._scope + b"".join([_field(b"\x12", span) for span in spans])
        return _field(b"\x0a", self._resource + _field(b"\x12", scope_spans))


def encode(span: Finished) -> bytes:
    """A ``Span``."""
    trace_id = bytes.fromhex(span.trace_id)
    parts = [_TRACE_ID, trace_id, _SPAN_ID, bytes.fromhex(span.span_id)]
    if span.state:
        parts.append(_text(_STATE, span.state))
    if span.parent_id is not None:
        parts += (_PARENT, bytes.fromhex(span.parent_id))
    parts += (
        _text(_NAME, span.name),
        _SERVER if span.is_server else _INTERNAL,
        _TIMES.pack(0x39, span.start, 0x41, span.end),
    )
    for name, value in span.attributes:
        parts.append(_pair(_ATTRIBUTE, name, value))
    if attributes := events_of(span):
        event = [_EVENT_TIME.pack(0x09, span.end), _EVENT_NAME]
        event += [_pair(_EVENT_ATTRIBUTE, name, value) for name, value in attributes]
        parts.append(_field(_EVENT, b"".join(event)))
    for link in span.links:
        ids = _TRACE_ID + bytes.fromhex(link.trace_id) + _SPAN_ID + bytes.fromhex(link.span_id or "")
        parts.append(_field(_LINK, ids + _LINK_FLAGS))
    parts += (
        _STATUS_ERROR if span.failed else _STATUS_UNSET,
        _FLAGS_REMOTE if span.is_server and span.parent_id is not None else _FLAGS_LOCAL,
    )
    return b"".join(parts)


def encode_live(spans: Iterable[ReadableSpan]) -> tuple[bytes, int]:
    """A message of the predictor's own spans, and how many of them cannot be encoded."""
    given = list(spans)
    if not given:
        return b"", 0
    try:
        return encode_spans(given).SerializeToString(), 0
    except Exception:  # noqa: BLE001  # texts that are no UTF-8, or whatever else was put on a span
        if len(given) == 1:
            return b"", 1
    messages, faulty = zip(*[encode_live([span]) for span in given], strict=True)
    return b"".join(messages), sum(faulty)


def _pair(field: bytes, name: str, value: str | int) -> bytes:
    if isinstance(value, str) and len(value) > _KEPT:
        return _encode_pair(field, name, value)
    return _known_pair(field, name, value)


def _encode_pair(field: bytes, name: str, value: str | int) -> bytes:
    """A ``KeyValue``."""
    if isinstance(value, str):
        any_value = _text(_TEXT, value)
    else:
        any_value = _INT + _varint(value & 0xFFFFFFFFFFFFFFFF)
    return _field(field, _text(_KEY, name) + _field(_VALUE, any_value))


_known_pair = lru_cache(maxsize=1024)(_encode_pair)


def _text(field: bytes, text: str) -> bytes:
    return _field(field, text.encode("utf-8", "replace"))


def _field(field: bytes, content: bytes) -> bytes:
    size = len(content)
    return field + (_SHORT[size] if size < 128 else _varint(size)) + content


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _nothing(resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """A span without anything, for the sake of what is around it."""
    return readable(Finished("", "1", "1", None, 0, 0, []), resource, scope)
