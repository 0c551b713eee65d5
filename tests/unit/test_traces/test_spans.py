"""The spans of a request, as a collector gets them."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from mlserver.errors import InternalError, InvalidInput, NotFound, PredictionFailed, PredictionTimeout
from mlserver.observers.traces.encoding import Encoding, encode
from mlserver.observers.traces.records import Raised, Run, size_of
from mlserver.observers.traces.spans import Finished, readable
from mlserver.serving.call import Trace

SERVER, ERROR, UNSET = 2, 2, 0
PARENT = {
    b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"tracestate": b"a=1,b=2",
}


@pytest.fixture
def traces(traced):
    return traced(model={"name": "iris", "version": "1.0"})


def failed_with(cause):
    """What a predictor's exception becomes."""
    try:
        raise cause
    except type(cause) as error:
        failure = PredictionFailed("The predictor failed.")
        failure.__cause__ = error
        return failure


def test_a_prediction(traces, work, collector, attributes):
    call = work(traces).one(headers=PARENT)
    traces.close(5)
    server, predict = collector.one("POST /predict"), collector.one("predict")
    assert server.kind == SERVER
    assert server.trace_id.hex() == call.trace.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert server.span_id.hex() == call.trace.span_id
    assert server.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {span.trace_state for span in collector.spans} == {"a=1,b=2"}
    assert (server.end_time_unix_nano - server.start_time_unix_nano) / 1e9 == pytest.approx(
        call.finished - call.received, abs=1e-8
    )
    assert attributes(server) == {
        "mlserver.request_id": "an-id",
        "mlserver.model": "iris",
        "mlserver.model.version": "1.0",
        "mlserver.worker": 3,
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "server.address": "models.example.com",
        "server.port": 8000,
        "client.address": "192.0.2.1",
        "user_agent.original": "a client",
        "network.protocol.version": "1.1",
    }
    assert attributes(predict) == {
        "mlserver.model": "iris",
        "mlserver.batch.rows": 1,
        "input.shape": "(1, 4)",
        "output.shape": "(1,)",
    }
    parts = {span.name for span in collector.spans if span.parent_span_id == server.span_id}
    assert parts == {"decode", "queue", "predict", "encode"}
    order = [collector.one(name) for name in ("decode", "queue", "predict", "encode")]
    for one, next_one in pairwise(order):
        assert one.end_time_unix_nano == next_one.start_time_unix_nano
    assert all(span.status.code == UNSET for span in collector.spans)
    assert [collector.resource[name] for name in ("service.name", "service.version")] == ["iris", "1.0"]


def test_a_path_that_there_is_not(traces, work, collector, attributes):
    call = work(traces).call(method="BREW", endpoint="unmatched", scope={"path": "/no\udcffsuch?"})
    call.decoded, call.input_shape = 0.0, None
    work(traces).answer(call, status=404, error=NotFound("There is nothing."))
    traces.close(5)
    (span,) = collector.spans
    given = attributes(span)
    assert (span.name, span.status.code) == ("HTTP", UNSET)
    assert (given["http.request.method"], given["http.request.method_original"]) == ("_OTHER", "BREW")
    assert given["error.type"] == "NotFound"
    assert "http.route" not in given
    assert not span.events


def test_what_the_predictor_raised_is_with_its_run(traces, work, collector, attributes):
    working, error = work(traces), failed_with(ZeroDivisionError("by nothing"))
    call = working.call()
    working.answer(call, batch=working.run(call, error=error.__cause__), status=500, error=error)
    traces.close(5)
    server, predict = collector.one("POST /predict"), collector.one("predict")
    assert (server.status.code, predict.status.code) == (ERROR, ERROR)
    assert attributes(server)["error.type"] == attributes(predict)["error.type"] == "ZeroDivisionError"
    (event,) = predict.events
    assert event.name == "exception"
    assert attributes(event)["exception.type"] == "ZeroDivisionError"
    assert attributes(event)["exception.message"] == "by nothing"
    assert "raise cause" in attributes(event)["exception.stacktrace"]
    assert not server.events


def test_what_else_went_wrong_is_with_the_request(traces, work, collector, attributes):
    call = work(traces).call()
    work(traces).answer(call, status=504, error=PredictionTimeout("No answer within 1 s."))
    traces.close(5)
    server = collector.one("POST /predict")
    assert server.status.code == ERROR
    (event,) = server.events
    assert attributes(event) == {
        "exception.type": "mlserver.errors.PredictionTimeout",
        "exception.message": "No answer within 1 s.",
    }
    assert {span.name for span in collector.spans} == {"POST /predict", "decode"}


def test_rows_that_the_model_refused_are_no_fault_of_the_server(traces, work, collector):
    working, error = work(traces), InvalidInput("These rows are not it.")
    call = working.call()
    working.answer(call, batch=working.run(call, error=error), status=422, error=error)
    traces.close(5)
    assert {span.status.code for span in collector.spans} == {UNSET}
    assert not any(span.events for span in collector.spans)


def test_a_run_that_outlived_its_call_still_has_its_span(traces, work, collector):
    working = work(traces)
    call = working.call()
    batch = working.run(call)
    working.answer(call, status=504, error=PredictionTimeout("No answer."))
    traces.observe([], [batch])
    traces.close(5)
    assert collector.one("predict").parent_span_id == collector.one("POST /predict").span_id


def test_an_exception_that_has_no_text_is_no_fault(traces, work, collector):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    call = work(traces).call()
    work(traces).answer(call, status=500, error=InternalError.because(Odd()))
    traces.close(5)
    assert len(collector.one("POST /predict").events) == 1


def test_a_call_that_cannot_be_read_costs_the_others_nothing(traces, work, collector, caplog):
    working = work(traces)
    good, bad = working.call(), working.call(scope={"client": 5})
    bad.started = bad.predicted = bad.decoded
    working.answer(bad, good)
    traces.close(5)
    assert [span.span_id.hex() for span in collector.named("POST /predict")] == [good.trace.span_id]
    assert traces.lost == [4]
    assert "they cannot be made: TypeError" in caplog.text


def test_nothing_of_a_request_that_is_not_sampled(traces, work, collector):
    call = work(traces).one(headers={b"traceparent": PARENT[b"traceparent"][:-1] + b"0"})
    assert call.trace is None
    traces.close(5)
    assert collector.messages == []


@pytest.mark.parametrize(
    ("headers", "scope", "expected"),
    [
        ({b"host": b"[2001:db8::1]:8000"}, {}, ("2001:db8::1", 8000)),
        ({b"host": b"models.example.com"}, {"scheme": "https"}, ("models.example.com", 443)),
        ({b"host": b""}, {"server": ("192.0.2.7", 9000)}, ("192.0.2.7", 9000)),
        ({b"host": b""}, {"server": ("/run/socket", None)}, ("/run/socket", None)),
        ({b"host": b"a\xff\n:999999"}, {}, ("a�\n:999999", 80)),
    ],
)
def test_who_was_asked(traces, work, collector, attributes, headers, scope, expected):
    work(traces).one(headers=headers, scope=scope)
    traces.close(5)
    given = attributes(collector.one("POST /predict"))
    assert (given.get("server.address"), given.get("server.port")) == expected


def test_what_a_client_makes_up_is_cut(traces, work, collector, attributes):
    scope = {"path": "/" + "\u00e9" * 30_000}
    work(traces).one(headers={b"user-agent": b"x" * 30_000}, scope=scope, method="B" * 30_000)
    traces.close(5)
    given = attributes(collector.one("HTTP /predict"))
    assert len(given["http.request.method_original"]) < 200
    assert len(given["user_agent.original"]) < 600
    assert len(given["url.path"].encode()) < 600


def test_a_record_counts_as_much_as_it_holds():
    trace = Trace("1" * 32, "2" * 16)
    run = Run(trace, "", 1, 1, 0, 0, None, None, None, False, None, ())
    tracemalloc.start()
    try:
        links = [Trace(f"{number:032x}", f"{number:016x}", f"{number:016x}") for number in range(1000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size_of(run._replace(links=links)) - size_of(run) >= taken
    raised = Raised("ValueError", "x" * 1000, "y" * 2000)
    assert size_of(run._replace(raised=raised)) - size_of(run) >= 3000


def ids(digits):
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
TRACES = st.builds(Trace, ids(32), ids(16))
FINISHED = st.builds(
    Finished,
    name=TEXTS,
    trace_id=ids(32),
    span_id=ids(16),
    parent_id=st.none() | ids(16),
    start=st.integers(1, 2**63),
    end=st.integers(1, 2**63),
    attributes=st.dictionaries(TEXTS, TEXTS | st.integers(-(2**63), 2**63 - 1), max_size=8).map(
        lambda given: list(given.items())
    ),
    is_server=st.booleans(),
    state=st.sampled_from(["", "a=1", "a=1,b=2"]),
    failed=st.booleans(),
    raised=st.none() | st.builds(Raised, TEXTS, TEXTS, TEXTS),
    links=st.lists(TRACES, max_size=3),
)


@given(st.lists(FINISHED, min_size=1, max_size=4))
def test_spans_are_encoded_as_the_sdk_encodes_them(spans):
    resource, scope = Resource({"service.name": "iris"}), InstrumentationScope("mlserver", "1")
    ours = Encoding(resource, scope).message([encode(span) for span in spans])
    theirs = encode_spans([readable(span, resource, scope) for span in spans])
    assert ExportTraceServiceRequest.FromString(ours) == theirs
