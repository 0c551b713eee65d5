"""What tracing costs: time of requests that are not sampled and that are, memory without a collector.

Run as ``python benchmarks/tracing.py``. Not sampled: the decision, the hook of its run and the observer.
Sampled: CPU time of these and of all that the export thread does for the five spans, encoding and sending
to a receiver in another process. Medians.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from contextvars import copy_context
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING, Any

from mlserver.config import make_config
from mlserver.observers.traces import Traces
from mlserver.serving.call import Batch, Call, Response

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TURNS = (1, 8, 32)
"""Calls that finish in one turn of the event loop, answered by one run."""
RUNS = 41
RUN_S = 0.01
SAMPLED = 10_000
SAMPLED_RUNS = 5
PACE_S = 0.02
"""Between bursts, so that the queue never overflows."""
OFFERED = 1_000_000
UNSAMPLED = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
HEADERS = {
    b"host": b"models.example.com:8000",
    b"user-agent": b"python-requests/2.32.3",
    b"content-type": b"application/json",
    b"content-length": b"37",
}


class Receiver(BaseHTTPRequestHandler):
    """Takes everything."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


def receive(told: Connection) -> None:
    """Serves in a process of its own until that is ended."""
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        told.send(server.server_port)
        server.serve_forever()


def tracer(port: int, ratio: float, dropped: list[int] | None = None) -> Traces:
    """Traces as a worker has them."""
    endpoint = f"http://127.0.0.1:{port}"
    tracing = {"enabled": True, "endpoint": endpoint, "sample_ratio": ratio}
    config = make_config(
        {"predictor": {"module": "iris", "class_name": "Iris"}, "observability": {"tracing": tracing}}, Path()
    )
    return Traces(config, worker=0, on_drop=(dropped if dropped is not None else []).append)


def begun(traces: Traces, number: int, headers: dict[bytes, bytes]) -> Call:
    """A call as the server makes it of a request's headers."""
    scope = {"path": "/predict", "scheme": "http", "http_version": "1.1", "client": ("192.0.2.1", 40_000)}
    call = Call("POST", "/predict", time.perf_counter(), f"00066e5c8b3f21-{number:08x}", headers, scope)
    call.trace = traces.decide(headers)
    return call


def answered(traces: Traces, calls: list[Call]) -> Batch:
    """One run of calls, and the times that they would have."""
    batch = Batch(calls, "predict", len(calls), id="run" if len(calls) > 1 else "")
    copy_context().run(traces.enter, batch)
    now = time.perf_counter()
    batch.started, batch.ended = now - 0.0004, now - 0.0001
    for call in calls:
        call.decoded, call.input_shape, call.output_shape = call.received, (1, 4), (1,)
        call.batch, call.started, call.predicted, call.finished = batch, batch.started, batch.ended, now
        call.response = Response(200, b"{}")
    return batch


def unsampled_us(calls: int, *, with_parent: bool) -> float:
    """Microseconds a request; one traced request in a thousand would be the same within the digits shown."""
    traces = tracer(9, 0.0 if not with_parent else 1.0)
    headers = HEADERS | ({b"traceparent": UNSAMPLED} if with_parent else {})
    turn = [begun(traces, number, headers) for number in range(calls)]
    batches = [Batch(turn, "predict", calls, id="run" if calls > 1 else "")]
    assert all(call.trace is None for call in turn)
    names = {"decide": traces.decide, "enter": traces.enter, "observe": traces.observe, "headers": headers}
    names |= {"turn": turn, "batches": batches}
    statement = "decide(headers)\n" * calls + "enter(batches[0])\nobserve(turn, batches)"
    timer = Timer(statement, globals=names)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(copy_context().run(timer.repeat, RUNS, number)) / number / calls * 1e6


def sampled_us(port: int, calls: int) -> tuple[float, int]:
    """CPU microseconds a request, all threads together, and how many spans were lost."""
    took, dropped = [], list[int]()
    for _ in range(SAMPLED_RUNS):
        traces = tracer(port, 1.0, dropped)
        traces.start()
        at_start = spent = 0.0
        for burst in range(0, SAMPLED, 320):
            turns = [
                [begun(traces, burst + at + number, HEADERS) for number in range(calls)]
                for at in range(0, 320, calls)
            ]
            at_start = time.process_time()
            for turn in turns:
                for call in turn:
                    call.trace = traces.decide(call.headers)
                batch = answered(traces, turn)
                traces.observe(turn, [batch])
            spent += time.process_time() - at_start
            at_start = time.process_time()
            time.sleep(PACE_S)
            spent += time.process_time() - at_start
        at_start = time.process_time()
        traces.close(5)
        took.append((spent + time.process_time() - at_start) / SAMPLED)
    return median(took) * 1e6, sum(dropped)


def memory_mib() -> tuple[float, int, int]:
    """Growth of this process while a collector never answers; how many spans are lost, and how many wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dropped = list[int]()
        traces = tracer(silent.getsockname()[1], 1.0, dropped)
        traces.start()
        before, most = resident(), 0
        for number in range(OFFERED // 5):
            call = begun(traces, number, HEADERS)
            traces.observe([call], [answered(traces, [call])])
            if number % 1000 == 0:
                most = max(most, resident())
        lost = sum(dropped)
        started = time.monotonic()
        traces.close(3.0)
        assert time.monotonic() - started < 3.5
        assert sum(dropped) == OFFERED
    return (most - before) / 2**20, lost, OFFERED - lost


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    print("not sampled       µs a request")
    print("calls a turn   no parent   parent")
    for calls in TURNS:
        bare, parent = unsampled_us(calls, with_parent=False), unsampled_us(calls, with_parent=True)
        print(f"{calls:12}   {bare:9.2f}   {parent:6.2f}")

    spawn = multiprocessing.get_context("spawn")
    told, telling = spawn.Pipe(duplex=False)
    receiver = spawn.Process(target=receive, args=(telling,), daemon=True)
    receiver.start()
    port = told.recv()
    print("\nsampled, with its export\ncalls a turn   CPU µs a request   spans lost")
    for calls in TURNS:
        took, lost = sampled_us(port, calls)
        print(f"{calls:12}   {took:16.1f}   {lost:10}")
    receiver.terminate()

    grown, lost, kept = memory_mib()
    print(
        f"\nA collector that never answers, offered {OFFERED:,} spans: {grown:.0f} MiB more memory, "
        f"{kept:,} waiting, {lost:,} lost"
    )
    assert threading.active_count() < 10


if __name__ == "__main__":
    main()
