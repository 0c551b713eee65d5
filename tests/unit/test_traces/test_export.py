"""On the way to the collector: bounded, counted, and never in the way."""

from __future__ import annotations

import logging
import socket
import threading

import pytest
from opentelemetry import trace

from mlserver.errors import PredictionFailed
from mlserver.observers.traces.losses import Losses
from mlserver.observers.traces.queue import CLOSED, FULL, TOO_LARGE, Item, Queue
from mlserver.observers.traces.settings import Limits
from mlserver.pace import EVERY_S
from mlserver.redaction import Redaction


@pytest.fixture
def nobody():
    """The address of a port that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def silent():
    """The address of one that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def items(number, *, spans=1, size=1):
    return [Item(spans, size, None)] * number


def test_the_queue_is_bounded_in_spans():
    queue = Queue(Limits(spans=10))
    assert queue.put(items(4, spans=3)) == {FULL: 3}
    assert queue.put(items(3)) == {FULL: 2}
    assert (len(queue.take()), queue.spans, queue.size) == (4, 0, 0)


def test_the_queue_is_bounded_in_bytes():
    queue = Queue(Limits(bytes=100, delay_s=0))
    assert queue.put(items(3, size=40)) == {FULL: 1}
    assert queue.put(items(1, size=20)) == {}
    assert queue.size == 100


def test_one_span_that_no_message_could_hold_is_refused():
    assert Queue(Limits(batch_bytes=50)).put(items(1, size=51)) == {TOO_LARGE: 1}


def test_a_message_is_bounded_and_the_rest_waits():
    queue = Queue(Limits(batch_spans=10, batch_bytes=100, delay_s=0))
    queue.put([*items(7, spans=3), *items(3, size=60)])
    assert [len(queue.take()) for _ in range(5)] == [3, 3, 2, 1, 1]
    queue.close()
    assert queue.take() == []


def test_a_full_message_does_not_wait():
    queue = Queue(Limits(batch_spans=5, delay_s=3600))
    taken = []
    taking = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taking.start()
    for _ in range(5):
        queue.put(items(1))
    taking.join(10)
    assert [len(some) for some in taken] == [5]


def test_the_first_span_waits_no_longer_because_others_come():
    now, taken = [0.0], []
    queue = Queue(Limits(delay_s=3600), clock=lambda: now[0])
    for now[0] in (0.0, 3000.0, 4000.0):
        queue.put(items(1))
    taking = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taking.start()
    taking.join(10)
    assert [len(some) for some in taken] == [3]


def test_spans_come_within_the_delay(traced, work, collector):
    work(traced()).one()
    assert collector.arrived.wait(10)


def test_a_burst_is_not_lost(traced, work, collector):
    traces = traced(start=False)
    working = work(traces)
    calls = [working.call() for _ in range(64)]
    batch = working.run(*calls)
    for _ in range(204):
        working.answer(*calls, batch=batch)
    traces.start()
    traces.close(60)
    assert len(collector.spans) == 204 * (64 * 5 + 1)
    assert len(collector.spans) > 65_000
    assert traces.lost == []


@pytest.mark.parametrize("status", [200, 400])
def test_grpc(traced, work, grpc_collector, status, caplog):
    grpc_collector.status = status
    traces = traced(protocol="grpc", endpoint=grpc_collector.url, install=True)

    def predict():
        with trace.get_tracer("mine").start_as_current_span("own"):
            pass

    work(traces).one(predict=predict)
    traces.close(5)
    if status == 200:
        assert {span.name for span in grpc_collector.spans} == {
            "POST /predict", "decode", "queue", "predict", "encode", "own"
        }  # fmt: skip
        assert traces.lost == []
    else:
        assert sum(traces.lost) == 6
        assert "PERMISSION_DENIED" in caplog.text


def test_without_the_exporters_inner_doors_the_public_one_is_taken(
    traced, work, collector, grpc_collector, monkeypatch
):
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_exporter
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter

    from mlserver.observers.traces import transport

    found = []
    monkeypatch.setattr(transport, "hasattr", lambda *of: found.append(of), raising=False)
    by_http, by_grpc = traced(), traced(protocol="grpc", endpoint=grpc_collector.url)
    for traces, there in ((by_http, collector), (by_grpc, grpc_collector)):
        work(traces).one()
        traces.close(5)
        assert len(there.spans) == 5
        assert traces.lost == []
    assert len(found) == 2
    assert type(by_http._exporter._transport._exporter) is http_exporter.OTLPSpanExporter
    assert type(by_grpc._exporter._transport._exporter) is grpc_exporter.OTLPSpanExporter


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_is_away_is_told_of_once_and_holds_nothing_up(
    traced, work, nobody, caplog, protocol
):
    traces = traced(endpoint=nobody, protocol=protocol)
    for _ in range(3):
        work(traces).one()
    traces.close(4)
    assert sum(traces.lost) == 15
    (record,) = caplog.records
    assert record.name == "mlserver.traces"
    assert nobody in record.getMessage()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_silent_collector_is_waited_for_no_longer_than_said(traced, work, silent, protocol, caplog):
    traces = traced(endpoint=silent, protocol=protocol)
    work(traces).one()
    traces.close(0.5)
    traces.close(3600)
    assert sum(traces.lost) == 5
    assert [record.name for record in caplog.records] == ["mlserver.traces"]


def test_a_collector_that_is_slow_gets_all_at_the_end(traced, work, collector):
    collector.answer.clear()
    traces = traced()
    work(traces).one()
    assert collector.arrived.wait(10)
    for _ in range(10):
        work(traces).one()
    closing = threading.Thread(target=traces.close, args=(30,))
    closing.start()
    collector.answer.set()
    closing.join()
    assert len(collector.spans) == 55
    assert traces.lost == []


def test_a_collector_that_refuses_costs_what_it_refused(traced, work, collector, caplog):
    collector.status = 400
    traces = traced()
    work(traces).one()
    traces.close(5)
    assert sum(traces.lost) == 5
    (record,) = caplog.records
    assert "HTTP 400" in record.getMessage()


def test_what_comes_after_the_end_is_counted(traced, work, caplog):
    traces = traced()
    traces.close(5)
    work(traces).one()
    assert sum(traces.lost) == 5
    assert CLOSED in caplog.text


def test_what_was_never_sent_is_counted(traced, work):
    traces = traced(start=False)
    work(traces).one()
    traces.close(5)
    assert sum(traces.lost) == 5


def test_losses_are_told_once_a_minute(caplog):
    now, counted = [0.0], []
    losses = Losses("http://localhost:4318", counted.append, clock=lambda: now[0])
    losses.count(0, "nothing")
    losses.count(5, "the queue is full")
    losses.count(2, "the queue is full")
    now[0] = EVERY_S
    losses.count(1, "no answer")
    losses.count(4, "HTTP 400")
    losses.close()
    losses.close()
    assert counted == [5, 2, 1, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "5 spans are lost, for the collector at http://localhost:4318: the queue is full",
        "3 spans are lost, for the collector at http://localhost:4318: the queue is full (2); no answer (1)",
        "4 spans are lost, for the collector at http://localhost:4318: HTTP 400",
    ]


def test_a_line_of_losses_is_bounded(caplog):
    losses = Losses("http://localhost:4318", lambda spans: None)
    for number in range(100):
        losses.count(1, f"{number}" * 1000)
    losses.close()
    assert caplog.records[1].getMessage().startswith("99 spans are lost")
    assert caplog.records[1].getMessage().endswith("; other reasons (95)")
    assert len(caplog.records[1].getMessage()) < 2000


def test_only_the_exporters_thread_is_silenced(traced, work, collector, caplog):
    collector.answer.clear()
    work(traced()).one()
    assert collector.arrived.wait(10)
    for name in ("urllib3.connectionpool", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        logging.getLogger(name).warning("of somebody else")
    assert len(caplog.records) == 2


def test_redacted_values_are_in_no_span(traced, work, collector):
    redaction = Redaction(("ssn",), (r"key-\d+",))
    traces = traced(redaction=redaction)
    working = work(traces)
    body = b'{"records": [{"ssn": "123-45-6789", "age": 51.25}]}'
    headers = {b"user-agent": b"it key-4711", b"host": b"key-4711.example.com"}
    call = working.call(headers=headers, scope={"path": "/key-4711"}, method="key-4711")
    call.body = body
    error = ValueError("no 123-45-6789 with key-4711, age 51.25")
    failure = PredictionFailed("It failed.")
    failure.__cause__ = error
    working.answer(call, batch=working.run(call, error=error), status=500, error=failure)
    gone = working.call()
    batch = working.run(gone, error=error)  # its body is gone, too
    traces.observe([], [batch])
    traces.close(5)
    assert b"51.25" in collector.received
    assert b"6789" not in collector.received
    assert b"4711" not in collector.received
    assert sum(len(span.events) for span in collector.named("predict")) == 2
