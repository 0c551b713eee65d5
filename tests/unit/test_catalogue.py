"""What the pages of all workers say together."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import signals
from mlserver.config import make_config
from mlserver.exposition.catalogue import PageCollector
from mlserver.exposition.known import known
from mlserver.pages import Key, Page

OVERFLOW = signals.OVERFLOW
TRACES = [f"{number:032x}" for number in range(1, 10)]


def a_config(*, name="iris", version="1", **observability):
    model = {"name": name, "version": version}
    data = {"predictor": {"module": "my_model", "class_name": "Model"}, "model": model}
    return make_config(data | {"observability": observability}, Path("/"))


CONFIG = a_config()


def samples(collector):
    """Values by name, without the prefix, and labels; a label set that is there twice is a fault."""
    found = {}
    for family in collector.collect():
        for sample in family.samples:
            key = (sample.name.removeprefix("mlserver_"), *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return found


def scrape(*pages, config=CONFIG):
    return samples(PageCollector(config, pages))


def count(page, record, *labels, by=1.0):
    page.series(Key("counter", record, labels))[0] += by


def gauge(page, record, *labels, value):
    page.series(Key("gauge", record, labels))[0] = value


def observe(page, record, labels, value, bounds=signals.LATENCY_BUCKETS):
    series = page.series(Key("histogram", record, labels, bounds))
    series[bisect_left(bounds, value)] += 1.0
    series[-1] += value


def buckets(found, name, *labels):
    """Cumulative counts by upper bound."""
    rows = {key[-1]: value for key, value in found.items() if key[:-1] == (f"{name}_bucket", *labels)}
    return {float(bound): value for bound, value in rows.items()}


@pytest.fixture
def pages():
    return [Page.private(), Page.private(), Page.private()]


# What is there when nothing was counted.


def test_without_any_count_all_that_is_known_is_there_at_zero(pages):
    found = scrape(*pages)
    assert set(found.values()) == {0.0}
    for name, label_sets in known(CONFIG).items():
        metric = next(metric for metric in signals.METRICS if metric.name == name)
        shown = f"{name}_count" if metric.type == "histogram" else name
        assert {key[1:] for key in found if key[0] == shown} == label_sets
    for name in ("active_requests", "queue_depth", "workers", "worker_restarts_total"):
        assert found[name,] == 0


def test_families_are_those_of_the_catalogue_in_its_order():
    collector = PageCollector(a_config(metrics_prefix="acme_"), [])
    shown = [(family.name, family.type, family.documentation, family.unit) for family in collector.collect()]
    assert shown == [
        ("acme_" + metric.name.removesuffix("_total"), metric.type, metric.help, metric.unit)
        for metric in signals.METRICS
    ]


# From records to metrics.


def test_one_record_gives_the_count_by_status_and_the_duration_over_them(pages):
    observe(pages[0], "calls", ("/predict", "POST", "200"), 0.003)
    observe(pages[1], "calls", ("/predict", "POST", "200"), 0.003)
    observe(pages[1], "calls", ("/predict", "POST", "422"), 7.0)
    found = scrape(*pages)
    assert found["requests_total", "/predict", "POST", "200"] == 2
    assert found["requests_total", "/predict", "POST", "422"] == 1
    assert found["request_duration_seconds_count", "/predict", "POST"] == 3
    assert found["request_duration_seconds_sum", "/predict", "POST"] == pytest.approx(7.006)
    seen = buckets(found, "request_duration_seconds", "/predict", "POST")
    assert [seen[bound] for bound in (0.0025, 0.005, 5.0, 10.0, math.inf)] == [0, 2, 2, 3, 3]


def test_a_run_alone_is_a_phase_too_and_a_shared_one_is_not(pages):
    observe(pages[0], "runs_alone", ("iris",), 0.003)
    observe(pages[1], "runs_shared", ("iris",), 0.003)
    observe(pages[2], "request_phase_duration_seconds", ("predict",), 0.02)
    observe(pages[2], "request_phase_duration_seconds", ("queue",), 0.02)
    found = scrape(*pages)
    assert found["prediction_duration_seconds_count", "iris"] == 2
    assert found["request_phase_duration_seconds_count", "predict"] == 2
    assert found["request_phase_duration_seconds_count", "queue"] == 1
    assert found["request_phase_duration_seconds_count", "encode"] == 0


def test_counters_and_gauges_are_added_up_and_the_loaded_model_is_the_maximum(pages):
    for page in pages[:2]:
        count(page, "predictions_total", "iris", by=3)
        gauge(page, "active_requests", value=2)
        gauge(page, "model_loaded", "iris", "1", value=1)
        gauge(page, "build_info", "0.1", "3.11", value=1)
    found = scrape(*pages)
    assert found["predictions_total", "iris"] == 6
    assert found["active_requests",] == 4
    assert found["model_loaded", "iris", "1"] == 1
    assert found["build_info", "0.1", "3.11"] == 1


def test_gauges_of_nobody_are_absent_unless_they_are_known(pages):
    page = pages[0]
    for version in ("0", "1"):
        gauge(page, "model_loaded", "iris", version, value=1)
    gauge(page, "active_requests", value=5)
    page.reset_gauges()
    gauge(pages[1], "active_requests", value=1)
    found = scrape(*pages)
    assert found["active_requests",] == 1
    assert found["model_loaded", "iris", "1"] == 0
    assert ("model_loaded", "iris", "0") not in found


def test_series_of_another_release_do_not_spoil_the_others(pages):
    page = pages[0]
    count(page, "predictions_total", "iris", "another label", by=7)
    page.series(Key("gauge", "predictions_total", ("iris",)))[0] = 7
    count(page, "calls", "/predict", "POST", by=7)
    count(page, "request_phase_duration_seconds", "queue", by=7)
    count(page, "what_this_one_does_not_know", by=7)
    count(page, "predictions_total", "iris", by=1)
    found = scrape(*pages)
    assert found["predictions_total", "iris"] == 1
    assert sum(found.values()) == 1


def test_label_sets_are_in_order(pages):
    for name in ("c", "a", "__overflow__", "b"):
        count(pages[0], "predictions_total", name)
    shown = [key[1] for key in scrape(*pages) if key[0] == "predictions_total"]
    assert shown == ["__overflow__", "a", "b", "c", "iris"]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_sums_are_exact_in_any_order_of_the_pages(pages, order):
    for number, seconds in zip(order, (1e16, 1.0, 1.0), strict=True):
        observe(pages[number], "runs_alone", ("iris",), seconds)
        count(pages[number], "predictions_total", "iris", by=seconds)
    found = scrape(*pages)
    assert found["prediction_duration_seconds_sum", "iris"] == 1e16 + 2
    assert found["predictions_total", "iris"] == 1e16 + 2


small = st.floats(1e-9, 1e9)


@given(st.lists(st.lists(small, max_size=6), min_size=1, max_size=4), st.lists(small, max_size=10))
def test_sums_of_fractions_never_fall(parts, more):
    pages = [Page.private() for _ in parts]
    collector = PageCollector(CONFIG, pages)
    last = 0.0
    for page, values in zip(pages, parts, strict=True):
        for value in values:
            observe(page, "runs_alone", ("iris",), value)
    for number, value in enumerate(more):
        observe(pages[number % len(pages)], "runs_alone", ("iris",), value)
        now = samples(collector)["prediction_duration_seconds_sum", "iris"]
        assert now >= last
        last = now


# Histograms of several bounds.

some_bounds = st.lists(st.sampled_from([0.1, 0.2, 0.5, 1.0, 2.0, 5.0]), min_size=1, unique=True).map(
    lambda bounds: tuple(sorted(bounds))
)
observations = st.lists(
    st.tuples(st.integers(0, 2), some_bounds, st.sampled_from([0.05, 0.1, 0.15, 0.3, 1.0, 3, 9]))
)


@given(observations, some_bounds)
def test_histograms_of_other_bounds_are_joined_into_a_valid_one_that_never_falls(observations, present):
    pages = [Page.private() for _ in range(3)]
    collector = PageCollector(a_config(buckets={"batch_rows": present}), pages)
    last = defaultdict(float)
    for number, (page, bounds, value) in enumerate(observations, 1):
        observe(pages[page], "batch_rows", ("iris",), value, bounds)
        found = samples(collector)
        seen = buckets(found, "batch_rows", "iris")
        assert list(seen) == [*present, math.inf]
        assert list(seen.values()) == sorted(seen.values())
        assert seen[math.inf] == found["batch_rows_count", "iris"] == number
        for bound, value_now in seen.items():
            sure = [
                value
                for _, own, value in observations[:number]
                if any(value <= limit <= bound for limit in own)
            ]
            assert value_now >= last[bound]
            assert value_now == (number if bound == math.inf else len(sure))
            last[bound] = value_now


def test_the_buckets_of_a_reload_take_over_and_common_ones_do_not_fall(pages):
    collector = PageCollector(a_config(buckets={"batch_rows": [1, 2, 4]}), pages)
    for value in (1, 2, 3, 5):
        observe(pages[0], "batch_rows", ("iris",), value, (1.0, 2.0, 4.0))
    before = buckets(samples(collector), "batch_rows", "iris")
    collector.adopt(a_config(buckets={"batch_rows": [2, 3]}))
    observe(pages[1], "batch_rows", ("iris",), 3, (2.0, 3.0))
    after = buckets(samples(collector), "batch_rows", "iris")
    assert before == {1: 1, 2: 2, 4: 3, math.inf: 4}
    assert after == {2: 2, 3: 3, math.inf: 5}


# The budget.


def errors_by_type(found):
    return {key[2]: value for key, value in found.items() if key[0] == "prediction_errors_total"}


def test_label_sets_beyond_the_budget_are_added_up_and_known_ones_are_not(pages):
    config = a_config(max_series=3)
    for number in range(10):
        count(pages[number % 3], "prediction_errors_total", "iris", f"Error{number}")
    count(pages[0], "prediction_errors_total", "iris", "KeyError", by=4)
    count(pages[1], "prediction_errors_total", OVERFLOW, OVERFLOW, by=100)
    found = errors_by_type(scrape(*pages, config=config))
    assert found["KeyError"] == 4
    assert sum(name.startswith("Error") for name in found) == 3
    assert sum(found.values()) == 114
    assert found[OVERFLOW] == 107


def test_versions_of_models_that_have_gone_do_not_use_up_the_budget():
    page = Page.private()
    collector = PageCollector(a_config(max_series=2), [page])
    for number in range(10):
        page.reset_gauges()
        gauge(page, "model_loaded", "iris", f"v{number}", value=1)
        loaded = {key[2] for key, value in samples(collector).items() if key[0] == "model_loaded" and value}
        assert loaded == {f"v{number}"}


events = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(0, 2), st.sampled_from([*"abcdefgh", "KeyError", OVERFLOW])),
        st.tuples(
            st.just("observe"), st.integers(0, 2), st.sampled_from([*"abcdefgh", "/m0", "/m1", "/predict"])
        ),
        st.tuples(st.just("adopt"), st.integers(1, 6), st.sampled_from(["m0", "m1", "a", "b"])),
    ),
    max_size=40,
)


@given(events)
def test_no_counter_falls_or_goes_whatever_comes_and_is_configured(events):
    pages = [Page.private() for _ in range(3)]
    collector = PageCollector(a_config(max_series=2), pages)
    last, errors, calls = {}, 0, 0
    for event, number, text in events:
        if event == "count":
            count(pages[number], "prediction_errors_total", "m" if text != OVERFLOW else OVERFLOW, text)
            errors += 1
        elif event == "observe":
            observe(pages[number], "calls", (text, "GET", "200"), 0.1)
            calls += 1
        else:  # what is known changes, too
            collector.adopt(a_config(name=text, metrics_endpoint=f"/{text}", max_series=number))
        found = samples(collector)
        for key, value in last.items():
            gone = value == 0 and key not in found  # a zero of what is known no longer
            assert gone or found[key] >= value
        by_name = Counter()
        for key, value in found.items():
            by_name[key[0]] += value
        assert by_name["prediction_errors_total"] == errors
        assert by_name["requests_total"] == by_name["request_duration_seconds_count"] == calls
        assert by_name["request_duration_seconds_sum"] == pytest.approx(0.1 * calls)
        last = {key: value for key, value in found.items() if key[0] not in ("model_loaded", "build_info")}


def test_a_label_set_that_was_folded_stays_so_when_the_budget_grows_or_it_becomes_known(pages):
    collector = PageCollector(a_config(max_series=1), pages)
    for name in ("first", "second", "third"):
        count(pages[0], "predictions_total", name)
        samples(collector)
    collector.adopt(a_config(name="third", max_series=100))
    count(pages[0], "predictions_total", "third")
    count(pages[0], "predictions_total", "fourth")
    found = {key[1]: value for key, value in samples(collector).items() if key[0] == "predictions_total"}
    assert found == {"first": 1, OVERFLOW: 3, "fourth": 1}


# Exemplars.


def shown_exemplars(collector, name):
    return {
        (*sample.labels.values(),): sample.exemplar
        for family in collector.collect()
        if family.name == f"mlserver_{name}"
        for sample in family.samples
        if sample.exemplar
    }


def exemplify(page, record, labels, value, trace, at, bounds=signals.LATENCY_BUCKETS):
    observe(page, record, labels, value, bounds)
    page.put_exemplar(Key("histogram", record, labels, bounds), bisect_left(bounds, value), trace, value, at)


def test_the_worst_recent_exemplar_of_a_bucket_is_shown_over_pages_and_sources(pages):
    clock = [1000.0]
    collector = PageCollector(CONFIG, pages, now=lambda: clock[0])
    exemplify(pages[0], "calls", ("/predict", "POST", "200"), 0.003, TRACES[0], 990.0)
    exemplify(pages[1], "calls", ("/predict", "POST", "200"), 0.004, TRACES[1], 950.0)
    exemplify(pages[2], "calls", ("/predict", "POST", "422"), 0.0035, TRACES[2], 999.0)
    exemplify(pages[2], "calls", ("/predict", "POST", "422"), 99.0, TRACES[3], 1.0)
    found = shown_exemplars(collector, "request_duration_seconds")
    assert set(found) == {("/predict", "POST", "0.005"), ("/predict", "POST", "+Inf")}
    worst = found["/predict", "POST", "0.005"]
    assert (worst.labels, worst.value, worst.timestamp) == ({"trace_id": TRACES[1]}, 0.004, 950.0)
    assert found["/predict", "POST", "+Inf"].labels == {"trace_id": TRACES[3]}
    clock[0] = 1011.0  # the worst is older than a minute
    assert shown_exemplars(collector, "request_duration_seconds")["/predict", "POST", "0.005"].value == 0.0035
    clock[0] = 2000.0  # all are: the youngest
    assert shown_exemplars(collector, "request_duration_seconds")["/predict", "POST", "0.005"].value == 0.0035


def test_exemplars_of_other_bounds_are_shown_where_their_value_belongs(pages):
    config = a_config(buckets={"batch_rows": [10, 100]})
    exemplify(pages[0], "batch_rows", ("iris",), 50.0, TRACES[0], 1.0, bounds=(5.0, 60.0))
    found = shown_exemplars(PageCollector(config, pages), "batch_rows")
    assert {key: exemplar.value for key, exemplar in found.items()} == {("iris", "100.0"): 50.0}


def test_an_exemplar_at_a_bound_is_of_the_bucket_that_includes_it(pages):
    exemplify(pages[0], "batch_rows", ("iris",), 4.0, TRACES[0], 1.0, bounds=signals.ROW_BUCKETS)
    assert set(shown_exemplars(PageCollector(CONFIG, pages), "batch_rows")) == {("iris", "4.0")}


def test_an_exemplar_of_a_folded_label_set_is_the_overflows(pages):
    collector = PageCollector(a_config(max_series=1), pages)
    for number, name in enumerate(("a", "b")):
        exemplify(pages[0], "batch_rows", (name,), 3.0, TRACES[number], 1.0, bounds=signals.ROW_BUCKETS)
    assert {key[0] for key in shown_exemplars(collector, "batch_rows")} == {"a", OVERFLOW}


def test_exemplars_are_left_out_where_they_are_not_asked_for(pages):
    exemplify(pages[0], "batch_rows", ("iris",), 3.0, TRACES[0], 1.0, bounds=signals.ROW_BUCKETS)
    families = PageCollector(CONFIG, pages).families(exemplars=False)
    assert not [sample for family in families for sample in family.samples if sample.exemplar]
