"""What a real Prometheus makes of the metrics, held against what a client measured."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from bisect import bisect_left
from statistics import fmean

import httpx
import pytest
import yaml
from tests import seeds

from mlserver import signals

from .conftest import DEADLINE_S, Server
from .prometheus import EVERY_S, PORTS, PROMTOOL, Prometheus, needs_prometheus

pytestmark = needs_prometheus

STEPS = (0.035,) * 6 + (0.35,)
"""Seconds that predictions take, in turn: each in the middle of a bucket."""
CLIENTS = 4
LOAD_S = 6.0
WINDOW_S = 4.0
TOLERANCE = 0.2
"""Of a rate: Prometheus knows a counter only every half second, and extends what it knows to the window's ends."""
BOUNDS = (0.0, *signals.LATENCY_BUCKETS, float("inf"))

PREDICTOR = """
import time

import numpy as np


class Predictor:
    def predict(self, X):
        if X[0][0] < 0:
            raise ValueError("it was told to")
        time.sleep(X[0][0])
        return X.sum(axis=1)

    def predict_proba(self, X):
        if X[0][0] < 0:
            raise ValueError("it was told to")
        return np.stack([X[:, 0], 1 - X[:, 0]], axis=1)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Two workers, whose predictors sleep for as long as they are told."""
    server = Server(tmp_path_factory.mktemp("served"))
    server.configure(predictor=PREDICTOR, workers=2, api={"concurrency": CLIENTS})
    try:
        yield server.start()
    finally:
        server.end()


@pytest.fixture(scope="module")
def prometheus(served, tmp_path_factory):
    watching = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        yield watching.start(served)
    finally:
        watching.end()


def predict(server, first, path="/predict", client=httpx, **options):
    url = server.url("predictions") + path
    return client.post(url, json={"ndarray": [[first, 2.0]]}, timeout=DEADLINE_S, **options)


class Load:
    """Several clients that predict for a while; all that they measured."""

    def __init__(self, server):
        self.answers = []
        """When each answer came, in seconds since 1970, and the seconds that it took."""
        self._server = server
        self.ended = 0.0

    def run(self):
        threads = [threading.Thread(target=self._converse, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.answers.sort()
        self.ended = self.answers[-CLIENTS][0]
        return self

    def quantile(self, share):
        taken = sorted(seconds for _, seconds in self.answers)
        return taken[int(share * len(taken))]

    def mean(self):
        return fmean(seconds for _, seconds in self.answers)

    def within(self, begin, end):
        return sum(begin < at <= end for at, _ in self.answers)

    def _converse(self, number):
        start = time.monotonic()
        with httpx.Client() as client:
            while time.monotonic() - start < LOAD_S:
                began = time.perf_counter()
                assert predict(self._server, STEPS[number % len(STEPS)], client=client).status_code == 200
                self.answers.append((time.time(), time.perf_counter() - began))
                number += 1


@pytest.fixture(scope="module")
def load(served, prometheus, eventually):
    """A load that Prometheus has seen to its end, on both ports."""
    done = Load(served).run()
    last = f"mlserver_requests_total{{{OF_LOAD}}}"
    eventually(
        lambda: all(count >= len(done.answers) for count in prometheus.values(last)),
        "a scrape of the whole load",
    )
    return done


OF_LOAD = 'endpoint="/predict", method="POST", status="200"'
OF_ROUTE = 'endpoint="/predict", method="POST"'


def test_the_first_error_of_its_kind_is_an_increase(served, prometheus, eventually):
    series = 'mlserver_requests_total{endpoint="/predict_proba", method="POST", status="500"}'
    eventually(
        lambda: prometheus.values(f"count_over_time({series}[1m]) >= 2 and {series} == 0"), "two scrapes"
    )
    assert predict(served, -1, "/predict_proba").status_code == 500
    eventually(lambda: len(prometheus.values(f"increase({series}[1m]) > 0")) == len(PORTS), "an increase")
    # It may be extended to the end of the window by about one interval, and there were two of them at least.
    assert all(1 <= increase < 2 for increase in prometheus.values(f"increase({series}[1m])"))


def test_both_ports_are_up_throughout(prometheus, load):
    assert prometheus.values("up") == [1, 1]
    assert prometheus.values("min_over_time(up[1m])") == [1, 1]
    assert len(prometheus.values("min_over_time(scrape_samples_scraped[1m]) > 100")) == len(PORTS)


@pytest.mark.parametrize("port", PORTS)
def test_rate_is_what_the_client_counted_in_a_second(prometheus, load, port):
    rate = prometheus.value(
        f'rate(mlserver_requests_total{{{OF_LOAD}, job="{port}"}}[{WINDOW_S:g}s])', load.ended
    )
    assert rate == pytest.approx(load.within(load.ended - WINDOW_S, load.ended) / WINDOW_S, rel=TOLERANCE)


@pytest.mark.parametrize("port", PORTS)
def test_increase_is_what_the_client_counted(prometheus, load, port):
    """It may be extended by an interval at each end of the load."""
    increase = prometheus.value(f'increase(mlserver_requests_total{{{OF_LOAD}, job="{port}"}}[5m])')
    assert len(load.answers) <= increase <= len(load.answers) * (1 + 2 * EVERY_S / LOAD_S)
    counted = prometheus.value(f'mlserver_requests_total{{{OF_LOAD}, job="{port}"}}')
    assert counted == len(load.answers)


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("port", PORTS)
def test_quantiles_are_those_that_the_client_measured_as_far_as_buckets_tell(prometheus, load, port, share):
    """The client's bucket or the one below: its time has the way to the server in it, too."""
    buckets = f'mlserver_request_duration_seconds_bucket{{{OF_ROUTE}, job="{port}"}}'
    said = prometheus.value(f"histogram_quantile({share}, rate({buckets}[5m]))")
    index = bisect_left(BOUNDS, load.quantile(share))
    assert BOUNDS[max(index - 2, 0)] <= said <= BOUNDS[index]
    assert said >= BOUNDS[bisect_left(BOUNDS, 0.035 if share == 0.5 else 0.35) - 1]


def test_phases_and_runs_take_what_the_client_measured_and_no_longer(prometheus, load):
    def mean(name, labels):
        return prometheus.value(
            f'rate(mlserver_{name}_sum{{{labels}job="management"}}[5m])'
            f' / rate(mlserver_{name}_count{{{labels}job="management"}}[5m])'
        )

    predicting = mean("request_phase_duration_seconds", 'phase="predict",')
    whole = mean("request_duration_seconds", f"{OF_ROUTE},")
    least = fmean(STEPS) * (1 - TOLERANCE)
    assert least <= predicting <= whole <= load.mean()
    assert least <= mean("prediction_duration_seconds", "") <= whole


def test_the_exemplars_are_the_traces_that_the_client_sent(served, prometheus, eventually):
    sampled, unsampled, silent = (digit * 32 for digit in "abc")
    for trace, flags in ((sampled, "01"), (unsampled, "00")):
        headers = {"traceparent": f"00-{trace}-{'d' * 16}-{flags}"}
        assert predict(served, 1.2, headers=headers).status_code == 200

    def of_request(port):
        found = prometheus.exemplars(f'mlserver_request_duration_seconds_bucket{{{OF_ROUTE}, job="{port}"}}')
        return {exemplar["labels"]["trace_id"]: exemplar for exemplar in found}

    for port in PORTS:
        exemplar = eventually(lambda port=port: of_request(port).get(sampled), f"the exemplar at {port}")
        assert float(exemplar["value"]) >= 1.2
        assert exemplar["of"]["le"] == "2.5"
        assert float(exemplar["timestamp"]) == pytest.approx(time.time(), abs=60)
    everything = prometheus.exemplars('{job=~".+"}')
    assert sampled in {exemplar["labels"]["trace_id"] for exemplar in everything}
    assert not {unsampled, silent} & {exemplar["labels"]["trace_id"] for exemplar in everything}


# The expressions of dashboards and alerts


def left_hand_side(expr):
    return re.fullmatch(r"(.+?) (?:[<>]=?|[!=]=) \S+", expr)[1]


OF_CATALOGUE = {
    f"{metric.name}: {name}": expr.replace("$metric", metric.full_name("mlserver_"))
    for metric in signals.CATALOGUE
    for name, expr in (
        *((panel.title + " " + panel.expr, panel.expr) for panel in metric.panels),
        *((alert.name, left_hand_side(alert.expr)) for alert in metric.alerts),
    )
}


def of_seed():
    """The expressions of the specification's dashboards, and the left-hand sides of its alerts."""
    for block in seeds.blocks("json"):
        for panel in json.loads(block).get("dashboard", {}).get("panels", []):
            for target in panel["targets"]:
                yield target["expr"]
    for block in seeds.blocks("yaml"):
        if "alert:" in block:
            for group in yaml.safe_load(block)["groups"]:
                for rule in group["rules"]:
                    yield left_hand_side(rule["expr"])


OF_SEED = list(of_seed())


@pytest.fixture(scope="module")
def failures(served, load, prometheus, eventually):
    """Errors of several kinds beside the load, that Prometheus has seen."""
    assert predict(served, -1).status_code == 500
    assert predict(served, 1, "/nowhere").status_code == 404
    errors = 'mlserver_prediction_errors_total{error_type="ValueError"}'
    eventually(lambda: len(prometheus.values(f"increase({errors}[1m]) > 0")) == len(PORTS), "the errors")


@pytest.mark.usefixtures("failures")
@pytest.mark.parametrize("expr", OF_CATALOGUE.values(), ids=OF_CATALOGUE.keys())
def test_every_panel_and_alert_of_the_catalogue_has_data(prometheus, expr):
    assert prometheus.values(expr)


@pytest.mark.usefixtures("failures")
@seeds.needs_seeds
@pytest.mark.parametrize("expr", OF_SEED or ["none"])
def test_the_specifications_dashboards_and_alerts_have_data(prometheus, expr):
    assert len(OF_SEED) >= 9 + 4
    assert prometheus.values(expr)


@pytest.mark.usefixtures("failures")
def test_what_there_were_errors_of_is_above_0(prometheus):
    errors = prometheus.values("rate(mlserver_requests_total{status=~'4..|5..'}[5m]) > 0")
    assert len(errors) >= 2 * len(PORTS)
    assert prometheus.values("rate(mlserver_prediction_errors_total[5m]) > 0")


# Lint


@pytest.mark.usefixtures("failures")
@pytest.mark.parametrize("port", PORTS)
def test_promtool_has_nothing_to_say(served, port):
    text = served.get("/metrics", at=port).content
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
