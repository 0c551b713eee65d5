"""What clients make up in trace context: it floods no log, and goes nowhere as it came."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-%b"
HOSTILE = [
    (b"tracestate", b"evil member,EVIL=1,good=1,evil=" + b"x" * 300),
    (b"tracestate", b",".join(b"evil%d" % number for number in range(60))),
    (b"tracestate", b"evil=\xff\x1b[31m,good=1,good=evil"),
    (b"tracestate", b"evil" * 1000),
    (b"baggage", b",".join(b"evil%d" % number for number in range(900))),
    (b"baggage", b"evil one=1,\xff=evil,good=1,evil;a=1," + b"k=" + b"evil" * 1100),
    (b"baggage", b",".join(b"good%d=1" % number for number in range(300))),
    (b"baggage", b"evil" * 5000),
    (b"baggage", b"good=" + b":" * 3000),  # well-formed, and too long as the SDK writes it
]


@pytest.fixture(autouse=True)
def every_line(caplog):
    caplog.set_level(logging.DEBUG, "opentelemetry")


@pytest.mark.parametrize("flags", [b"00", b"01", None])
def test_what_a_client_makes_up_is_neither_told_nor_passed_on(traced, work, collector, caplog, flags):
    traces = traced(install=True, sample_ratio=0.5)
    sent = []

    def predict():
        with trace.get_tracer("mine").start_as_current_span("own"):
            sent.append(traces.outgoing())
        sent.append(traces.outgoing())

    context = {} if flags is None else {b"traceparent": PARENT % flags}
    for name, value in HOSTILE * 3:
        work(traces).one(headers=context | {name: value}, predict=predict)
    traces.close(5)
    assert not caplog.records
    assert len(sent) == 2 * 3 * len(HOSTILE)
    assert "evil" not in repr(sent)
    assert b"evil" not in collector.received
    assert {span.trace_state for span in collector.spans} <= {"", "good=1"}
    assert all(len(headers.get("baggage", "").split(",")) <= 64 for headers in sent)


def test_what_a_predictors_libraries_say_of_it_is_told_once_a_minute(traced, work, caplog):
    traces = traced(install=True, sample_ratio=0)
    headers = {b"baggage": b"good=" + b":" * 3000}
    for _ in range(20):
        work(traces).one(headers=headers, predict=lambda: propagate.inject({}))
    assert len(caplog.records) <= 1
    before = len(caplog.records)
    propagate.extract({"tracestate": "", "baggage": "not of a request"})
    assert len(caplog.records) == before + 1


def test_other_propagators_get_nothing_else(traced, work, monkeypatch):
    monkeypatch.setattr(propagate, "get_global_textmap", W3CBaggagePropagator)
    seen = []
    headers = {b"baggage": b",".join(b"good%d=1" % number for number in range(70))}
    work(traced()).one(headers=headers, predict=lambda: seen.append(len(baggage.get_all())))
    assert seen == [64]


def test_what_other_propagators_say_of_headers_is_not_told(traced, work, monkeypatch, caplog):
    logger = logging.getLogger("opentelemetry.propagators.of.ours")

    class Complaining(W3CBaggagePropagator):
        fields = frozenset({"x-trace"})

        def extract(self, carrier, context=None, getter=None):
            logger.warning("no trace: %s", carrier["x-trace"])
            return context

        def inject(self, carrier, context=None, setter=None):
            logger.warning("no trace to pass on")

    monkeypatch.setattr(propagate, "get_global_textmap", Complaining)
    traces = traced()
    work(traces).one(headers={b"x-trace": b"evil"}, predict=traces.outgoing)
    assert not caplog.records
    logger.warning("of somebody else")
    assert len(caplog.records) == 1


def test_baggage_that_is_well_formed_goes_on_whatever_is_beside_it(traced, work):
    seen = []
    headers = {b"baggage": b"no way,team=blue;p=1, \xff=1"}
    work(traced()).one(headers=headers, predict=lambda: seen.append(dict(baggage.get_all())))
    assert seen == [{"team": "blue;p=1"}]
