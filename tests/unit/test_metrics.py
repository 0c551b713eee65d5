"""The observer that counts: what a page holds after calls and runs."""

from __future__ import annotations

import logging
import math
import platform
import threading
from bisect import bisect_left
from collections import defaultdict
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver import signals
from mlserver.config import make_config
from mlserver.errors import (
    CutOff,
    InternalError,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    PredictionFailed,
    PredictionTimeout,
    QueueFull,
)
from mlserver.observers.metrics import Metrics
from mlserver.pages import SPARE_BYTES, Exemplar, Key, Page
from mlserver.serving.call import Batch, Call, Response, Trace
from mlserver.tables import MAX_LABEL

TRACE, WORSE = "0af7651916cd43dd8448eb211c80319c", "f" * 32
OTHER_BUCKETS = {"prediction_duration_seconds": (0.25,), "request_duration_seconds": (1.0, 2.0)}


def configured(*, version="1.0.0", name="iris", **observability):
    return make_config(
        {
            "predictor": {"module": "m", "class_name": "Model"},
            "model": {"name": name, "version": version},
            "observability": observability,
        },
        Path(),
    )


def a_call(status=200, *, endpoint="/predict", method="POST", seconds=0.003, error=None, **fields):
    call = Call(method, endpoint, received=10.0, **fields)
    call.finished = 10.0 + seconds
    call.response = Response(error.status if error else status, b"{}")
    call.error = error
    return call


def a_run(*sizes, started=11.0, seconds=0.5, statuses=None, error=None, trace=None):
    """A run of one call for each number of rows, and those calls: 1 s decode, 1 s queue, 0.25 s encode."""
    batch = Batch([], "predict", sum(sizes), started=started, ended=started + seconds, error=error)
    for size, status in zip(sizes, statuses or [200] * len(sizes), strict=True):
        call = Call("POST", "/predict", started - 2, decoded=started - 1, input_shape=(size, 4))
        call.started, call.predicted, call.finished = started, batch.ended, batch.ended + 0.25
        call.response, call.batch, call.trace = Response(status, b"{}"), batch, trace
        batch.calls.append(call)
    return batch.calls, batch


def failed(cause):
    error = PredictionFailed("x")
    error.__cause__ = cause
    return error


def named(page, name):
    """The values of a record by its labels."""
    return {key.labels: values for key, values in page.read() if key.name == name}


def made_of(page, metric):
    """A histogram of the catalogue by its labels, put together as the catalogue says."""
    found = {}
    for source in metric.recorded():
        for labels, values in named(page, source.record).items():
            known = dict(zip(source.labels, labels, strict=True)) | dict(source.constants)
            chosen = tuple(known[label] for label in metric.labels)
            before = found.get(chosen, (0.0,) * len(values))
            found[chosen] = tuple(map(sum, zip(before, values, strict=True)))
    return found


def counted(values):
    """Observations of a histogram and their sum."""
    return sum(values[:-1]), values[-1]


@pytest.fixture
def page():
    return Page.private()


@pytest.fixture
def metrics(page):
    return Metrics(page, configured())


# Requests.


def test_each_finished_call_is_counted_once_by_route_method_and_status(page, metrics):
    metrics([a_call(), a_call(), a_call(422)], [])
    metrics([a_call(404, endpoint="unmatched", method="GET", error=NotFound("x"))], [])
    assert {labels: counted(values) for labels, values in named(page, "calls").items()} == {
        ("/predict", "POST", "200"): (2, pytest.approx(0.006)),
        ("/predict", "POST", "422"): (1, pytest.approx(0.003)),
        ("unmatched", "GET", "404"): (1, pytest.approx(0.003)),
    }


def test_a_duration_falls_into_the_bucket_whose_upper_bound_includes_it(page, metrics):
    bounds = signals.LATENCY_BUCKETS
    for seconds in (*bounds, 0.0, 11.0):
        call = a_call()
        call.received, call.finished = 0.0, seconds
        metrics([call], [])
    ((*buckets, total),) = named(page, "calls").values()
    assert buckets == [2, *[1] * len(bounds)]
    assert total == pytest.approx(sum(bounds) + 11)


def test_unknown_methods_are_folded_and_none_is_kept(page, metrics):
    made_up = ["BREW", "", "é" * 100, *(f"X{number}" for number in range(1000))]
    metrics([a_call(405, method=method) for method in made_up], [])
    metrics([a_call(200, method=method) for method in sorted(signals.METHODS)], [])
    found = named(page, "calls")
    assert counted(found["/predict", "OTHER", "405"])[0] == len(made_up)
    assert len(found) == 1 + len(signals.METHODS)
    assert len(metrics._of_call) == len(signals.METHODS)


# Predictions.


def test_a_run_alone_is_a_run_and_its_calls_phase_with_one_write(page, metrics):
    calls, batch = a_run(3)
    metrics(calls, [batch])
    assert counted(made_of(page, signals.PREDICTION_DURATION)["iris",]) == (1, 0.5)
    phases = made_of(page, signals.REQUEST_PHASES)
    assert {phase: counted(values) for (phase,), values in phases.items()} == {
        "decode": (1, 1.0),
        "queue": (1, 1.0),
        "predict": (1, 0.5),
        "encode": (1, 0.25),
    }
    assert named(page, "predictions_total") == {("iris",): (3.0,)}
    assert counted(named(page, "batch_rows")["iris",]) == (1, 3.0)
    assert named(page, "batch_rows")["iris",][bisect_left(signals.ROW_BUCKETS, 3)] == 1


def test_a_shared_run_is_one_run_and_a_phase_of_each_of_its_calls(page, metrics):
    calls, batch = a_run(1, 2, 5)
    metrics(calls, [batch])
    assert counted(made_of(page, signals.PREDICTION_DURATION)["iris",]) == (1, 0.5)
    assert counted(made_of(page, signals.REQUEST_PHASES)["predict",]) == (3, 1.5)
    assert counted(made_of(page, signals.REQUEST_PHASES)["encode",]) == (3, 0.75)
    assert counted(named(page, "batch_rows")["iris",]) == (1, 8.0)
    assert named(page, "predictions_total") == {("iris",): (8.0,)}


def test_a_shared_run_that_was_taken_apart_is_a_run_but_no_phase(page, metrics):
    _, whole = a_run(1, 1, error=ValueError("x"))
    good, first = a_run(1, started=12.0)
    bad, second = a_run(1, started=13.0, statuses=[500], error=ValueError("x"))
    metrics([*good, *bad], [whole, first, second])
    assert counted(made_of(page, signals.PREDICTION_DURATION)["iris",]) == (3, 1.5)
    assert counted(made_of(page, signals.REQUEST_PHASES)["predict",]) == (2, 1.0)
    assert counted(named(page, "batch_rows")["iris",]) == (3, 4.0)


def test_only_rows_that_were_answered_count_as_predictions(page, metrics):
    calls, batch = a_run(1, 2, 4, statuses=[200, 500, 422])
    late = a_call(error=PredictionTimeout("x"), decoded=10.001, input_shape=(8, 4))
    metrics([*calls, late, a_call(200, endpoint="/healthz")], [batch])
    assert named(page, "predictions_total") == {("iris",): (1.0,)}


def test_a_call_that_never_ran_has_been_decoded_only(page, metrics):
    metrics([a_call(error=PredictionTimeout("x"), decoded=10.001), a_call(error=NotReady("x"))], [])
    phases = {phase: counted(values)[0] for (phase,), values in made_of(page, signals.REQUEST_PHASES).items()}
    assert phases == {"decode": 1, "queue": 0, "predict": 0, "encode": 0}


@pytest.mark.parametrize("sizes", [(1,), (1, 2)])
def test_where_runs_and_phases_have_other_buckets_each_has_its_own(page, sizes):
    calls, batch = a_run(*sizes)
    Metrics(page, configured(buckets=OTHER_BUCKETS))(calls, [batch])
    assert named(page, "runs_shared") == {("iris",): (0.0, 1.0, 0.5)}
    assert named(page, "runs_alone") == {}
    predict = named(page, "request_phase_duration_seconds")["predict",]
    assert counted(predict) == (len(sizes), 0.5 * len(sizes))
    assert predict[bisect_left(signals.LATENCY_BUCKETS, 0.5)] == len(sizes)
    assert named(page, "calls")["/predict", "POST", "200"] == (0.0, 0.0, len(sizes), 2.75 * len(sizes))


@pytest.mark.parametrize("buckets", [{}, OTHER_BUCKETS])
def test_a_run_alone_that_fails_is_its_calls_phase_too(page, buckets):
    calls, batch = a_run(1, statuses=[500], error=ValueError("x"))
    Metrics(page, configured(buckets=buckets))(calls, [batch])
    assert counted(made_of(page, signals.PREDICTION_DURATION)["iris",]) == (1, 0.5)
    assert counted(made_of(page, signals.REQUEST_PHASES)["predict",]) == (1, 0.5)


spans = st.sampled_from([0.0, 2.0**-12, 2.0**-9, 2.0**-4, 0.5, 16.0])
"""Seconds whose sums are exact."""


@st.composite
def turns(draw):
    """Calls and runs that finish together: every run's calls, some late, and others without a run."""
    calls, batches = [], []
    for _ in range(draw(st.integers(0, 3))):
        batch = Batch([], "predict", 0, started=100 + draw(spans))
        batch.ended = batch.started + draw(spans)
        for rows in draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)):
            call = Call("POST", "/predict", 50.0, decoded=50 + draw(spans), input_shape=(rows, 2))
            batch.calls.append(call)
            batch.rows += rows
            if draw(st.integers(0, 5)):  # else it ended before its run did, in an earlier turn
                call.started, call.predicted, call.batch = batch.started, batch.ended, batch
                call.finished = call.predicted + draw(spans)
                call.response = Response(draw(st.sampled_from([200, 500])), b"")
                calls.append(call)
        batches.append(batch)
    for status in draw(st.lists(st.sampled_from([404, 422]), max_size=3)):
        call = Call("POST", "/predict", 50.0, decoded=draw(st.sampled_from([0.0, 51.0])))
        call.finished, call.response = 50 + draw(spans), Response(status, b"")
        calls.append(call)
    return calls, batches


@given(st.lists(turns(), max_size=5), st.sampled_from([{}, OTHER_BUCKETS]), st.integers(0, 5))
def test_what_is_counted_in_a_hurry_is_what_counting_one_by_one_gives(steps, buckets, death):
    page = Page(memory := bytearray(SPARE_BYTES * 2))
    config = configured(buckets=buckets)
    metrics = Metrics(page, config)
    observed = defaultdict(list)
    rows = 0
    for number, (calls, batches) in enumerate(steps):
        if number == death:  # a successor goes on
            metrics = Metrics(Page(memory), config)
        metrics(calls, batches)
        for call in calls:
            observed[signals.REQUEST_DURATION.name, "/predict", "POST"].append(call.finished - call.received)
            if call.decoded:
                observed[signals.REQUEST_PHASES.name, "decode"].append(call.decoded - call.received)
            if call.predicted:
                observed[signals.REQUEST_PHASES.name, "queue"].append(call.started - call.decoded)
                observed[signals.REQUEST_PHASES.name, "encode"].append(call.finished - call.predicted)
                rows += call.input_shape[0] if call.status == 200 else 0
        for batch in batches:
            spent = batch.ended - batch.started
            observed[signals.PREDICTION_DURATION.name, "iris"].append(spent)
            observed[signals.REQUEST_PHASES.name, "predict"] += [spent] * len(batch.calls)
            observed[signals.BATCH_ROWS.name, "iris"].append(batch.rows)
    for metric in (
        signals.REQUEST_DURATION,
        signals.REQUEST_PHASES,
        signals.PREDICTION_DURATION,
        signals.BATCH_ROWS,
    ):
        bounds = signals.bounds(metric, config.observability.buckets)
        for labels, (*found, total) in made_of(page, metric).items():
            expected = observed.pop((metric.name, *labels), [])
            assert found == [
                sum(bisect_left(bounds, value) == i for value in expected) for i in range(len(bounds) + 1)
            ]
            assert total == sum(expected)
    assert not any(observed.values())
    assert named(page, "predictions_total") == {("iris",): (rows,)}


# Errors.


def test_a_failed_prediction_is_counted_by_the_class_of_what_was_raised(page, metrics):
    metrics([a_call(error=failed(ZeroDivisionError("x"))), a_call(error=failed(KeyError("x")))], [])
    metrics([a_call(error=failed(KeyError("y"))), a_call(error=failed(None))], [])
    metrics([a_call(error=error) for error in (NotFound("x"), InternalError("x"), InvalidInput("x"))], [])
    assert named(page, "prediction_errors_total") == {
        ("iris", "ZeroDivisionError"): (1.0,),
        ("iris", "KeyError"): (2.0,),
        ("iris", "PredictionFailed"): (1.0,),
    }


def test_requests_turned_away_are_counted_by_reason_and_others_are_not(page, metrics):
    assert named(page, "rejected_requests_total") == {(code,): (0.0,) for code in signals.REJECTIONS}
    errors = [QueueFull("x"), Overloaded("x"), Overloaded("x"), NotReady("x")]
    metrics([a_call(error=error) for error in (*errors, CutOff("x"), NotFound("x"))], [])
    assert named(page, "rejected_requests_total") == {
        ("queue_full",): (1.0,),
        ("overloaded",): (2.0,),
        ("not_ready",): (1.0,),
    }


def test_losses_are_counted_from_any_thread(page, metrics):
    threads = [
        threading.Thread(target=lambda: [metrics.dropped("logs") for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.dropped("user_metrics", 3)
    assert named(page, "signals_dropped_total") == {
        ("logs",): (8000.0,),
        ("metrics",): (0.0,),
        ("prints",): (0.0,),
        ("traces",): (0.0,),
        ("user_metrics",): (3.0,),
    }


# What is so right now.


def test_gauges_are_there_from_the_start(page, metrics):
    assert named(page, "active_requests") == named(page, "queue_depth") == {(): (0.0,)}
    assert named(page, "model_loaded") == {("iris", "1.0.0"): (0.0,)}
    versions = installed_version("mlserver-observability"), platform.python_version()
    assert named(page, "build_info") == {versions: (1.0,)}


def test_a_successor_of_the_same_version_has_not_loaded_the_model_yet(page, metrics):
    metrics.levels.model_loaded[0] = 1.0
    Metrics(page, configured())
    assert named(page, "model_loaded") == {("iris", "1.0.0"): (0.0,)}


def test_levels_are_the_memory_of_the_page(page, metrics):
    metrics.levels.active[0], metrics.levels.queued[0], metrics.levels.model_loaded[0] = 3, 2, 1
    assert named(page, "active_requests") == {(): (3.0,)}
    assert named(page, "queue_depth") == {(): (2.0,)}
    assert named(page, "model_loaded") == {("iris", "1.0.0"): (1.0,)}


def test_a_successor_keeps_the_counts_and_nothing_that_was_true_of_its_predecessor():
    memory = bytearray(SPARE_BYTES * 2)
    first = Metrics(Page(memory), configured(version="1"))
    calls, batch = a_run(2, 3)
    first(calls, [batch])
    first.levels.active[0] = first.levels.queued[0] = first.levels.model_loaded[0] = 1.0
    page = Page(memory)
    second = Metrics(page, configured(version="2"))
    second(calls, [batch])
    assert counted(named(page, "calls")["/predict", "POST", "200"]) == (4, 4 * 2.75)
    assert named(page, "predictions_total") == {("iris",): (10.0,)}
    assert counted(named(page, "runs_shared")["iris",]) == (2, 1.0)
    assert counted(named(page, "batch_rows")["iris",]) == (2, 10.0)
    assert named(page, "active_requests") == named(page, "queue_depth") == {(): (0.0,)}
    loaded = named(page, "model_loaded")
    assert loaded["iris", "2"] == (0.0,)
    assert math.isnan(loaded["iris", "1"][0])


# The budget.


def errors_of(*names):
    return [a_call(error=failed(type(name, (Exception,), {})())) for name in names]


OVERFLOW = (signals.OVERFLOW, signals.OVERFLOW)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_label_sets_beyond_the_budget_are_counted_together_told_once_and_counted_as_losses(page, caplog):
    metrics = Metrics(page, configured(max_series=5, metrics_prefix="acme_"))
    metrics(errors_of(*(f"Error{number}" for number in range(9))), [])
    metrics(errors_of("Error0", "Error8", "Error8", "Error9"), [])
    found = named(page, "prediction_errors_total")
    assert found.pop(OVERFLOW) == (7.0,)
    assert found == {("iris", f"Error{number}"): (2.0 if number == 0 else 1.0,) for number in range(5)}
    assert named(page, "signals_dropped_total")["metrics",] == (7.0,)
    (said,) = warnings(caplog)
    for part in ("acme_prediction_errors_total", "5", "observability.max_series", "Error5", signals.OVERFLOW):
        assert part in said


def test_the_budget_of_one_metric_is_not_that_of_another(page, caplog):
    metrics = Metrics(page, configured(max_series=2))
    metrics([a_call(status) for status in (200, 201, 202, 203)], [])
    metrics(errors_of("One"), [])
    found = {labels: counted(values)[0] for labels, values in named(page, "calls").items()}
    assert found == {
        ("/predict", "POST", "200"): 1,
        ("/predict", "POST", "201"): 1,
        (signals.OVERFLOW,) * 3: 3,
    }
    assert named(page, "prediction_errors_total") == {("iris", "One"): (1.0,)}
    assert named(page, "signals_dropped_total")["metrics",] == (3.0,)
    assert len(warnings(caplog)) == 1
    assert "mlserver_requests_total" in warnings(caplog)[0]


def test_label_sets_that_a_predecessor_left_are_of_the_budget_and_still_its_successors():
    memory = bytearray(SPARE_BYTES * 2)
    Metrics(Page(memory), configured(max_series=3))(errors_of("A", "B", "C", "D"), [])
    Metrics(Page(memory), configured(max_series=3))(errors_of("E", "B", "D", "F"), [])
    found = named(Page(memory), "prediction_errors_total")
    assert found.pop(OVERFLOW) == (4.0,)
    assert found == {("iris", "A"): (1.0,), ("iris", "B"): (2.0,), ("iris", "C"): (1.0,)}


def test_a_successor_with_a_larger_budget_has_all_of_it():
    memory = bytearray(SPARE_BYTES * 2)
    Metrics(Page(memory), configured(max_series=1))(errors_of("A", "B"), [])
    Metrics(Page(memory), configured(max_series=3))(errors_of("B", "C", "D"), [])
    found = named(Page(memory), "prediction_errors_total")
    assert found == {("iris", name): (1.0,) for name in "ABC"} | {OVERFLOW: (2.0,)}


def test_when_the_page_is_full_label_sets_are_counted_together_in_its_spare_room(caplog):
    page = Page(bytearray(SPARE_BYTES + 8 * 1024))
    metrics = Metrics(page, configured(max_series=10_000))
    metrics(errors_of(*(f"Error{number}" for number in range(500))), [])
    metrics([a_call(status) for status in range(200, 300)], [])
    errors, calls = named(page, "prediction_errors_total"), named(page, "calls")
    assert 10 < len(errors) < 500
    assert sum(value for (value,) in errors.values()) == 500
    assert sum(counted(values)[0] for values in calls.values()) == 600
    folded = errors[OVERFLOW][0] + counted(calls[(signals.OVERFLOW,) * 3])[0]
    assert named(page, "signals_dropped_total")["metrics",] == (folded,)
    assert ["full" in said for said in warnings(caplog)] == [True, True]


def test_what_finds_no_room_at_all_fails_nothing(caplog):
    page = Page(bytearray(2048))
    metrics = Metrics(page, configured())
    calls, batch = a_run(1, trace=Trace(TRACE))
    metrics([*calls, *errors_of("One")], [batch])
    metrics.levels.active[0] = 1.0
    assert named(page, "signals_dropped_total")["metrics",][0] >= 2
    assert any("no room" in said for said in warnings(caplog))


@pytest.mark.parametrize(
    ("name", "label"), [("E" * 300, "E" * MAX_LABEL), ("\ud800", "?"), ("Fehler: ä\n😀", "Fehler: ä\n😀")]
)
def test_labels_are_bounded_and_such_that_they_can_be_shown(page, metrics, name, label):
    error = type("Error", (RuntimeError,), {"error_type": None})("x")
    call = a_call(error=failed(error))
    metrics._errors(metrics._model, name)[0] += 1
    metrics._errors(metrics._model, name)[0] += 1
    assert call.status == 500
    assert named(page, "prediction_errors_total") == {("iris", label): (2.0,)}


def test_the_longest_name_of_a_model_is_not_cut(page):
    Metrics(page, configured(name="n" * 200, version="v" * 200))
    assert named(page, "model_loaded") == {("n" * 200, "v" * 200): (0.0,)}


# Exemplars.


def exemplars(page):
    """Record and last label of every exemplar, with where it is."""
    return {
        (key.name, *key.labels[-1:]): [(i, found) for i, found in enumerate(buckets) if found is not None]
        for key, buckets in page.read_exemplars()
    }


def bucket(seconds):
    return bisect_left(signals.LATENCY_BUCKETS, seconds)


@pytest.fixture
def at(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    return 1.7e9


PHASE, DEFAULT = "request_phase_duration_seconds", {}


@pytest.mark.parametrize(
    ("sizes", "buckets", "runs"),
    [
        ((3,), DEFAULT, [("runs_alone", "iris")]),
        ((1, 2), DEFAULT, [("runs_shared", "iris"), (PHASE, "predict")]),
        ((3,), {PHASE: signals.LATENCY_BUCKETS[:-1]}, [("runs_shared", "iris"), (PHASE, "predict")]),
    ],
)
def test_a_traced_call_is_an_exemplar_wherever_it_was_counted(page, at, sizes, buckets, runs):
    calls, batch = a_run(*sizes, trace=Trace(TRACE))
    Metrics(page, configured(buckets=buckets))(calls, [batch])
    expected = {
        ("calls", "200"): [(bucket(2.75), Exemplar(TRACE, 2.75, at))],
        (PHASE, "decode"): [(bucket(1.0), Exemplar(TRACE, 1.0, at))],
        (PHASE, "queue"): [(bucket(1.0), Exemplar(TRACE, 1.0, at))],
        (PHASE, "encode"): [(bucket(0.25), Exemplar(TRACE, 0.25, at))],
        ("batch_rows", "iris"): [(bisect_left(signals.ROW_BUCKETS, 3), Exemplar(TRACE, 3.0, at))],
    }
    assert exemplars(page) == expected | {key: [(bucket(0.5), Exemplar(TRACE, 0.5, at))] for key in runs}
    values = dict(page.read())
    for key, found in page.read_exemplars():
        assert all(values[key][i] for i, one in enumerate(found) if one)


def test_calls_without_a_trace_leave_no_exemplar(page, metrics):
    calls, batch = a_run(1)
    metrics([*calls, a_call()], [batch])
    assert exemplars(page) == {}


def test_a_traced_call_that_never_ran_has_exemplars_of_what_it_did(page, metrics, at):
    metrics([a_call(error=PredictionTimeout("x"), seconds=0.003, decoded=10.001, trace=Trace(TRACE))], [])
    metrics([a_call(405, method="BREW", seconds=0.02, trace=Trace(WORSE))], [])
    found = {name: [(i, one.trace_id) for i, one in of] for name, of in exemplars(page).items()}
    assert found == {
        ("calls", "504"): [(bucket(0.003), TRACE)],
        (PHASE, "decode"): [(bucket(0.001), TRACE)],
        ("calls", "405"): [(bucket(0.02), WORSE)],
    }


def test_a_call_that_was_folded_is_an_exemplar_of_the_overflow(page, at):
    metrics = Metrics(page, configured(max_series=1))
    metrics([a_call(200), a_call(404, trace=Trace(TRACE))], [])
    assert exemplars(page) == {
        ("calls", signals.OVERFLOW): [(bucket(0.003), Exemplar(TRACE, pytest.approx(0.003), at))]
    }


def test_a_turn_is_counted_whole_when_there_is_no_room_for_exemplars():
    page = Page(memory := bytearray(SPARE_BYTES * 2))
    metrics = Metrics(page, configured())
    calls, batch = a_run(1, trace=Trace(TRACE))
    metrics(*a_run(1)[:1], [])
    while memoryview(memory).cast("Q")[1] * 8 < SPARE_BYTES - 100:
        page.series(Key("counter", "filler", (str(len(page.keys("filler"))),)))
    metrics([*calls, a_call()], [batch])
    assert counted(named(page, "calls")["/predict", "POST", "200"])[0] == 3
    assert counted(named(page, "runs_alone")["iris",]) == (1, 0.5)
    assert named(page, "signals_dropped_total")["metrics",] == (1.0,)


def test_a_call_that_cannot_be_counted_whole_takes_no_other_one_away(page):
    class Odd(type):
        @property
        def __name__(cls):
            raise RuntimeError("no name")

    odd = Odd("Odd", (Exception,), {})
    metrics = Metrics(page, configured())
    with pytest.raises(RuntimeError, match="no name"):
        metrics([a_call(), a_call(error=failed(odd())), *errors_of("ValueError"), a_call()], [])
    series = {key: values for key, values in page.read() if key.name in ("calls", "prediction_errors_total")}
    counted = sum(sum(values[:-1]) for key, values in series.items() if key.name == "calls")
    errors = [key.labels[1] for key in series if key.name == "prediction_errors_total"]
    assert (counted, errors) == (4, ["ValueError"])
