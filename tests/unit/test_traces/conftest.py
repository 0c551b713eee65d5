"""A collector that the tests can ask, and traces that send to it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from mlserver.config import make_config
from mlserver.observers.traces import Traces
from mlserver.serving.call import Batch, Call, Response


class Collected:
    """What a collector has got."""

    def __init__(self):
        self.messages = []
        self.received = b""
        """All that came, as it came."""
        self.headers = []
        self.arrived = threading.Event()
        self.status = 200
        self.answer = threading.Event()
        self.answer.set()

    def take(self, body, headers):
        self.received += body
        self.headers.append(headers)
        self.arrived.set()
        self.answer.wait()
        if self.status == 200:
            self.messages.append(ExportTraceServiceRequest.FromString(body))
        return self.status

    @property
    def spans(self):
        return [
            span
            for message in self.messages
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span

    @property
    def resource(self):
        return attributes(self.messages[-1].resource_spans[0].resource)


def attributes(of):
    """The attributes of a span, an event or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@pytest.fixture(name="attributes")
def attributes_fixture():
    return attributes


@pytest.fixture
def collector():
    """A collector by HTTP."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            status = collected.take(body, {**self.headers, ":path": self.path})
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, address):
            """A client that closes its connection is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    collected.url = f"http://127.0.0.1:{server.server_port}"
    yield collected
    collected.answer.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def grpc_collector():
    """A collector by gRPC."""
    grpc = pytest.importorskip("grpc")
    collected = Collected()

    def export(request, context):
        metadata = dict(context.invocation_metadata())
        if collected.take(request, metadata) != 200:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        return ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export, response_serializer=ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    collected.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collected
    collected.answer.set()
    server.stop(None).wait()


@pytest.fixture
def configured(tmp_path):
    """Makes a configuration with these settings of tracing."""

    def configured(*, model=None, **tracing):
        settings = {"predictor": {"module": "iris", "class_name": "Iris"}, "model": model or {}}
        return make_config(settings | {"observability": {"tracing": {"enabled": True} | tracing}}, tmp_path)

    return configured


@pytest.fixture
def traced(collector, configured):
    """Makes traces that send to the collector, and counts what they lose."""
    made = []

    def traced(*, start=True, worker=3, redaction=None, model=None, install=False, **tracing):
        config = configured(model=model, **{"endpoint": collector.url} | tracing)
        lost = []
        traces = Traces(config, worker=worker, on_drop=lost.append, redaction=redaction)
        traces.lost = lost
        made.append(traces)
        if install:
            traces.install()
        if start:
            traces.start()
        return traces

    yield traced
    collector.answer.set()
    for traces in made:
        traces.close(5)
        if traces._exporter._thread is not None:
            traces._exporter._thread.join(10)


class Work:
    """Calls and runs as the server makes them."""

    def __init__(self, traces):
        self.traces = traces

    def call(self, *, headers=None, scope=None, method="POST", endpoint="/predict", **fields):
        given = {b"host": b"models.example.com:8000", b"user-agent": b"a client"} | (headers or {})
        its_scope = {
            "path": endpoint,
            "scheme": "http",
            "http_version": "1.1",
            "client": ("192.0.2.1", 40_000),
            "headers": tuple(given.items()),
        } | (scope or {})
        received = time.perf_counter()
        call = Call(method, endpoint, received, "an-id", given, its_scope, operation="predict", **fields)
        call.trace = self.traces.decide(given)
        call.decoded = received + 0.001
        call.input_shape = (1, 4)
        return call

    def run(self, *calls, predict=lambda: None, batch_id="", error=None):
        """One run of calls, in which ``predict`` is called as the predictor would be."""
        batch = Batch(list(calls), "predict", len(calls), id=batch_id or ("a-run" if len(calls) > 1 else ""))
        batch.started = time.perf_counter()

        def in_context():
            self.traces.enter(batch)
            predict()

        copy_context().run(in_context)
        batch.ended, batch.error = time.perf_counter(), error
        return batch

    def answer(self, *calls, batch=None, status=200, error=None):
        """Ends calls, in one turn with the run that answered them."""
        for call in calls:
            if batch is not None:
                call.batch, call.started, call.predicted = batch, batch.started, batch.ended
                call.output_shape = (1,)
            call.error = error
            call.finished = time.perf_counter()
            call.response = Response(status, b"")
        self.traces.observe(calls, [batch] if batch is not None else [])

    def one(self, *, predict=lambda: None, **fields):
        """One call, from its headers to its answer."""
        call = self.call(**fields)
        self.answer(call, batch=self.run(call, predict=predict))
        return call


@pytest.fixture
def work():
    return Work
