"""What is there at 0 before the first request."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from mlserver import errors, paths, signals
from mlserver.config import make_config
from mlserver.exposition.known import EXCEPTIONS, known

METRICS = {metric.name: metric for metric in signals.METRICS}


def of(**observability):
    data = {"predictor": {"module": "my_model", "class_name": "Model"}, "observability": observability}
    return known(make_config(data | {"model": {"name": "iris", "version": "1.0.0"}}, Path("/")))


@pytest.fixture(scope="module")
def sets():
    return of()


def statuses(sets, endpoint, method):
    return {
        int(status) for path, verb, status in sets["requests_total"] if (path, verb) == (endpoint, method)
    }


def test_label_sets_are_of_metrics_of_the_catalogue_and_have_their_labels(sets):
    for name, label_sets in sets.items():
        assert label_sets
        assert {len(labels) for labels in label_sets} == {len(METRICS[name].labels)}
        assert all(isinstance(value, str) for labels in label_sets for value in labels)


def test_every_labelled_metric_has_some_but_the_one_whose_labels_only_workers_know(sets):
    labelled = {metric.name for metric in signals.METRICS if metric.labels}
    assert labelled - set(sets) == {"build_info"}


@pytest.mark.parametrize("endpoint", paths.PREDICTIONS)
def test_a_prediction_can_end_in_every_way_that_it_can(sets, endpoint):
    expected = {200, 400, 404, 408, 413, 415, 422, 429, 499, 500, 503, 504}
    assert statuses(sets, endpoint, "POST") == expected
    assert statuses(sets, endpoint, "GET") == {405}


def test_no_error_of_a_request_is_forgotten(sets):
    all_statuses = {
        error.status
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, errors.RequestError)
        and error is not errors.RequestError
    }
    assert {int(status) for _, _, status in sets["requests_total"]} == all_statuses | {200}


@pytest.mark.parametrize("endpoint", [*paths.PROBES, *paths.PAGES, "/metrics"])
def test_other_routes(sets, endpoint):
    probe = {503} if endpoint in paths.PROBES else set()
    assert statuses(sets, endpoint, "GET") == {200, 500} | probe
    assert statuses(sets, endpoint, "POST") == {405}


def test_what_has_no_route(sets):
    """Under the method as far as it was read: a connection that is refused at once never said one."""
    assert statuses(sets, "unmatched", "GET") == {400, 404, 408, 431, 500}
    assert statuses(sets, "unmatched", "POST") == {400, 404, 408, 431, 500}
    assert statuses(sets, "unmatched", "OTHER") == {400, 408, 431, 503}


def test_a_request_that_is_counted_has_a_duration(sets):
    assert sets["request_duration_seconds"] == {labels[:2] for labels in sets["requests_total"]}


def test_names_follow_the_configuration(sets):
    endpoints = {endpoint for endpoint, _ in of(metrics_endpoint="/numbers")["request_duration_seconds"]}
    assert "/numbers" in endpoints
    assert "/metrics" not in endpoints
    assert sets["model_loaded"] == {("iris", "1.0.0")}
    for name in ("prediction_duration_seconds", "predictions_total", "batch_rows"):
        assert sets[name] == {("iris",)}


def test_the_rest_is_what_the_signals_declare(sets):
    assert sets["request_phase_duration_seconds"] == {(phase,) for phase in signals.PHASES}
    assert sets["rejected_requests_total"] == {(reason,) for reason in signals.REJECTIONS}
    assert sets["signals_dropped_total"] == {(signal,) for signal in signals.DROPPABLE}


def test_exceptions_are_such_that_exist(sets):
    assert sets["prediction_errors_total"] == {("iris", name) for name in EXCEPTIONS}
    for name in EXCEPTIONS:
        assert issubclass(getattr(builtins, name, None) or getattr(errors, name), Exception)
