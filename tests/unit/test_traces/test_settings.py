"""What OpenTelemetry's variables change, and what the configuration has the last word on."""

from __future__ import annotations

import logging

import pytest

from mlserver.errors import MLServerError
from mlserver.observers.traces import settings
from mlserver.observers.traces.settings import disabled, limits_of, masked, rate_of, resource_of, target_of
from mlserver.serving.call import Trace

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


def test_the_reason_of_a_loss_is_told_without_them(traced, caplog):
    traced()._losses.count(1, "no way by http://me:s3cret@proxy.example.com")
    (record,) = caplog.records
    assert record.getMessage().endswith("no way by http://proxy.example.com")


def test_a_header_that_is_none_is_told_of_and_not_shown(traced, work, collector, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Bearer s3cret,x-team=blue")
    traces = traced()
    work(traces).one()
    traces.close(5)
    assert collector.headers[0]["x-team"] == "blue"
    (record,) = caplog.records
    assert "OTEL_EXPORTER_OTLP_HEADERS" in record.getMessage()
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(("value", "expected"), [("true", True), (" TRUE", True), ("", False), ("1", False)])
def test_the_sdk_may_be_turned_off(value, expected):
    assert disabled({"OTEL_SDK_DISABLED": value}) is expected
    assert disabled({}) is False


def test_a_place_of_the_caller_only_makes_no_spans(traced, work, collector):
    traces = traced()
    working = work(traces)
    alone, shared = working.call(), working.call()
    for call in (alone, shared):
        call.trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", None, "00f067aa0ba902b7")
    working.answer(alone, batch=working.run(alone))
    working.answer(alone, shared, batch=working.run(alone, shared))
    traces.close(5)
    assert collector.headers == []
    assert traces.lost == []


@pytest.mark.parametrize("url", [
    "http://me:secret@a.example.com", "http://a.example.com/?key=secret", "me:secret@a.example.com:4317",
])  # fmt: skip
@pytest.mark.parametrize("variable", [ALL, OURS])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_address_with_secrets_is_refused_without_showing_them(configured, url, variable, protocol):
    with pytest.raises(MLServerError, match=f"{variable} holds a user, a password or a query") as refused:
        target_of(configured(protocol=protocol), {variable: url})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["a.example.com:4318", "ftp://a.example.com", "http://", "http://a:b", "http://a b"]
)
def test_what_is_no_address_is_refused(configured, url):
    with pytest.raises(MLServerError, match=f"{ALL} is .*; expected an address such as"):
        target_of(configured(), {ALL: url})


def test_by_grpc_an_address_needs_no_scheme(configured):
    assert target_of(configured(protocol="grpc"), {ALL: "collector:4317"}).url == "collector:4317"


def test_a_reason_is_shown_without_what_may_be_secret():
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc,x=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=s3cr3t",
    }
    reason = (
        "no proxy http://me:pw@proxy:80 for (url='/v1?key=k1', 'Bearer abc', s3cr3t), Bearer%20abc in 1 s"
    )
    assert masked(reason, environ) == "no proxy http://proxy:80 for (url='/v1', '…', …), … in 1 s"
