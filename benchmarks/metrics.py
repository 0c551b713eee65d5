"""What counting costs a worker: time for each request, and memory of its metric page.

Run as ``python benchmarks/metrics.py``. All built-in updates for one request: those of the observer, and the
levels as the pipeline writes them. Beside them the same updates made with ``prometheus_client``. Medians.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mlserver import paths, signals
from mlserver.config import make_config
from mlserver.errors import PredictionFailed
from mlserver.observers.metrics import Metrics
from mlserver.pages import Page, create_memory
from mlserver.serving.call import Batch, Call, Response, Trace

if TYPE_CHECKING:
    from mlserver.config import Config

TURNS = (1, 8, 32)
"""Calls that finish in one turn of the event loop, answered by one run."""
RUNS = 41
RUN_S = 0.01
TRAFFIC = {
    **dict.fromkeys(paths.PREDICTIONS, (200, 400, 413, 415, 422, 429, 499, 500, 503, 504)),
    **dict.fromkeys(paths.PROBES, (200, 503)),
    **dict.fromkeys((*paths.PAGES, "/metrics"), (200, 405)),
    paths.UNMATCHED: (404, 405, 431),
}
"""Ten routes and the statuses that they have."""


def median_us(statement: str, names: dict[str, object], calls: int) -> float:
    """The median over runs of the mean time of a call, where the statement is for so many of them."""
    timer = Timer(statement, globals=names)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(timer.repeat(RUNS, number)) / number / calls * 1e6


def finished(calls: int) -> tuple[list[Call], list[Batch]]:
    """A turn's calls as an idle or a busy server would see them, and the run that answered them."""
    wait = 0.0 if calls == 1 else 0.0008
    batch = Batch([], "predict", calls, started=10.00015 + wait, ended=10.0004 + wait)
    for number in range(calls):
        call = Call("POST", "/predict", 10.0, operation="predict", decoded=10.00005, input_shape=(1, 4))
        call.started, call.predicted, call.batch = batch.started, batch.ended, batch
        call.finished = batch.ended + 0.00005 + number * 1e-6
        call.response = Response(200, b"{}")
        batch.calls.append(call)
    return batch.calls, [batch]


def ours(calls: int) -> float:
    """Microseconds a request. A server that answers several at once has had them waiting before."""
    metrics = Metrics(Page.shared(create_memory()), a_config())
    turn, batches = finished(calls)
    levels = {"active": metrics.levels.active, "queued": metrics.levels.queued}
    names = {"metrics": metrics, "turn": turn, "batches": batches, "open_calls": {}, **levels}
    begin = "active[0] = len(open_calls)\n"
    wait = "" if calls == 1 else "queued[0] = len(open_calls)\n"
    once = ("" if calls == 1 else "queued[0] = 0\n") + "metrics(turn, batches)\nactive[0] = len(open_calls)"
    return median_us((begin + wait) * calls + once, names, calls)


def theirs(calls: int) -> float:
    """The same with the client, its children looked up once."""
    registry = CollectorRegistry()

    def counter(name: str, **labels: str) -> Counter:
        return Counter(name, "x", list(labels), registry=registry).labels(**labels)

    def histogram(metric: signals.Metric) -> Histogram:
        return Histogram(metric.name, "x", metric.labels, buckets=metric.buckets, registry=registry)

    requests = counter("requests", endpoint="/predict", method="POST", status="200")
    rows = counter("predictions", model="iris")
    duration = histogram(signals.REQUEST_DURATION).labels("/predict", "POST")
    phases = histogram(signals.REQUEST_PHASES)
    decode, queue, predict, encode = (phases.labels(phase) for phase in signals.PHASES)
    runs, batch_rows = (
        histogram(metric).labels("iris") for metric in (signals.PREDICTION_DURATION, signals.BATCH_ROWS)
    )
    active, queued = (Gauge(name, "x", registry=registry) for name in ("active", "queued"))
    turn, batches = finished(calls)
    waits = calls > 1

    def update() -> None:
        for _ in turn:
            active.inc()
            if waits:
                queued.inc()
        if waits:
            queued.set(0)
        for call in turn:
            requests.inc()
            duration.observe(call.finished - call.received)
            decode.observe(call.decoded - call.received)
            queue.observe(call.started - call.decoded)
            predict.observe(call.predicted - call.started)
            encode.observe(call.finished - call.predicted)
            rows.inc(1)
            active.dec()
        for batch in batches:
            runs.observe(batch.ended - batch.started)
            batch_rows.observe(batch.rows)

    return median_us("update()", {"update": update}, calls)


def a_config() -> Config:
    """A model's configuration with every setting of metrics at its default."""
    return make_config({"predictor": {"module": "iris", "class_name": "Iris"}}, Path())


def touched() -> tuple[float, int]:
    """Kibibytes of memory that a worker's page takes after typical traffic, and its series."""
    descriptor = create_memory()
    page = Page.shared(descriptor)
    metrics = Metrics(page, a_config())
    metrics(*finished(1))
    metrics(*finished(8))
    for route, statuses in TRAFFIC.items():
        for status in statuses:
            call = Call("POST" if route in paths.PREDICTIONS else "GET", route, 10.0, finished=10.001)
            call.response, call.trace = Response(status, b"{}"), Trace(f"{status:032x}")
            if status == 500:
                call.error = PredictionFailed("x")
                call.error.__cause__ = ValueError("x")
            metrics([call], [])
    kib = os.fstat(descriptor).st_blocks * 512 / 1024
    os.close(descriptor)
    return kib, len(list(page.read()))


def main() -> None:
    print("calls a turn   µs a request   prometheus_client   ratio")
    for calls in TURNS:
        mine, others = ours(calls), theirs(calls)
        print(f"{calls:12}   {mine:12.2f}   {others:17.2f}   {others / mine:5.1f}")
    kib, series = touched()
    print(f"\nA worker's page: {kib:g} KiB touched, {series} series, exemplars beside every histogram")


if __name__ == "__main__":
    main()
