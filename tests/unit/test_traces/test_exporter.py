"""The exporter's thread: at its end, in trouble, and what it keeps from others."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor

from mlserver.observers.traces import exporter as exporters
from mlserver.observers.traces.queue import CLOSED, TOO_LARGE
from mlserver.observers.traces.silence import Silence

LONG_S = 3600


@pytest.fixture
def no_grace(monkeypatch):
    """A collector in trouble is not waited for at all, so that nothing here takes its time."""
    monkeypatch.setattr(exporters, "GRACE_S", 0)


def sent_to(collector, working):
    """Sends one call's spans and waits until the collector has them in its hands."""
    collector.arrived.clear()
    working.one()
    assert collector.arrived.wait(10)


def closed(traces):
    """Closes traces, and says whether nothing had to happen for that."""
    closing = threading.Thread(target=traces.close, args=(LONG_S,), daemon=True)
    closing.start()
    return closing


def test_a_collector_in_trouble_is_not_waited_for(traced, work, collector, no_grace):
    collector.status = 400
    traces = traced()
    sent_to(collector, work(traces))
    collector.answer.clear()
    sent_to(collector, work(traces))
    closing = closed(traces)
    closing.join(10)
    assert not closing.is_alive()
    assert sum(traces.lost) == 10


def test_a_collector_that_has_recovered_is_waited_for_again(traced, work, collector, no_grace):
    collector.status = 400
    traces = traced()
    sent_to(collector, work(traces))
    sent_to(collector, work(traces))
    collector.status = 200
    sent_to(collector, work(traces))
    collector.answer.clear()
    sent_to(collector, work(traces))
    closing = closed(traces)
    closing.join(0.3)  # which it would do if it took the collector for troubled
    collector.answer.set()
    closing.join(10)
    assert sum(traces.lost) == 10
    assert len(collector.spans) == 10


def test_an_exporter_that_tries_again_is_in_trouble(traced, work, collector, no_grace, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(LONG_S))
    collector.status = 503
    traces = traced()
    sent_to(collector, work(traces))
    closing = closed(traces)
    closing.join(10)
    assert not closing.is_alive()
    assert sum(traces.lost) == 5


def test_what_fails_after_the_end_is_not_counted_again(traced, work, collector):
    collector.answer.clear()
    traces = traced()
    sent_to(collector, work(traces))
    traces.close(0)
    collector.status = 400
    collector.answer.set()
    traces._exporter._thread.join(10)
    assert sum(traces.lost) == 5


def test_nothing_is_silenced_after_the_end(traced, work, collector):
    traces = traced()
    sent_to(collector, work(traces))
    assert silences()
    traces.close(5)
    traces._exporter._thread.join(10)
    assert not silences()


def silences():
    names = ("opentelemetry.exporter", "opentelemetry.sdk", "urllib3", "requests", "grpc")
    loggers = [
        logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(names)
    ]
    return [given for logger in loggers for given in logger.filters if isinstance(given, Silence)]


def test_a_predictors_own_processor_may_say_what_it_wants(traced, work, caplog):
    seen = []

    class Talking(SpanProcessor):
        def on_end(self, span):
            logging.getLogger("opentelemetry.exporter.of.ours").warning("no way to send %s", span.name)
            seen.append(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))

    traces = traced(install=True)
    trace.get_tracer_provider().add_span_processor(Talking())
    work(traces).one()
    traces.close(5)
    assert caplog.text.count("no way to send") == 5
    assert seen == [True] * 5  # what it sends makes no spans


def test_what_the_predictor_makes_until_the_end_is_sent_and_what_comes_later_is_told(
    traced, work, collector, caplog
):
    def own_span(size=0):
        with trace.get_tracer("mine").start_as_current_span("own") as span:
            span.set_attribute("text", "x" * size)

    traces = traced(install=True)
    work(traces).one()
    own_span()
    traces.close(5)
    assert len(collector.named("own")) == 1
    assert traces.lost == []
    other = traced(install=True)
    own_span(3 * 2**20)
    other._queue.close()
    own_span()
    other.close(5)
    assert other.lost == [1, 1]
    assert [TOO_LARGE in record.getMessage() for record in caplog.records] == [True, False]
    assert CLOSED in caplog.records[1].getMessage()


def test_the_predictors_spans_are_bounded_in_bytes(traced):
    traces = traced(start=False, install=True)
    for _ in range(70):
        with trace.get_tracer("mine").start_as_current_span("own") as span:
            span.set_attribute("text", "x" * 2**19)
            span.add_event("text", {"list": ["x" * 2**18]})
            span.add_link(trace.INVALID_SPAN_CONTEXT, {"text": "x" * 2**18})
    assert 5 < len(traces.lost) < 9
    assert 60 * 2**20 < traces._queue.size <= 64 * 2**20
