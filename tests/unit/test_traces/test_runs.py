"""Where runs are in their traces: the predictor's own spans, shared runs, what is sent on."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from contextvars import copy_context

import numpy as np
import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.seeds import SEEDS, snippet

from mlserver.lines.texts import hidden
from mlserver.redaction import Redaction
from mlserver.serving.call import Response

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = {b"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode()}
RANDOM = {b"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-03".encode()}
UNSAMPLED = {b"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00".encode()}


@pytest.fixture
def traces(traced):
    return traced(install=True)


def own_span():
    """A predictor's."""
    with trace.get_tracer("mine").start_as_current_span("own"):
        pass


@pytest.fixture
def seeds_predictor():
    """The seed's class, with its provider and without its exporter."""
    if not SEEDS.is_dir():
        pytest.skip(f"the seed specification is not at {SEEDS}")
    code = snippet("TracedPredictor")
    start, end = code.index("# Add Jaeger exporter"), code.index("# Instrument predictions")
    code = (code[:start] + code[end:]).replace(
        "from opentelemetry.exporter.jaeger import JaegerExporter\n", ""
    )
    names = {"__name__": "my_predictor"}
    exec(compile(code, "TracedPredictor", "exec"), names)

    class Predictor(names["TracedPredictor"]):
        model = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))

        def preprocess(self, X):
            return X

    return Predictor()


@pytest.mark.parametrize("calls", [1, 8])
def test_the_seeds_predictor(traces, work, collector, seeds_predictor, attributes, calls):
    working, rows = work(traces), np.full((calls, 4), 2.0)
    some = [working.call() for _ in range(calls)]
    working.answer(*some, batch=working.run(*some, predict=lambda: seeds_predictor.predict(rows)))
    traces.close(5)
    servers = collector.named("POST /predict")
    assert {span.trace_id.hex() for span in servers} == {call.trace.trace_id for call in some}
    (theirs,) = [
        span
        for span in collector.named("predict")
        if attributes(span).keys() == {"input.shape", "output.shape"}
    ]
    ours = [span for span in collector.named("predict") if span is not theirs]
    for name in ("preprocess", "model_inference"):
        assert collector.one(name).parent_span_id == theirs.span_id
    assert {span.parent_span_id for span in ours} == {span.span_id for span in servers}
    if calls == 1:
        assert theirs.parent_span_id == ours[0].span_id
        assert not collector.named("batch")
        return
    batch = collector.one("batch")
    assert theirs.parent_span_id == batch.span_id
    assert {link.span_id for link in batch.links} == {span.span_id for span in servers}
    assert attributes(batch)["mlserver.batch.requests"] == attributes(batch)["mlserver.batch.rows"] == calls
    for span in ours:
        assert attributes(span)["mlserver.batch.id"] == attributes(batch)["mlserver.batch.id"] == "a-run"
        assert [link.span_id for link in span.links] == [batch.span_id]


def test_a_shared_run_is_linked_to_what_is_sampled_of_it(traced, work, collector):
    traces = traced(sample_ratio=0)
    working = work(traces)
    some = [working.call(headers=headers) for headers in (SAMPLED, UNSAMPLED, {}, SAMPLED)]
    working.answer(*some, batch=working.run(*some))
    traces.close(5)
    assert {link.span_id.hex() for link in collector.one("batch").links} == {
        some[0].trace.span_id, some[3].trace.span_id
    }  # fmt: skip
    assert len(collector.named("POST /predict")) == len(collector.named("predict")) == 2


@pytest.mark.parametrize(("headers", "ratio"), [(UNSAMPLED, 1.0), ({}, 0.0)])
def test_a_run_that_is_not_sampled_has_no_spans_of_the_predictor(traced, work, collector, headers, ratio):
    traces = traced(install=True, sample_ratio=ratio)
    seen = []

    def predict():
        own_span()
        with trace.get_tracer("mine").start_as_current_span("outer") as span:
            seen.append(span.is_recording())
            seen.append(traces.outgoing()["traceparent"])
            seen.append(traces.fields())
        seen.append(traces.outgoing()["traceparent"])
        seen.append(traces.fields())

    work(traces).one(headers=headers, predict=predict)
    traces.close(5)
    assert collector.messages == []
    recording, inside, *fields = seen[:3] + seen[4:]
    outside = seen[3]
    assert not recording
    assert fields == [{}, {}]
    assert not int(inside[-2:], 16) & 1
    assert not int(outside[-2:], 16) & 1
    if headers:
        assert outside == UNSAMPLED[b"traceparent"].decode()
        assert inside.split("-")[1] == TRACE_ID


def test_a_shared_run_that_is_not_sampled_is_in_no_callers_trace(traced, work, collector):
    traces = traced(install=True, sample_ratio=0)
    working, seen = work(traces), []

    def predict():
        own_span()
        seen.append(traces.outgoing()["traceparent"])

    some = [working.call(headers=UNSAMPLED | {b"tracestate": b"a=1"}), working.call()]
    working.answer(*some, batch=working.run(*some, predict=predict))
    traces.close(5)
    assert collector.headers == []
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-02", seen[0])
    assert TRACE_ID not in seen[0]


def test_a_call_has_its_own_times_and_state_in_a_shared_run(traces, work, collector):
    working = work(traces)
    some = [working.call(headers=SAMPLED | {b"tracestate": b"a=1"}), working.call()]
    batch = working.run(*some)
    for call in some:
        call.batch, call.started, call.predicted = batch, call.decoded + 1, call.decoded + 3
        call.finished = call.decoded + 4
        call.response = Response(200, b"")
    traces.observe(some, [batch])
    traces.close(5)
    ours, other = sorted(collector.named("predict"), key=lambda span: span.trace_id.hex() != TRACE_ID)
    for span in (ours, other):
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(2, abs=1e-6)
    assert (ours.trace_state, other.trace_state) == ("a=1", "")


@pytest.mark.parametrize(
    ("headers", "flags"), [({}, "03"), ({b"baggage": b"a=1"}, "03"), (SAMPLED, "01"), (RANDOM, "03")]
)
def test_whether_an_id_is_random_is_said_as_its_maker_says_it(traces, work, headers, flags):
    seen = []
    work(traces).one(headers=headers, predict=lambda: seen.append(traces.outgoing()["traceparent"]))
    assert seen[0].endswith(f"-{flags}")


def test_outside_of_a_run_a_predictor_begins_traces_of_its_own(traces, collector):
    own_span()
    traces.close(5)
    assert collector.one("own").parent_span_id == b""


def test_a_predictor_that_seeds_chance_has_ids_of_its_own(traces, collector):
    for _ in range(2):
        random.seed(0)
        own_span()
    traces.close(5)
    first, second = collector.named("own")
    assert first.trace_id != second.trace_id
    assert first.span_id != second.span_id


def test_what_is_sent_on_is_the_innermost_span(traces, work, collector):
    seen = []

    def predict():
        seen.append((traces.outgoing(), traces.fields()))
        with trace.get_tracer("mine").start_as_current_span("own"):
            seen.append((traces.outgoing(), traces.fields()))

    headers = SAMPLED | {b"tracestate": b"a=1", b"baggage": b"team=blue"}
    work(traces).one(headers=headers, predict=predict)
    traces.close(5)
    for span, (sent, fields) in zip((collector.one("predict"), collector.one("own")), seen, strict=True):
        assert sent["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
        assert (sent["tracestate"], sent["baggage"]) == ("a=1", "team=blue")
        assert fields == {"trace_id": TRACE_ID, "span_id": span.span_id.hex()}
    assert traces.outgoing() == {}


@pytest.mark.parametrize("ratio", [0, 1])
@pytest.mark.parametrize("headers", [SAMPLED, UNSAMPLED, {}])
def test_baggage_reaches_the_predictor(traced, work, headers, ratio):
    seen = []
    working = work(traced(sample_ratio=ratio))
    for value in (b"team=blue, other=1", b"team=\xff", b""):
        given = headers | {b"baggage": value}
        working.one(headers=given, predict=lambda: seen.append(baggage.get_baggage("team")))
    assert seen == ["blue", None, None]


def test_tasks_and_threads_of_a_run_are_in_it(traces, work, collector):
    async def predict():
        await asyncio.gather(asyncio.to_thread(own_span), asyncio.create_task(asyncio.to_thread(own_span)))

    work(traces).one(predict=lambda: asyncio.run(predict()))
    traces.close(5)
    assert {span.parent_span_id for span in collector.named("own")} == {collector.one("predict").span_id}


def test_a_span_around_the_application_is_the_parent(traced, work, collector):
    traces = traced(install=True, worker=None)
    with trace.get_tracer("mine").start_as_current_span("own"):
        call = work(traces).one()
    assert traces.decide({}).parent_id is None
    unsampled = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(unsampled)):
        assert traces.decide({}) is None
        assert traces.decide(SAMPLED) is None
    traces.close(5)
    assert collector.one("POST /predict").parent_span_id == collector.one("own").span_id
    assert call.trace.trace_id == collector.one("own").trace_id.hex()


def test_processors_that_a_predictor_adds_get_every_span(traces, work, collector, caplog):
    class OfOurs(SpanProcessor):
        def on_end(self, span):
            if span.name != "own":
                raise RuntimeError("it is not mine")

        def shutdown(self):
            threading.Event().wait()

    exporter = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(OfOurs())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    work(traces).one(predict=own_span)
    traces.close(0.5)  # though another waits for ever
    assert "it is not mine" in caplog.text
    theirs = {
        (span.name, f"{span.context.span_id:016x}", span.kind.value + 1)
        for span in exporter.get_finished_spans()
    }
    assert theirs == {(span.name, span.span_id.hex(), span.kind) for span in collector.spans}
    assert len(theirs) == 6


def test_spans_of_the_predictor_hide_what_must_be_hidden(traces, work, collector):
    def predict():
        hidden.set(lambda text: text.replace("4711", "[REDACTED]"))
        with trace.get_tracer("mine").start_as_current_span("of 4711") as span:
            span.set_attributes({"text": "it is 4711", "number": 4711, "list": ["4711"], "other": 5})
            span.add_event("4711", {"text": "4711", "of 4711": 1})
            span.set_attribute("4711", 1)
            span.add_link(span.get_span_context(), {"of 4711": "4711"})
            raise ValueError("4711")

    with pytest.raises(ValueError, match="4711"):
        work(traces).one(predict=predict)
    traces.close(5)
    assert collector.one("of [REDACTED]").events[1].name == "exception"
    assert b"of [REDACTED]" in collector.received
    assert b"4711" not in collector.received


def test_outside_of_runs_the_patterns_hide_what_must_be_hidden(traced, collector):
    exporter = InMemorySpanExporter()
    traces = traced(redaction=Redaction((), (r"key-\d+",)), install=True)
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    with trace.get_tracer("mine").start_as_current_span("with key-4711") as span:
        span.set_attribute("key-4711", "key-4711")
    traces.close(5)
    assert collector.one("with [REDACTED]")
    assert b"4711" not in collector.received
    assert "4711" not in exporter.get_finished_spans()[0].to_json()


def test_a_span_that_cannot_be_read_costs_only_itself(traces, work, collector, monkeypatch, caplog):
    def fail(span):
        raise LookupError

    with monkeypatch.context() as patched:
        patched.setattr("mlserver.observers.traces.traces.size_of", fail)
        work(traces).one(predict=own_span)
    traces.close(5)
    assert traces.lost == [1]
    assert "LookupError" in caplog.text
    assert len(collector.spans) == 5


def test_an_application_that_comes_later_takes_the_place_of_an_earlier_one(traced, collector, monkeypatch):
    earlier = traced(install=True, model={"name": "one"}, sample_ratio=0)
    own_span()
    earlier.close(5)
    later = traced(install=True, model={"name": "two"})
    own_span()
    later.close(5)
    assert len(collector.spans) == 1
    assert collector.resource["service.name"] == "two"
    monkeypatch.delattr(TracerProvider, "_update_resource")  # which the SDK does not promise
    traced(install=True, model={"name": "three"}).close(5)


def test_a_span_that_cannot_be_encoded_costs_only_itself(traces, work, collector):
    def predict():
        with trace.get_tracer("mine").start_as_current_span("\ud800"):
            own_span()

    work(traces).one(predict=predict)
    traces.close(5)
    assert traces.lost == [1]
    assert len(collector.named("own")) == len(collector.named("POST /predict")) == 1


def test_a_run_leaves_nothing_behind(traces, work):
    before = trace.get_current_span()
    work(traces).one(predict=own_span)
    assert trace.get_current_span() is before
    assert copy_context().run(traces.outgoing) == {}
