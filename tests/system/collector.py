"""Collectors of traces: a receiver that tells what it was sent, and a real collector in front of it."""

from __future__ import annotations

import gzip
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from .conftest import DEADLINE_S, eventually

PROTOCOLS = ("http/protobuf", "grpc")
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Receiver:
    """Takes spans by OTLP over HTTP and gRPC, and keeps those that it said yes to.

    Args:
        manner: ``prompt``; ``slow``, takes `delay` seconds over each request; ``broken``, answers that it is
            not available; or ``silent``, never answers, not even at the end.
        delay: see there.
    """

    def __init__(self, manner="prompt", delay=1.0):
        self.manner = manner
        self.requests = 0
        """How many have come."""
        self._delay = delay
        self._taken = []
        self._spans = []
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._started = False
        self._http = _HttpServer(self)
        self._grpc = grpc.server(ThreadPoolExecutor(8), handlers=(_GrpcHandler(self),))
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")

    def start(self):
        self._started = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._grpc.start()
        return self

    def stop(self):
        self._ends.set()
        if self._started:
            self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(grace=None).wait()

    def url(self, protocol="http/protobuf"):
        port = self._grpc_port if protocol == "grpc" else self._http.server_port
        return f"http://127.0.0.1:{port}"

    @property
    def spans(self):
        """All spans so far, as `flat` ones."""
        with self._lock:
            taken, self._taken = self._taken, []
            for request in taken:
                self._spans += flat(request)
            return list(self._spans)

    def traces(self):
        """The spans by trace."""
        traces = {}
        for span in self.spans:
            traces.setdefault(span["trace_id"], []).append(span)
        return traces

    def take(self, data):
        """Whether these spans are taken; None for no answer at all."""
        with self._lock:
            self.requests += 1
        if self.manner == "silent":
            self._ends.wait()
            return None
        if self.manner == "slow":
            self._ends.wait(self._delay)
        if self.manner == "broken":
            return False
        request = ExportTraceServiceRequest.FromString(data)
        with self._lock:
            self._taken.append(request)
        return True


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, receiver):
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _HttpHandler)

    def handle_error(self, request, client_address):
        """A client that has gone is none."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        taken = self.path == "/v1/traces" and self.server.receiver.take(data)
        if taken is None:
            self.close_connection = True
            return
        body = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if taken else 500)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing."""


class _GrpcHandler(grpc.GenericRpcHandler):
    def __init__(self, receiver):
        self._receiver = receiver

    def service(self, handler_call_details):
        return (
            grpc.unary_unary_rpc_method_handler(self._export)
            if handler_call_details.method == _EXPORT
            else None
        )

    def _export(self, data, context):
        if not self._receiver.take(data):
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return ExportTraceServiceResponse().SerializeToString()


def flat(request):
    """The spans of one export: mappings of plain values; ids in hexadecimal, times in nanoseconds."""
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex() or None,
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    "status_message": span.status.message,
                    "attributes": _attributes(span.attributes),
                    "events": [(event.name, _attributes(event.attributes)) for event in span.events],
                    "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    "state": span.trace_state,
                    "scope": of_scope.scope.name,
                    "resource": resource,
                }


def _attributes(pairs):
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return kind and getattr(value, kind)


# A real one

_PACKAGE = importlib.util.find_spec("rotel")
_AGENT = _PACKAGE and Path(_PACKAGE.origin).with_name("rotel-agent")
_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    # It is linked with the Python library of the version that its wheel is for.
    "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or "",
}


def _does_not_run():
    if not (_AGENT and _AGENT.exists()):
        return "it is not installed"
    said = subprocess.run([_AGENT, "version"], env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    return said.returncode and said.stderr.strip()


needs_rotel = pytest.mark.skipif(bool(_reason := _does_not_run()), reason=f"rotel does not run: {_reason}")


class Collector:
    """rotel, which takes spans by HTTP and gRPC, gathers them and sends them on to a receiver.

    Args:
        folder: for its files.
        receiver: where it exports to; by default one of its own.
    """

    def __init__(self, folder, receiver=None):
        self.receiver = receiver or Receiver()
        self._folder = folder
        self._process = None
        self._ports = {}

    @property
    def said(self):
        return (self._folder / "rotel.log").read_text()

    def start(self):
        self.receiver.start()
        # It takes no port 0. A port that was free a moment ago may be taken: then with others.
        for _ in range(5):
            self._launch()
            eventually(lambda: self._process.poll() is not None or self._listens(), "the start of rotel")
            if self._process.poll() is None:
                return self
        raise AssertionError(self.said)

    def stop(self):
        """Ends it; what it has taken goes to the receiver before."""
        self.end_agent()
        self.receiver.stop()

    def end_agent(self):
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(DEADLINE_S)

    def url(self, protocol="http/protobuf"):
        return f"http://127.0.0.1:{self._ports[protocol]}"

    @property
    def spans(self):
        return self.receiver.spans

    def traces(self):
        return self.receiver.traces()

    def _launch(self):
        self._ports = dict(zip(PROTOCOLS, free_ports(2), strict=True))
        options = {
            "pid-file": self._folder / "rotel.pid",
            "log-file": self._folder / "rotel-daemon.log",
            "otlp-http-endpoint": f"127.0.0.1:{self._ports['http/protobuf']}",
            "otlp-grpc-endpoint": f"127.0.0.1:{self._ports['grpc']}",
            "exporter": "otlp",
            "otlp-exporter-protocol": "http",
            "otlp-exporter-endpoint": self.receiver.url(),
            "otlp-exporter-retry-initial-backoff": "100ms",
            "batch-timeout": "50ms",
        }
        with (self._folder / "rotel.log").open("a") as log:
            self._process = subprocess.Popen(
                [_AGENT, "start", *(f"--{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_ENVIRONMENT,
                start_new_session=True,
            )

    def _listens(self):
        return all(map(_connects, self._ports.values()))


def _connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_ports(count):
    """So many ports that nothing listens on, outside the range from which port 0 is given."""
    chosen = []
    while len(chosen) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in chosen:
            chosen.append(port)
    return chosen
