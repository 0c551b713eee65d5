"""Metrics that users make with ``prometheus_client`` in their predictors, over several workers."""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.seeds import needs_seeds, snippet

from .conftest import Server
from .prometheus import PORTS, samples, total


@contextmanager
def serving(folder, predictor, **options):
    server = Server(folder)
    server.sent = []
    server.configure(predictor=predictor, **({"workers": 2} | options))
    try:
        yield server.start()
    finally:
        (folder / "gate").touch()
        server.end()


def predict(server, *rows):
    """The process id of the worker that answered. The first values of all rows are added to ``server.sent``."""
    response = httpx.post(server.url("predictions") + "/predict", json={"ndarray": rows})
    assert response.status_code == 200, response.text
    server.sent += [row[0] for row in rows]
    return response.json()["predictions"][0]


def to_each_worker(server, *rows):
    """Sends rows until every worker has had them."""
    missing = set(server.worker_pids.values())
    while missing:
        missing.discard(predict(server, *rows))


def scrape(server, port="management"):
    response = server.get("/metrics", at=port)
    assert response.status_code == 200
    return response.text


def chosen(server, port, series):
    """The samples of these series, as far as they are there."""
    said = samples(scrape(server, port))
    return {name: said[name] for name in series if name in said}


def of_one(text, name, **labels):
    """The samples of a name with these labels, by the label ``worker``."""
    return {
        sample.labels["worker"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


# The specification's own predictors

COMPLETED = """
class Rows:
    def predict(self, X):
        return X[:, 0].astype(int)

    def predict_proba(self, X):
        return np.stack([X[:, 1], 1 - X[:, 1]], axis=1)


class Cached(CachedPredictor):
    model = Rows()

    def is_cached(self, X):
        return X[0][0] == 7

    def get_from_cache(self, X):
        return [7] * len(X)


class Business(BusinessMetricsPredictor):
    model = Rows()

    def calculate_business_value(self, predictions):
        return 100.0 * sum(predictions)


class Predictor:
    def __init__(self):
        self.cached, self.business = Cached(), Business()

    def predict(self, X):
        self.cached.predict(X)
        self.business.predict(X)
        return [os.getpid()] * len(X)
"""


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    parts = [
        "import os",
        "import numpy as np",
        snippet("CachedPredictor"),
        snippet("BusinessMetricsPredictor"),
    ]
    with serving(tmp_path_factory.mktemp("seed"), "\n".join([*parts, COMPLETED])) as server:
        yield server


@needs_seeds
@pytest.mark.parametrize("port", PORTS)
def test_the_specifications_predictors_count_over_all_workers(seed, port, eventually):
    to_each_worker(seed, [7, 0.5])
    to_each_worker(seed, [1, 0.75], [2, 0.95])
    hits, misses = seed.sent.count(7), seed.sent.count(1)
    by_bound = {"0.5": 0, "0.7": 0, "0.8": 1, "0.9": 1, "0.95": 2, "0.99": 2, "1.0": 2, "+Inf": 2}
    expected = {
        "prediction_cache_hits_total": hits,
        "model_confidence_score_count": 2 * misses,
        "model_confidence_score_sum": pytest.approx(1.7 * misses),
        'predictions_by_class_total{predicted_class="7"}': hits,
        'predictions_by_class_total{predicted_class="2"}': misses,
        **{f'model_confidence_score_bucket{{le="{bound}"}}': n * misses for bound, n in by_bound.items()},
    }
    eventually(lambda: chosen(seed, port, expected) == expected, f"{expected}")
    assert of_one(scrape(seed, port), "model_business_value_dollars") == {"0": 300, "1": 300}


# All kinds

KINDS = """
import os
from pathlib import Path

from prometheus_client import REGISTRY, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

calls = Counter("calls", "Calls.", ["kind"])
sizes = Histogram("sizes", "Values of rows.", buckets=[1, 10, 100])
spans = Summary("spans", "Values of rows.")
about = Info("about", "What this is.")
state = Enum("state", "What it does.", states=["idle", "busy"])
gauges = {
    mode: Gauge(f"value_{mode}", "Last value.", multiprocess_mode=mode)
    for mode in ("all", "max", "min", "sum", "livesum", "mostrecent")
}
late = {}


class Computed(Collector):
    def describe(self):
        return []

    def collect(self):
        family = CounterMetricFamily("computed", "From a collector.", labels=["of"])
        family.add_metric(["calls"], Predictor.calls * 10)
        yield family
        yield GaugeMetricFamily("computed_now", "From a collector.", value=Predictor.calls)


REGISTRY.register(Computed())


class Predictor:
    calls = 0

    def __init__(self):
        about.info({"flavour": "plain"})

    def predict(self, X):
        value = float(X[0][0])
        Predictor.calls += 1
        calls.labels("one").inc()
        sizes.observe(value)
        spans.observe(value)
        state.state("busy")
        for gauge in gauges.values():
            gauge.set(value)
        if "late" not in late:
            late["late"] = Counter("late", "Made when it was needed.")
        late["late"].inc()
        return [os.getpid()] * len(X)
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("kinds"), KINDS) as server:
        yield server


@pytest.mark.parametrize("port", PORTS)
def test_what_adds_up_is_added_up_over_the_workers(kinds, port, eventually):
    to_each_worker(kinds, [5.0])
    to_each_worker(kinds, [0.5])
    expected = summed(kinds.sent)
    eventually(lambda: chosen(kinds, port, expected) == expected, f"{expected}")


def summed(sent):
    """What the counters and histograms say after these values."""
    return {
        'calls_total{kind="one"}': len(sent),
        'sizes_bucket{le="1.0"}': len([value for value in sent if value <= 1]),
        'sizes_bucket{le="10.0"}': len([value for value in sent if value <= 10]),
        'sizes_bucket{le="+Inf"}': len(sent),
        "sizes_count": len(sent),
        "sizes_sum": sum(sent),
        "spans_count": len(sent),
        "spans_sum": sum(sent),
        "late_total": len(sent),
        'computed_total{of="calls"}': 10 * len(sent),
    }


def test_gauges_are_joined_as_their_modes_say(kinds, eventually):
    pids = {pid: slot for slot, pid in kinds.worker_pids.items()}
    last, recent = {}, 10.0
    while len(last) < 2:
        recent += 1
        last[str(pids[predict(kinds, [recent])])] = recent
        # Which value is the most recent one is known once a snapshot a second.
        eventually(
            lambda recent=recent: total(scrape(kinds), "value_mostrecent") == recent,
            f"value_mostrecent == {recent}",
        )

    def settled():
        text = scrape(kinds)
        assert of_one(scrape(kinds, "predictions"), "value_all").keys() == {"0", "1"}
        return text if of_one(text, "value_all") == last else None

    text = eventually(settled, f"value_all == {last}")
    assert total(text, "value_max") == max(last.values())
    assert total(text, "value_min") == min(last.values())
    assert total(text, "value_sum") == total(text, "value_livesum") == sum(last.values())
    assert total(text, "value_mostrecent") == recent
    assert of_one(text, "computed_now").keys() == {"0", "1"}


@pytest.mark.parametrize("port", PORTS)
def test_what_is_said_in_words_comes_once_or_for_each_worker(kinds, port, eventually):
    to_each_worker(kinds, [1.0])
    both = {"0": 1, "1": 1}
    eventually(lambda: of_one(scrape(kinds, port), "state", state="busy") == both)
    assert of_one(scrape(kinds, port), "state", state="idle") == {"0": 0, "1": 0}
    assert samples(scrape(kinds, port))['about_info{flavour="plain"}'] == 1


def test_both_ports_say_the_same(kinds, eventually):
    to_each_worker(kinds, [1.0])
    own = re.compile("calls|sizes|spans|about|state|value|late|computed")

    def said(port):
        return {series: value for series, value in samples(scrape(kinds, port)).items() if own.match(series)}

    assert said("predictions")
    eventually(lambda: said("predictions") == said("management"))


# The ends of workers


def test_what_a_worker_said_before_it_was_killed_stays(kinds, eventually):
    to_each_worker(kinds, [3.0])
    everything = summed(kinds.sent)
    eventually(
        lambda: chosen(kinds, "management", everything) == everything, "snapshots of all that was counted"
    )
    pids = kinds.worker_pids
    os.kill(pids[0], signal.SIGKILL)

    def replaced():
        for port in PORTS:
            assert chosen(kinds, port, everything) == everything
        return kinds.worker_pids.get(0, pids[0]) != pids[0] and total(scrape(kinds), "mlserver_workers") == 2

    eventually(replaced, "a successor")
    to_each_worker(kinds, [3.0])
    more = summed(kinds.sent)
    eventually(lambda: chosen(kinds, "management", more) == more, "the successor's on top of them")
    assert total(scrape(kinds), "value_livesum") == 6


def test_a_reload_loses_nothing_that_was_counted_before_it(kinds):
    """Not even what came after the last snapshot but the one of the drain."""
    to_each_worker(kinds, [4.0])
    everything = summed(kinds.sent)
    assert kinds.reload().status_code == 200
    for port in PORTS:
        assert chosen(kinds, port, everything) == everything


# What is broken

BROKEN = """
import os, threading

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

fine = Counter("fine", "All is well.")
fine_gauge = Gauge("fine_gauge", "All is well.")
lost = Gauge("lost_function", "Its function fails.")
lost.set_function(lambda: 1 / 0)
clash = Counter("mlserver_requests_total", "Not the server's.", ["endpoint", "method", "status"])
clash.labels("/predict", "POST", "200").inc(1e6)


class Raises(Collector):
    def describe(self):
        return []

    def collect(self):
        yield CounterMetricFamily("good_before", "Given before it fails.", value=3)
        raise RuntimeError("the collector is broken")


class Hangs(Collector):
    def describe(self):
        return []

    def collect(self):
        threading.Event().wait()
        return []


class Nonsense(Collector):
    def describe(self):
        return []

    def collect(self):
        yield 42
        family = Metric("nonsense", "Text for a number.", "gauge")
        family.add_sample("nonsense", {}, "many")
        yield family


for collector in (Raises(), Hangs(), Nonsense()):
    REGISTRY.register(collector)


class Predictor:
    def predict(self, X):
        fine.inc()
        fine_gauge.set(4)
        return [os.getpid()] * len(X)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("broken"), BROKEN) as server:
        yield server


def test_scrapes_go_on_without_the_metrics_that_are_broken(broken, eventually):
    to_each_worker(broken, [0.0])
    sent = len(broken.sent)
    for port in PORTS:
        eventually(
            lambda port=port: total(scrape(broken, port), "fine_total") == sent, f"the good ones at {port}"
        )
        text = scrape(broken, port)
        assert of_one(text, "fine_gauge") == {"0": 4, "1": 4}
        assert (
            total(text, "mlserver_requests_total", endpoint="/predict", method="POST", status="200") == sent
        )
        assert (
            total(text, "mlserver_request_duration_seconds_count", endpoint="/predict", method="POST") == sent
        )
        assert not [series for series in samples(text) if series.startswith(("nonsense", "lost"))]


def test_what_is_left_out_is_counted_and_said(broken, eventually):
    def dropped():
        return total(scrape(broken), "mlserver_signals_dropped_total", signal="user_metrics")

    first = eventually(dropped, "a loss that is counted")
    eventually(lambda: dropped() > first, "another one")
    for name in ("Raises", "Hangs", "Nonsense", "lost_function", "mlserver_requests"):
        eventually(
            lambda name=name: [
                line
                for line in broken.lines
                if line.get("logger") == "mlserver.metrics" and name in line["message"]
            ],
            f"a line about {name}",
        )


def test_the_counter_of_losses_is_there_at_0_before_any(pair):
    assert samples(scrape(pair))['mlserver_signals_dropped_total{signal="user_metrics"}'] == 0


def test_the_server_ends_in_order_although_a_collector_hangs(tmp_path):
    with serving(tmp_path, BROKEN, workers=1) as server:
        predict(server, [0.0])
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
