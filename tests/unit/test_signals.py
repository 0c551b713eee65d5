"""The catalogue holds what it is taken to hold."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from mlserver import paths, signals
from mlserver.errors import RequestError

LABEL = re.compile(r"[a-z_][a-z0-9_]*")
EXPRESSIONS = [
    (metric, about, about.expr) for metric in signals.CATALOGUE for about in (*metric.panels, *metric.alerts)
]
metrics = pytest.mark.parametrize("metric", signals.CATALOGUE, ids=lambda metric: metric.name)


def of_the_contract():
    """Names and labels that are promised, with types."""
    return {
        "requests_total": ("counter", {"endpoint", "method", "status"}),
        "request_duration_seconds": ("histogram", {"endpoint", "method"}),
        "request_phase_duration_seconds": ("histogram", {"phase"}),
        "prediction_duration_seconds": ("histogram", {"model"}),
        "prediction_errors_total": ("counter", {"model", "error_type"}),
        "predictions_total": ("counter", {"model"}),
        "batch_rows": ("histogram", {"model"}),
        "active_requests": ("gauge", set()),
        "queue_depth": ("gauge", set()),
        "rejected_requests_total": ("counter", {"reason"}),
        "model_loaded": ("gauge", {"model", "version"}),
        "workers": ("gauge", set()),
        "worker_restarts_total": ("counter", set()),
        "signals_dropped_total": ("counter", {"signal"}),
        "build_info": ("gauge", {"version", "python"}),
    }


def test_names_types_and_labels_are_those_of_the_contract():
    assert {m.name: (m.type, set(m.labels)) for m in signals.METRICS} == of_the_contract()


def test_names_are_unique_with_those_of_their_samples():
    names = Counter(metric.name.removesuffix("_total") for metric in signals.CATALOGUE)
    assert set(names.values()) == {1}


@metrics
def test_a_name_is_as_its_type_and_unit_ask(metric):
    assert LABEL.fullmatch(metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    if metric.unit:
        assert metric.name.removesuffix("_total").endswith(f"_{metric.unit}")
    of_samples = frozenset().union(*signals.SUFFIXES.values()) - {"", "_info"}
    assert not metric.name.removesuffix("_total").endswith((*of_samples, "_created"))


@metrics
def test_a_help_is_a_sentence(metric):
    assert metric.help.endswith(".")
    assert metric.help == metric.help.strip()
    assert "\n" not in metric.help


@metrics
def test_labels_are_legal_and_do_not_repeat(metric):
    assert len(set(metric.labels)) == len(metric.labels)
    assert all(LABEL.fullmatch(label) and not label.startswith("__") for label in metric.labels)
    assert not {"le", "quantile"} & set(metric.labels)
    assert ("worker" in metric.labels) == (metric.over_workers == "each")


@metrics
def test_buckets_are_those_of_histograms_and_rise(metric):
    assert bool(metric.buckets) == (metric.type == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(isinstance(bound, float) and bound > 0 for bound in metric.buckets)


@metrics
def test_sources_give_every_label(metric):
    for source in metric.recorded():
        constants = [name for name, _ in source.constants]
        assert not set(constants) & set(source.labels)
        assert set(metric.labels) <= {*source.labels, *constants}


@metrics
def test_only_histograms_and_counters_are_made_of_several_records(metric):
    assert metric.type != "gauge" or len(metric.recorded()) == 1


def test_a_record_has_the_same_labels_wherever_it_is_a_source():
    found = {}
    for metric in signals.METRICS:
        for source in metric.recorded():
            assert found.setdefault(source.record, source.labels) == source.labels


def test_metrics_of_one_histogram_record_have_the_same_buckets():
    """One series is all of them, so it has one set of bounds."""
    found = {}
    for metric in signals.METRICS:
        if metric.type == "histogram":
            for source in metric.recorded():
                assert found.setdefault(source.record, metric.buckets) == metric.buckets


@pytest.mark.parametrize(("metric", "about", "expr"), EXPRESSIONS)
def test_expressions_mean_the_metric_and_only_labels_that_it_has(metric, about, expr):
    assert "$metric" in expr
    matched = {
        name for braces in re.findall(r"\{([^}]*)\}", expr) for name in re.findall(r"(\w+)\s*[=!]~?", braces)
    }
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", expr) for name in re.split(r",\s*", names)}
    assert matched | grouped <= {*metric.labels, "le"}
    suffixes = set(re.findall(r"\$metric(_\w+)?", expr))
    allowed = {"_bucket", "_sum", "_count"} if metric.type == "histogram" else {""}
    assert suffixes <= allowed


@pytest.mark.parametrize(("metric", "about", "expr"), EXPRESSIONS)
def test_counters_are_shown_by_their_rate_and_gauges_are_not(metric, about, expr):
    assert bool(re.search(r"\b(rate|increase)\(", expr)) == (metric.type != "gauge")


def test_alerts_have_names_of_their_own_and_lasting_causes():
    alerts = [alert for metric in signals.CATALOGUE for alert in metric.alerts]
    assert len({alert.name for alert in alerts}) == len(alerts)
    assert {alert.name for alert in alerts} >= {
        "HighErrorRate",
        "HighLatency",
        "ModelNotLoaded",
        "HighMemoryUsage",
    }
    assert all(re.fullmatch(r"\d+[smh]", alert.after) for alert in alerts)


@pytest.mark.parametrize("prefix", ["mlserver_", "acme:"])
def test_a_prefix_is_of_the_servers_own_names_alone(prefix):
    for metric in signals.METRICS:
        assert metric.full_name(prefix) == prefix + metric.name
    for metric in signals.PROCESSES:
        assert metric.full_name(prefix) == metric.name
        assert metric.name.startswith(("process_", "python_"))


def test_reserved_names_are_all_that_the_server_shows():
    reserved = signals.reserved_names("acme_")
    for metric in signals.CATALOGUE:
        family = metric.full_name("acme_").removesuffix("_total")
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(metric.type, ())
        assert {family, metric.full_name("acme_"), *(family + suffix for suffix in suffixes)} <= reserved
    assert {"acme_requests_created", "process_cpu_seconds_total"} <= reserved
    assert (
        not {"acme_mine", "requests_total", "mlserver_requests_total", "acme_", "predictions_total"}
        & reserved
    )


def test_bounds_are_chosen_by_name_and_else_its_own():
    chosen = {"batch_rows": (1.0, 5.0)}
    assert signals.bounds(signals.BATCH_ROWS, chosen) == (1.0, 5.0)
    assert signals.bounds(signals.REQUEST_DURATION, chosen) == signals.LATENCY_BUCKETS


def test_default_latency_buckets_are_those_of_the_contract():
    text = ".0005 .001 .0025 .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10"
    assert tuple(map(float, text.split())) == signals.LATENCY_BUCKETS


def test_rejections_are_codes_of_errors():
    assert set(signals.REJECTIONS) <= {error.code for error in RequestError.__subclasses__()}


def test_what_is_folded_cannot_be_mistaken():
    assert signals.OTHER not in signals.METHODS
    assert paths.UNMATCHED not in {*paths.PREDICTIONS, *paths.PROBES, *paths.PAGES}
    assert not paths.UNMATCHED.startswith("/")
