"""What OpenTelemetry's variables change, and what the configuration has the last word on."""

from __future__ import annotations

import logging

import pytest

from mlserver.errors import MLServerError
from mlserver.observers.traces import settings
from mlserver.observers.traces.settings import limits_of, rate_of, resource_of, target_of

ALL = "OTEL_EXPORTER_OTLP_ENDPOINT"
OURS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("tracing", "environ", "protocol", "url"),
    [
        ({}, {}, "http/protobuf", "http://localhost:4318/v1/traces"),
        ({"protocol": "grpc"}, {}, "grpc", "http://localhost:4317"),
        ({"endpoint": "http://a.example.com:4318/"}, {}, "http/protobuf", "http://a.example.com:4318/v1/traces"),
        ({"endpoint": "http://a.example.com/v1/traces"}, {}, "http/protobuf", "http://a.example.com/v1/traces"),
        ({}, {ALL: "http://b.example.com/otlp"}, "http/protobuf", "http://b.example.com/otlp/v1/traces"),
        ({}, {ALL: "http://b.example.com", OURS: "http://c.example.com/x"}, "http/protobuf", "http://c.example.com/x"),
        ({"endpoint": "http://a.example.com"}, {OURS: "http://c.example.com"}, "http/protobuf", "http://a.example.com/v1/traces"),
        ({}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", ALL: "http://b.example.com:4317"}, "grpc", "http://b.example.com:4317"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "grpc", "http://localhost:4317"),
        ({"protocol": "http/protobuf"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf", "http://localhost:4318/v1/traces"),
    ],
)  # fmt: skip
def test_the_collector(configured, tracing, environ, protocol, url):
    assert target_of(configured(**tracing), environ) == (protocol, url)


def test_a_protocol_that_is_not_known_is_told_and_not_taken(configured, caplog):
    target = target_of(configured(), {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
    assert target.protocol == "http/protobuf"
    assert "http/json" in caplog.text


def test_a_package_that_is_missing_is_named(configured, monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(MLServerError, match=r"mlserver-observability\[grpc\]"):
        target_of(configured(protocol="grpc"), {})


def test_an_address_is_shown_without_its_secrets():
    target = settings.Target("grpc", "https://me:secret@collector.example.com:4317/path?key=secret")
    assert target.shown == "https://collector.example.com:4317/path"


@pytest.mark.parametrize(
    ("tracing", "sampler", "arg", "rate"),
    [
        ({}, "", "0.5", (1.0, True)),
        ({"sample_ratio": 0.1}, "", "", (0.1, True)),
        ({"sample_ratio": 0.1}, "always_on", "", (0.1, True)),
        ({}, "always_on", "", (1.0, False)),
        ({}, "always_off", "", (0.0, False)),
        ({}, "traceidratio", "0.25", (0.25, False)),
        ({}, "parentbased_always_on", "", (1.0, True)),
        ({}, "parentbased_always_off", "", (0.0, True)),
        ({}, "parentbased_traceidratio", "0.25", (0.25, True)),
    ],
)
def test_the_sampler(configured, tracing, sampler, arg, rate):
    environ = {"OTEL_TRACES_SAMPLER": sampler} | ({"OTEL_TRACES_SAMPLER_ARG": arg} if arg else {})
    assert rate_of(configured(**tracing), environ) == rate


@pytest.mark.parametrize("environ", [
    {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
])  # fmt: skip
def test_a_sampler_that_cannot_be_had_is_told(configured, environ, caplog):
    assert rate_of(configured(), environ) == (1.0, True)
    assert "OTEL_TRACES_SAMPLER" in caplog.text


def test_the_queue(caplog):
    defaults = limits_of({})
    assert defaults.spans == 65_536
    assert defaults.delay_s <= 0.25
    given = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20",
    }
    assert limits_of(given)[:4:2] == (100, 20)
    assert limits_of(given).delay_s == 0.05
    assert limits_of({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}).batch_spans == 100
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert limits_of(dict.fromkeys(given, "-1")) == defaults
    assert len(caplog.records) == 3


def test_who_gives_the_spans(configured, monkeypatch):
    config = configured(model={"name": "iris", "version": "1.10"})
    given = resource_of(config).attributes
    assert (given["service.name"], given["service.version"]) == ("iris", "1.10")
    assert given["telemetry.sdk.language"] == "python"
    assert given["service.instance.id"] != resource_of(config).attributes["service.instance.id"]
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2,team=blue")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "flowers")
    given = resource_of(config).attributes
    assert (given["service.name"], given["service.version"], given["team"]) == ("flowers", "2", "blue")


def test_headers_and_compression_reach_the_collector(traced, work, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-team=blue")
    traces = traced()
    work(traces).one()
    traces.close(5)
    (headers,) = collector.headers
    assert (headers["authorization"], headers["x-team"]) == ("Bearer abc", "blue")
    assert headers[":path"] == "/v1/traces"


def test_the_sdk_turned_off_traces_nothing(traced, work, collector, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces = traced(install=True)
    sampled = {b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    seen = []
    call = work(traces).one(headers=sampled, predict=lambda: seen.append(traces.outgoing()))
    assert (call.trace.trace_id, call.trace.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", None)
    assert seen == [{}]
    traces.close(5)
    assert collector.messages == []
