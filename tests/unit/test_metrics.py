"""The metrics observer and what a scrape makes of the pages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserver import signals
from mlserver.errors import NotFound, PredictionFailed
from mlserver.observers.metrics import MAX_SERIES, OVERFLOW, Exposition, Metrics
from mlserver.pages import PAGE_BYTES, Page
from mlserver.serving.call import Batch, Call, Response

CONFIG = SimpleNamespace(observability=SimpleNamespace(metrics_prefix="mlserver_"))


def a_call(status=200, *, endpoint="/predict", method="POST", seconds=0.003, error=None, batch=None):
    call = Call(method, endpoint, received=10.0)
    call.finished = 10.0 + seconds
    call.response = Response(status, b"{}")
    call.error, call.batch = error, batch
    return call


def samples(*pages):
    _, body = Exposition(CONFIG, pages).render("")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def requests(found, **labels):
    wanted = set(labels.items())
    return sum(
        value
        for (name, *rest), value in found.items()
        if name == "mlserver_requests_total" and wanted <= set(rest)
    )


@pytest.fixture
def page():
    return Page.private()


@pytest.fixture
def metrics(page):
    return Metrics(page, model="iris", version="1.0.0", endpoints=[("/predict", "POST")])


def test_each_finished_call_is_counted_once_by_route_method_and_status(page, metrics):
    metrics([a_call(), a_call(), a_call(422)], [])
    metrics([a_call(404, endpoint="unmatched", method="GET", error=NotFound("x"))], [])
    found = samples(page)
    assert requests(found, endpoint="/predict", method="POST", status="200") == 2
    assert requests(found, status="422") == 1
    assert requests(found, endpoint="unmatched", method="GET", status="404") == 1


def test_a_duration_falls_into_the_bucket_whose_upper_bound_includes_it(page, metrics):
    metrics([a_call(seconds=s) for s in (0.0004, 0.00050000001, 0.003, 11.0)], [])
    found = samples(page)

    def bucket(le):
        return found[
            "mlserver_request_duration_seconds_bucket",
            ("endpoint", "/predict"),
            ("le", le),
            ("method", "POST"),
        ]

    assert [bucket(le) for le in ("0.0005", "0.001", "0.0025", "0.005", "10.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    labels = (("endpoint", "/predict"), ("method", "POST"))
    assert found["mlserver_request_duration_seconds_count", *labels] == 4
    assert found["mlserver_request_duration_seconds_sum", *labels] == pytest.approx(11.0039)


def test_a_run_is_one_observation_however_many_calls_it_answered(page, metrics):
    batch = Batch([], "predict", 3, started=1.0, ended=1.5)
    metrics([a_call(batch=batch) for _ in range(3)], [batch])
    assert samples(page)["mlserver_prediction_duration_seconds_count", ("model", "iris")] == 1


def test_a_failed_prediction_is_counted_by_the_class_of_what_was_raised(page, metrics):
    error = PredictionFailed("x")
    error.__cause__ = ZeroDivisionError("division by zero")
    metrics([a_call(500, error=error, batch=Batch([], "predict", 1))], [])
    metrics([a_call(404, error=NotFound("x"))], [])
    found = {
        key: value for key, value in samples(page).items() if key[0] == "mlserver_prediction_errors_total"
    }
    assert found == {
        ("mlserver_prediction_errors_total", ("error_type", "ZeroDivisionError"), ("model", "iris")): 1
    }


def test_unknown_methods_are_folded(page, metrics):
    metrics([a_call(405, method=method) for method in ("BREW", "", "é" * 100)], [])
    assert requests(samples(page), method="OTHER", status="405") == 3


def test_label_sets_beyond_the_budget_are_counted_together(page, metrics):
    for number in range(MAX_SERIES + 50):
        error = PredictionFailed("x")
        error.__cause__ = type(f"Error{number}", (Exception,), {})()
        metrics([a_call(500, error=error, batch=Batch([], "predict", 1))], [])
    found = {
        key: value for key, value in samples(page).items() if key[0] == "mlserver_prediction_errors_total"
    }
    assert len(found) == MAX_SERIES + 1
    assert sum(found.values()) == MAX_SERIES + 50
    overflow = ("mlserver_prediction_errors_total", ("error_type", OVERFLOW), ("model", OVERFLOW))
    assert found[overflow] == 50


def test_counters_and_gauges_are_summed_over_workers_and_loaded_is_their_maximum():
    pages = [Page.private(), Page.private()]
    workers = [Metrics(page, model="iris", version="1") for page in pages]
    for worker in workers:
        worker([a_call(), a_call()], [])
        worker.levels.active[0] = 2.0
        worker.levels.model_loaded[0] = 1.0
    found = samples(*pages)
    assert requests(found) == 4
    assert found["mlserver_active_requests",] == 4
    assert found["mlserver_model_loaded", ("model", "iris"), ("version", "1")] == 1


def test_a_successor_keeps_the_counts_and_drops_the_gauges():
    memory = bytearray(PAGE_BYTES)
    first = Metrics(Page(memory), model="iris", version="1")
    first([a_call()], [])
    first.levels.active[0] = 5.0
    second = Metrics(Page(memory), model="iris", version="1")
    second([a_call()], [])
    found = samples(Page(memory))
    assert requests(found) == 2
    assert found["mlserver_active_requests",] == 0


def test_every_metric_of_the_catalogue_is_exposed_with_its_help_and_prefix(page, metrics):
    _, body = Exposition(
        SimpleNamespace(observability=SimpleNamespace(metrics_prefix="acme_")), [page]
    ).render("")
    for metric in signals.METRICS:
        assert f"# TYPE acme_{metric.name} {metric.type}".encode() in body
        assert f"# HELP acme_{metric.name} {metric.help}".encode() in body


def test_openmetrics_is_given_to_whoever_accepts_it(page, metrics):
    content_type, body = Exposition(CONFIG, [page]).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith(b"application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
