"""What a scrape of the data port gets, over both ways in and with no supervisor to ask."""

from __future__ import annotations

import asyncio
import gzip
import threading

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

COUNTING = """
from prometheus_client import Counter, Gauge, Histogram

rows = Counter("shop_rows", "Rows seen.", ["kind"])
last = Gauge("shop_last", "Rows of the last call.")


class Predictor:
    def predict(self, X):
        rows.labels(kind="any").inc(len(X))
        last.set(len(X))
        return X.sum(axis=1)
"""


@pytest.fixture(autouse=True)
def registry():
    """Takes what a test's predictor registers out of the process's registry again."""
    registry = prometheus_client.REGISTRY
    before = set(registry._collector_to_names)
    yield registry
    for collector in set(registry._collector_to_names) - before:
        registry.unregister(collector)


class Hanging:
    """A collector that waits for a gate."""

    def __init__(self, gate):
        self.gate = gate

    def describe(self):
        return []

    def collect(self):
        self.gate.wait()
        return []


class Raising(Hanging):
    def collect(self):
        raise ValueError("no")


def samples(families):
    return {
        (sample.name, *sorted(sample.labels.items())): sample
        for family in families
        for sample in family.samples
    }


def test_a_user_s_own_metrics_are_there_as_they_are_now(serving, run):
    async def scenario():
        async with serving(COUNTING, "Predictor") as server:
            await server.predict([1, 2, 3])
            return (await server.client.get("/metrics")).text

    found = samples(parse_text(run(scenario())))
    assert found["shop_rows_total", ("kind", "any")].value == 3
    assert found["shop_last", ("worker", "0")].value == 3
    assert not any(name.endswith("_created") for name, *_ in found)


def test_what_this_process_takes_is_there_under_the_standard_names(serving, run):
    async def scenario():
        async with serving() as server:
            return (await server.client.get("/metrics")).text

    found = samples(parse_text(run(scenario())))
    assert found["process_resident_memory_bytes", ("worker", "0")].value > 10e6
    assert found["process_open_fds", ("worker", "0")].value > 3
    assert ("python_gc_collections_total", ("generation", "0"), ("worker", "0")) in found


def test_each_format_is_given_to_whoever_asks_for_it(serving, run):
    async def scenario():
        async with serving() as server:
            await server.predict([1])
            plain = await server.client.get("/metrics", headers={"accept-encoding": "identity"})
            openmetrics = await server.client.get("/metrics", headers=OPENMETRICS)
            zipped = server.client.build_request("GET", "/metrics", headers={"accept-encoding": "gzip"})
            zipped = await server.client.send(zipped, stream=True)
            raw = b"".join([chunk async for chunk in zipped.aiter_raw()])
            return plain, openmetrics, zipped.headers, raw

    plain, openmetrics, headers, raw = run(scenario())
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "content-encoding" not in plain.headers
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert headers["content-encoding"] == "gzip"
    assert len(raw) == int(headers["content-length"])
    assert {response.headers["vary"] for response in (plain, openmetrics)} == {"accept, accept-encoding"}
    predicted = ("mlserver_predictions_total", ("model", "sums"))
    for families in (
        parse_text(plain.text),
        parse_openmetrics(openmetrics.text),
        parse_text(gzip.decompress(raw).decode()),
    ):
        assert samples(families)[predicted].value == 1


def test_head_has_the_headers_of_get_and_no_body(serving, run):
    async def scenario():
        async with serving() as server:
            return await server.client.head("/metrics", headers={"accept-encoding": "identity"})

    head = run(scenario())
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/plain")
    assert int(head.headers["content-length"]) > 1000
    assert head.content == b""


def test_what_can_be_known_at_start_is_there_at_zero(serving, run):
    async def scenario():
        async with serving() as server:
            return (await server.client.get("/metrics")).text

    found = samples(parse_text(run(scenario())))
    for status in ("200", "400", "413", "415", "422", "429", "499", "500", "503", "504"):
        labels = (("endpoint", "/predict"), ("method", "POST"), ("status", status))
        assert found["mlserver_requests_total", *labels].value == 0
    for phase in ("decode", "queue", "predict", "encode"):
        assert found["mlserver_request_phase_duration_seconds_count", ("phase", phase)].value == 0
    for reason in ("queue_full", "overloaded", "not_ready"):
        assert found["mlserver_rejected_requests_total", ("reason", reason)].value == 0
    assert found["mlserver_predictions_total", ("model", "sums")].value == 0
    assert found["mlserver_queue_depth",].value == 0


def test_no_series_appears_with_the_first_requests_and_errors(serving, run):
    async def scenario():
        async with serving() as server:
            first = (await server.client.get("/metrics")).text
            await server.predict([1])
            await server.predict([1], "/predict_proba")
            await server.predict([-1])
            await server.client.post("/predict", content=b"{", headers={"content-type": "application/json"})
            await server.client.post("/predict", content=b"x")
            await server.client.post("/predict", json={"ndarray": [[1]]})
            for path in ("/healthz", "/readyz", "/startupz", "/info", "/docs", "/openapi.json", "/nowhere"):
                await server.client.get(path)
            await server.client.get("/predict")
            return first, (await server.client.get("/metrics")).text

    first, last = (set(samples(parse_text(text))) for text in run(scenario()))
    assert last - first == set()


def test_the_phases_of_requests_add_up_to_their_durations(serving, run):
    async def scenario():
        async with serving() as server:
            for _ in range(20):
                await server.predict([1, 2])
            return (await server.client.get("/metrics")).text

    found = samples(parse_text(run(scenario())))

    def of_phases(what):
        name = f"mlserver_request_phase_duration_seconds_{what}"
        return [found[name, ("phase", phase)].value for phase in ("decode", "queue", "predict", "encode")]

    duration = ("endpoint", "/predict"), ("method", "POST")
    assert of_phases("count") == [20] * 4
    assert sum(of_phases("sum")) == pytest.approx(
        found["mlserver_request_duration_seconds_sum", *duration].value
    )
    assert found["mlserver_predictions_total", ("model", "sums")].value == 40
    assert found["mlserver_batch_rows_sum", ("model", "sums")].value == 40


@pytest.mark.parametrize(("flags", "expected"), [("01", {TRACE}), ("00", set())])
def test_a_request_of_a_sampled_trace_is_an_exemplar(serving, run, flags, expected):
    async def scenario():
        async with serving() as server:
            header = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-{flags}"}
            await server.client.post("/predict", json={"ndarray": [[1, 2, 3]]}, headers=header)
            return (await server.client.get("/metrics", headers=OPENMETRICS)).text

    found = samples(parse_openmetrics(run(scenario())))
    marked = {name: sample.exemplar for (name, *_), sample in found.items() if sample.exemplar}
    assert {exemplar.labels["trace_id"] for exemplar in marked.values()} == expected
    if expected:
        assert "mlserver_request_duration_seconds_bucket" in marked


def test_a_user_s_collector_that_hangs_or_raises_takes_nothing_else_away(serving, run, registry):
    gate = threading.Event()

    async def scenario():
        async with serving(COUNTING, "Predictor") as server:
            await server.predict([1, 2, 3])
            await server.client.get("/metrics")
            registry.register(Raising(gate))
            registry.register(Hanging(gate))
            try:
                answers = [await server.client.get("/metrics") for _ in range(3)]
            finally:
                gate.set()
            return answers

    for answer in run(scenario()):
        assert answer.status_code == 200
        found = samples(parse_text(answer.text))
        assert found["shop_rows_total", ("kind", "any")].value == 3
        assert found["mlserver_requests_total", *PREDICTED].value == 1


PREDICTED = (("endpoint", "/predict"), ("method", "POST"), ("status", "200"))


def test_chosen_buckets_are_the_ones_there_are(serving, run):
    buckets = {"request_duration_seconds": [0.5, 60], "batch_rows": [3]}

    async def scenario():
        async with serving(observability={"buckets": buckets}) as server:
            await server.predict([1, 2, 3, 4])
            return (await server.client.get("/metrics")).text

    found = samples(parse_text(run(scenario())))

    def bounds(name):
        return [
            dict(labels)["le"] for found_name, *labels in found if found_name == f"mlserver_{name}_bucket"
        ]

    assert set(bounds("request_duration_seconds")) == {"0.5", "60.0", "+Inf"}
    assert bounds("batch_rows") == ["3.0", "+Inf"]
    assert len(set(bounds("prediction_duration_seconds"))) == 15
    assert found["mlserver_batch_rows_bucket", ("le", "3.0"), ("model", "sums")].value == 0
    assert found["mlserver_batch_rows_bucket", ("le", "+Inf"), ("model", "sums")].value == 1


def test_threads_of_snapshots_end_with_the_application(serving, run):
    def of_metrics():
        return [thread for thread in threading.enumerate() if thread.name.startswith("user-metrics")]

    async def scenario():
        async with serving() as server:
            await server.client.get("/metrics")
            return len(of_metrics())

    before = len(of_metrics())
    assert run(scenario()) == before + 2
    for thread in of_metrics():
        thread.join(5)
    assert len(of_metrics()) <= before


def test_without_ids_a_request_is_no_exemplar_of_its_trace(serving, run):
    async def scenario():
        async with serving(observability={"correlation_ids": False}) as server:
            header = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            await server.client.post("/predict", json={"ndarray": [[1, 2, 3]]}, headers=header)
            return (await server.client.get("/metrics", headers=OPENMETRICS)).text

    assert TRACE not in run(scenario())


def test_a_process_on_its_own_is_the_one_worker_as_soon_as_it_can_predict(serving, run):
    async def workers(server):
        text = (await server.client.get("/metrics")).text
        return samples(parse_text(text))["mlserver_workers",].value

    async def scenario():
        async with serving(start=False) as server:
            server.app._starting = asyncio.get_running_loop().create_future()  # a start that takes its time
            before = await workers(server)
            server.app._starting = None
            await server.app.start()
            return before, await workers(server)

    assert run(scenario()) == (0, 1)


def test_a_collector_that_hangs_is_found_out_by_the_clock_and_not_by_scrapes(
    serving, run, registry, monkeypatch
):
    monkeypatch.setattr("mlserver.exposition.alone.TICK_S", 0.01)
    gate = threading.Event()

    async def scenario():
        async with serving() as server:
            registry.register(Hanging(gate))
            try:
                while True:
                    found = samples(parse_text((await server.client.get("/metrics")).text))
                    if found["mlserver_signals_dropped_total", ("signal", "user_metrics")].value:
                        return True
            finally:
                gate.set()

    assert run(scenario())
