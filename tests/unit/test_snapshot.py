"""Users' own metrics: what a worker takes from prometheus_client's registry, whatever it finds there."""

from __future__ import annotations

import asyncio
import gc
import math
import threading

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    Summary,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mlserver.exposition.users import sources
from mlserver.exposition.users.merge import Merger
from mlserver.exposition.users.snapshot import HUNG_TICKS, QUIET_S, Snapshots

PATIENCE_S = 30.0


class Custom:
    """A custom collector that does what it is told."""

    def __init__(self, *gives):
        self.gives = gives

    def describe(self):
        return []

    def collect(self):
        for each in self.gives:
            if isinstance(each, BaseException):
                raise each
            yield each


class Hanging(Custom):
    def __init__(self, *gives):
        super().__init__(*gives)
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.inside = 0
        self.most_inside = 0

    def collect(self):
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        self.inside -= 1
        yield from super().collect()


class Bench:
    """A registry with its snapshots."""

    def __init__(self, *collectors, max_series=1000, reserved=()):
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)
        self.dropped = []
        self.now = 0.0
        self.snapshots = Snapshots(
            self.registry,
            max_series=max_series,
            reserved=lambda name: name in reserved,
            on_drop=self.dropped.append,
            clock=lambda: self.now,
        )
        self.snapshots.start()

    def take(self, timeout_s=PATIENCE_S):
        """The families of a fresh snapshot, by name. All of them can be rendered and read back."""
        families = asyncio.run(self.snapshots.take(timeout_s))
        merger = Merger()
        merger.take(1, "0", families)
        registry = CollectorRegistry()
        registry.register(merger)
        generate_latest(registry)
        shown = list(text_string_to_metric_families(generate_openmetrics(registry).decode()))
        assert {family.name for family in shown} == {family.name for family in families}
        return {family.name: family for family in families}

    def values(self, timeout_s=PATIENCE_S):
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.take(timeout_s).values()
            for sample in family.samples
        }


@pytest.fixture
def bench():
    made = []

    def bench(*collectors, **settings):
        made.append(Bench(*collectors, **settings))
        return made[-1]

    yield bench
    for each in made:
        each.snapshots.close()


def test_what_is_leant_on_in_the_client():
    registry = CollectorRegistry()
    gauge = Gauge("g", "", registry=registry, multiprocess_mode="livemax")
    assert registry._collector_to_names == {gauge: ["g"]}
    assert gauge._multiprocess_mode == "livemax"
    assert ProcessCollector(namespace="n", registry=None)._namespace == "n"
    registry.set_target_info({"a": "b"})
    assert registry._target_info == {"a": "b"}


def test_everything_of_the_client_is_there(bench):
    its = bench()
    Counter("hits_total", "h", ["kind"], registry=its.registry).labels("a").inc(2, exemplar={"trace_id": "1"})
    Gauge("level", "", registry=its.registry, multiprocess_mode="livesum").set(3)
    histogram = Histogram("size_bytes", "", unit="bytes", registry=its.registry, buckets=[1, 2])
    histogram.observe(1.5)
    Summary("took", "", registry=its.registry).observe(4)
    Info("build", "", registry=its.registry).info({"version": "1"})
    Enum("state", "", registry=its.registry, states=["on", "off"])
    its.registry.set_target_info({"env": "test"})
    assert its.values() == {
        ("hits_total", ("kind", "a")): 2,
        ("level",): 3,
        ("size_bytes_bucket", ("le", "1.0")): 0,
        ("size_bytes_bucket", ("le", "2.0")): 1,
        ("size_bytes_bucket", ("le", "+Inf")): 1,
        ("size_bytes_count",): 1,
        ("size_bytes_sum",): 1.5,
        ("took_count",): 1,
        ("took_sum",): 4,
        ("build_info", ("version", "1")): 1,
        ("state", ("state", "on")): 1,
        ("state", ("state", "off")): 0,
        ("target_info", ("env", "test")): 1,
    }
    families = its.take()
    assert families["level"].mode == "livesum"
    assert families["size_bytes"].unit == "bytes"
    (sample,) = families["hits"].samples
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"trace_id": "1"}, 2)
    assert its.dropped == []


def test_the_processs_own_are_left_out_and_pythons_are_marked(bench):
    its = bench()
    for kind in (ProcessCollector, GCCollector, PlatformCollector):
        kind(registry=its.registry)
    families = its.take()
    assert not any(name.startswith("process_") for name in families)
    assert {families[name].mode for name in ("python_gc_collections", "python_info")} == {"process"}
    assert {family.mode for family in families.values()} == {"process"}


def test_another_processs_metrics_are_the_users(bench):
    its = bench()
    ProcessCollector(namespace="child", registry=its.registry)
    assert "child_process_resident_memory_bytes" in its.take()


def test_a_metric_that_is_made_later_appears_and_one_that_is_unregistered_goes(bench):
    its = bench()
    assert its.take() == {}
    gauge = Gauge("late", "", registry=its.registry)
    assert its.values() == {("late",): 0}
    its.registry.unregister(gauge)
    assert its.take() == {}


def test_a_registry_that_is_made_otherwise_is_collected_as_a_whole(bench):
    class Registry:
        def collect(self):
            yield CounterMetricFamily("hits", "", 3)

    snapshots = Snapshots(Registry(), max_series=9, reserved=lambda _: False, on_drop=lambda _: None)
    snapshots.start()
    (family,) = asyncio.run(snapshots.take(PATIENCE_S))
    assert family.name == "hits"
    snapshots.close()


@pytest.mark.parametrize("error", [RuntimeError("no luck"), SystemExit(3), KeyboardInterrupt()])
def test_a_collector_that_raises_takes_nothing_else_away(bench, caplog, error):
    custom = Custom(CounterMetricFamily("first", "", 1), CounterMetricFamily("second", "", 1))
    its = bench(custom, Custom(GaugeMetricFamily("other", "", 5)))
    assert set(its.take()) == {"first", "second", "other"}
    custom.gives = (CounterMetricFamily("first", "", 2), error)
    assert its.values() == {("first_total",): 2, ("second_total",): 1, ("other",): 5}
    assert its.dropped == [1]
    assert type(error).__name__ in caplog.text
    assert "Custom" in caplog.text
    custom.gives = (CounterMetricFamily("first", "", 3),)
    assert its.values() == {("first_total",): 3, ("other",): 5}
    assert its.dropped == [1]


def test_an_exception_whose_text_raises_is_told_of(bench, caplog):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    its = bench(Custom(Mute()))
    assert its.take() == {}
    assert "Mute" in caplog.text


def test_a_callback_that_raises_takes_only_its_gauge(bench):
    its = bench()
    Counter("hits", "", registry=its.registry).inc()
    Gauge("level", "", registry=its.registry).set_function(lambda: 1 / 0)
    assert its.values() == {("hits_total",): 1}
    assert its.dropped == [1]


def sample(kind, *samples, name="bad"):
    metric = Metric(name, "", kind)
    for each in samples:
        metric.add_sample(*each)
    return metric


def odd(**attributes):
    metric = GaugeMetricFamily("bad", "", 1)
    for name, value in attributes.items():
        setattr(metric, name, value)
    return metric


BUCKETS = [("bad_bucket", {"le": "1.0"}, 5), ("bad_bucket", {"le": "+Inf"}, 5)]
BAD = {
    "no metric": 7,
    "nothing": None,
    "no number": GaugeMetricFamily("bad", "", "1.5"),
    "value None": sample("gauge", ("bad", {}, None)),
    "value too large": GaugeMetricFamily("bad", "", 10**400),
    "label no text": sample("gauge", ("bad", {"a": 1}, 1)),
    "label name no text": sample("gauge", ("bad", {1: "a"}, 1)),
    "labels no dict": sample("gauge", ("bad", ["a"], 1)),
    "reserved label": sample("gauge", ("bad", {"__name__": "a"}, 1)),
    "no label name": sample("gauge", ("bad", {"": "a"}, 1)),
    "labels alike": sample("gauge", ("bad", {"a.b": "1", "a_b": "2"}, 1)),
    "name of another": sample("gauge", ("worse", {}, 1)),
    "suffix alone": sample("counter", ("_total", {}, 1)),
    "wrong suffix": sample("counter", ("bad", {}, 1)),
    "half a character": odd(name="bad\ud800"),
    "no name": odd(name=""),
    "name no text": odd(name=3),
    "unknown type": odd(type="meter"),
    "type no text": odd(type=[]),
    "samples no list": odd(samples=None),
    "samples no samples": odd(samples=[1]),
    "no +Inf": sample("histogram", BUCKETS[0]),
    "no buckets": sample("histogram", ("bad_sum", {}, 1)),
    "falling buckets": sample("histogram", ("bad_bucket", {"le": "1.0"}, 6), BUCKETS[1]),
    "another count": sample("histogram", *BUCKETS, ("bad_count", {}, 6)),
    "half a count": sample("summary", ("bad_count", {}, 1.5)),
    "bound no number": sample("histogram", ("bad_bucket", {"le": "x"}, 1), BUCKETS[1]),
    "bound not a number": sample("histogram", ("bad_bucket", {"le": "NaN"}, 1), BUCKETS[1]),
    "no bound": sample("histogram", ("bad_bucket", {}, 1), BUCKETS[1]),
    "negative count": sample("summary", ("bad_count", {}, -1)),
    "quantile": sample("summary", ("bad", {"quantile": "2"}, 1)),
    "state": sample("stateset", ("bad", {"bad": "on"}, 2)),
    "state without label": sample("stateset", ("bad", {}, 1)),
    "info": sample("info", ("bad_info", {}, 2)),
    "gauge histogram without sum": GaugeHistogramMetricFamily("bad", "", [("+Inf", 1)], None),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_family_is_left_out_and_its_last_values_stay(bench, caplog, bad):
    custom = Custom(GaugeMetricFamily("bad", "", 3), GaugeMetricFamily("good", "", 1))
    its = bench(custom)
    its.take()
    custom.gives = (BAD[bad], GaugeMetricFamily("good", "", 2))
    assert its.values() == {("bad",): 3, ("good",): 2}
    assert its.dropped == [1]
    (record,) = caplog.records
    assert record.name == "mlserver.metrics"
    assert "Custom" in record.getMessage()


def test_numbers_of_other_kinds_and_text_that_cannot_be_sent_are_made_fit(bench):
    class Number:
        def __float__(self):
            return 1.25

    labelled = GaugeMetricFamily("level", "help \ud800", labels=["file"])
    labelled.add_metric(['a\udcff\n"'], Number())
    assert bench(Custom(labelled)).values() == {("level", ("file", 'a\\udcff\n"')): 1.25}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sum_that_is_no_number_takes_no_buckets_with_it(bench, value):
    its = bench()
    histogram = Histogram("size", "", buckets=[1], registry=its.registry)
    histogram.observe(0.5)
    histogram.observe(value)
    families = its.take()
    assert [sample.name for sample in families["size"].samples][-1] == "size_count"
    assert its.dropped == [1]


def test_a_counter_may_be_named_as_it_is_shown_and_units_must_fit(bench):
    total = Metric("hits_total", "", "counter")
    total.add_sample("hits_total", {}, 2)
    unfit = GaugeMetricFamily("level", "", 1)
    unfit.unit = "meters"
    its = bench(Custom(total, unfit))
    assert its.values() == {("hits_total",): 2, ("level",): 1}
    assert its.take()["level"].unit == ""


def test_created_and_timestamps_are_left_out(bench):
    its = bench(Custom(CounterMetricFamily("hits", "", 1, created=5.0)))
    assert its.values() == {("hits_total",): 1}


@pytest.mark.parametrize(
    "exemplar",
    [
        ({"trace_id": "x" * 130}, 1.0, 2.0),
        ({"trace_id": 5}, 1.0, 2.0),
        ({"trace_id": "x"}, "y", 2.0),
        ({"trace_id": "x"}, 1.0, math.nan),
    ],
)
def test_an_exemplar_that_is_not_valid_is_left_out(bench, exemplar):
    from prometheus_client.samples import Exemplar

    family = CounterMetricFamily("hits", "", 1, exemplar=Exemplar(*exemplar))
    its = bench(Custom(family))
    assert [sample.exemplar for sample in its.take()["hits"].samples] == [None]
    assert its.dropped == [1]


def test_the_servers_own_names_cannot_be_taken(bench, caplog):
    its = bench(
        Custom(GaugeMetricFamily("mine_total", "", 1), CounterMetricFamily("theirs", "", 1)),
        Custom(GaugeMetricFamily("other", "", 1)),
        reserved={"theirs_total"},
    )
    for _ in range(3):
        assert set(its.take()) == {"mine_total", "other"}
        its.now += 10 * QUIET_S
    assert its.dropped == [1, 1, 1]
    (record,) = caplog.records
    assert "theirs_total" in record.getMessage()


def test_two_metrics_of_one_name_do_not_spoil_the_page(bench, caplog):
    first = Custom(CounterMetricFamily("hits", "", 1), CounterMetricFamily("hits", "", 9))
    its = bench(first, Custom(GaugeMetricFamily("hits_total", "", 2), GaugeMetricFamily("level", "", 3)))
    assert its.values() == {("hits_total",): 1, ("level",): 3}
    assert its.dropped == [2]
    assert len(caplog.records) == 2


def test_a_counter_and_a_gauge_of_one_name_do_not_share_a_page(bench):
    its = bench(Custom(CounterMetricFamily("hits", "", 1)), Custom(GaugeMetricFamily("hits", "", 2)))
    assert its.values() == {("hits_total",): 1}


def test_a_warning_comes_once_a_minute(bench, caplog):
    its = bench(Custom(RuntimeError("no luck")), Custom(ValueError("nor here")))
    for _ in range(3):
        its.take()
    assert len(caplog.records) == 1  # both are of one class and have no name: told as one
    its.now = QUIET_S
    its.take()
    assert len(caplog.records) == 2
    assert sum(its.dropped) == 8


@pytest.mark.parametrize("kind", [Counter, Histogram, Summary])
def test_label_sets_beyond_the_budget_are_added_up(bench, caplog, kind):
    its = bench(max_series=3)
    metric = kind("m", "", ["who"], registry=its.registry)
    act = metric.__class__.inc if kind is Counter else lambda child: child.observe(2)
    for who in "abcdef":
        act(metric.labels(who))
    act(metric.labels("f"))
    name = "m_total" if kind is Counter else "m_count"
    expected = {(name, ("who", who)): 1 for who in "abc"} | {(name, ("who", "__overflow__")): 4}
    assert {key: value for key, value in its.values().items() if key[0] == name} == expected
    metric.remove("a")  # who is in stays in, so that what is added up does not fall
    act(metric.labels("g"))
    values = its.values()
    assert values[name, ("who", "__overflow__")] == 5
    assert (name, ("who", "d")) not in values
    assert values[name, ("who", "b")] == 1
    assert its.dropped == [1, 1]
    (record,) = caplog.records
    assert "max_series" in record.getMessage()


def test_gauges_beyond_the_budget_are_left_out(bench):
    its = bench(max_series=2)
    gauge = Gauge("level", "", ["who"], registry=its.registry)
    for number, who in enumerate("abcd"):
        gauge.labels(who).set(number)
    assert its.values() == {("level", ("who", "a")): 0, ("level", ("who", "b")): 1}
    gauge.remove("a")
    assert its.values() == {("level", ("who", "b")): 1, ("level", ("who", "c")): 2}


def test_buckets_and_states_are_not_label_sets(bench):
    its = bench(max_series=1)
    Histogram("size", "", registry=its.registry).observe(1)
    Enum("state", "", registry=its.registry, states=["a", "b", "c"])
    assert len(its.take()["state"].samples) == 3
    assert its.dropped == []


def test_a_snapshot_that_is_too_large_loses_its_largest_metrics(bench, caplog, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 2000)
    its = bench()
    Counter("small", "", registry=its.registry).inc()
    for size in (1500, 900):
        Gauge(f"large{size}", "", ["label"], registry=its.registry).labels("x" * size)
    assert set(its.take()) == {"small", "large900"}
    assert its.dropped == [1]
    assert "large1500" in caplog.text


def test_a_collector_that_never_ends_ends(bench, monkeypatch):
    class Endless(Custom):
        def collect(self):
            while True:
                yield GaugeMetricFamily(f"level{next(numbers)}", "", 1)

    from itertools import count

    numbers = count()
    monkeypatch.setattr("mlserver.exposition.users.vetting.MAX_FAMILIES", 3)
    its = bench(Endless())
    assert len(its.take()) == 3
    assert its.dropped == [1]


def test_samples_without_end_are_not_looked_at(bench, monkeypatch):
    monkeypatch.setattr("mlserver.exposition.users.vetting.MAX_SAMPLES", 3)
    family = GaugeMetricFamily("level", "", labels=["a"])
    for number in range(4):
        family.add_metric([str(number)], 1)
    its = bench(Custom(family))
    assert its.take() == {}
    assert its.dropped == [1]


def hang(its, hanging):
    """Has the collector hang until it is left behind; its thread."""
    hanging.release.clear()
    hanging.entered.clear()
    thread = its.snapshots._thread
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    for _ in range(HUNG_TICKS):
        assert its.snapshots._thread is thread
        its.snapshots.tick()
    assert its.snapshots._thread is not thread
    return thread


def test_a_collector_that_hangs_is_left_behind_until_it_returns(bench, caplog):
    hanging = Hanging(CounterMetricFamily("slow", "", 1))
    its = bench(hanging)
    counter = Counter("hits", "", registry=its.registry)
    assert its.values() == {("slow_total",): 1, ("hits_total",): 0}
    left = hang(its, hanging)
    counter.inc()
    hanging.gives = (CounterMetricFamily("slow", "", 2),)
    assert its.values() == {("slow_total",): 1, ("hits_total",): 1}
    for _ in range(3 * HUNG_TICKS):
        its.snapshots.tick()
    assert its.values()["slow_total",] == 1
    assert sum(its.dropped) >= 2
    assert len(caplog.records) == 1
    assert "hangs" in caplog.text
    assert "Hanging" in caplog.text
    hanging.release.set()
    left.join(PATIENCE_S)
    assert not left.is_alive()
    assert its.values() == {("slow_total",): 2, ("hits_total",): 1}
    assert hanging.most_inside == 1


def test_a_collector_that_hangs_again_is_left_behind_again(bench):
    hanging = Hanging(CounterMetricFamily("slow", "", 1))
    its = bench(hanging)
    for _ in range(2):
        its.take()
        left = hang(its, hanging)
        hanging.release.set()
        left.join(PATIENCE_S)


def test_a_hanging_collector_holds_up_one_thread_even_if_registered_anew(bench):
    hanging = Hanging(CounterMetricFamily("slow", "", 1))
    its = bench(hanging)
    its.take()
    hang(its, hanging)
    its.registry.unregister(hanging)
    assert its.take() == {}
    its.registry.register(hanging)
    assert its.take() == {}
    assert hanging.most_inside == 1
    hanging.release.set()


def test_two_that_hang_are_found_out_one_after_the_other(bench):
    one, two = Hanging(CounterMetricFamily("one", "", 1)), Hanging(CounterMetricFamily("two", "", 1))
    its = bench(one, two, Custom(GaugeMetricFamily("other", "", 1)))
    its.take()
    two.release.clear()
    two.entered.clear()
    hang(its, one)
    assert two.entered.wait(PATIENCE_S)
    for _ in range(HUNG_TICKS):
        its.snapshots.tick()
    its.registry.register(Custom(GaugeMetricFamily("late", "", 1)))
    assert set(its.take()) == {"one", "two", "other", "late"}
    one.release.set()
    two.release.set()


def test_time_that_passes_without_ticks_is_no_hanging(bench):
    hanging = Hanging(CounterMetricFamily("slow", "", 1))
    its = bench(hanging)
    hanging.release.clear()
    thread = its.snapshots._thread
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    for _ in range(HUNG_TICKS - 1):
        its.snapshots.tick()
    its.now += 3600
    hanging.release.set()
    assert set(its.take()) == {"slow"}
    assert its.snapshots._thread is thread
    assert its.dropped == []


def test_a_take_that_is_out_of_time_has_what_the_others_gave_meanwhile(bench):
    hanging = Hanging(GaugeMetricFamily("slow", "", 1))
    its = bench(hanging)
    counter = Counter("hits", "", registry=its.registry)
    its.take()
    counter.inc()
    hanging.release.clear()
    hanging.entered.clear()
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    assert its.values(timeout_s=0.0) == {("slow",): 1, ("hits_total",): 1}
    hanging.release.set()


def test_a_register_that_hangs_does_not_hold_up_the_snapshots(bench):
    its = bench()
    Gauge("level", "", registry=its.registry).set(1)
    with its.registry._lock:  # held while a collector is being described
        assert its.values() == {("level",): 1}


def test_a_take_is_begun_after_the_call(bench):
    entered, release = threading.Semaphore(0), threading.Semaphore(0)

    class Turns(Custom):
        turn = 0

        def collect(self):
            self.turn = turn = self.turn + 1
            entered.release()
            assert release.acquire(timeout=PATIENCE_S)
            yield GaugeMetricFamily("turn", "", turn)

    its = bench(Turns())

    async def run():
        its.snapshots.tick()
        assert await asyncio.to_thread(entered.acquire, timeout=PATIENCE_S)
        take = asyncio.create_task(its.snapshots.take(PATIENCE_S))
        await asyncio.sleep(0)
        release.release()
        assert await asyncio.to_thread(entered.acquire, timeout=PATIENCE_S)
        for _ in range(5):  # whatever the end of the first one has set going
            await asyncio.sleep(0)
        assert not take.done()
        release.release()
        return await take

    (family,) = asyncio.run(run())
    assert family.samples[0].value == 2


def test_a_count_of_losses_that_raises_is_only_told_of(bench, caplog):
    def fail(count):
        raise RuntimeError("no counting")

    its = bench(Custom(ValueError()))
    its.snapshots._on_drop = fail
    assert its.take() == {}
    assert "no counting" in caplog.text


def test_before_the_start_and_after_the_end_nothing_is_waited_for(bench):
    its = bench()
    gauge = Gauge("level", "", registry=its.registry)
    gauge.set(1)
    its.take()
    thread = its.snapshots._thread
    its.snapshots.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    gauge.set(2)
    its.snapshots.tick()
    assert its.values() == {("level",): 1}
    never = Snapshots(its.registry, max_series=1, reserved=lambda _: False, on_drop=lambda _: None)
    assert asyncio.run(never.take(PATIENCE_S)) == []


def test_a_take_whose_caller_has_gone_leaves_nothing_behind(bench):
    hanging = Hanging(GaugeMetricFamily("slow", "", 1))
    its = bench(hanging)
    hanging.release.clear()

    async def run():
        task = asyncio.create_task(its.snapshots.take(PATIENCE_S))
        await asyncio.to_thread(hanging.entered.wait, PATIENCE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert its.snapshots._waiting == []
    hanging.release.set()
    assert set(its.take()) == {"slow"}


def test_the_seeds_predictors_metrics(bench):
    its = bench()
    hits = Counter("prediction_cache_hits_total", "Number of cache hits", registry=its.registry)
    confidence = Histogram(
        "model_confidence_score",
        "Model confidence distribution",
        buckets=[0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0],
        registry=its.registry,
    )
    dollars = Gauge("model_business_value_dollars", "Estimated business value", registry=its.registry)
    classes = Counter("predictions_by_class_total", "By class", ["predicted_class"], registry=its.registry)
    hits.inc()
    confidence.observe(0.75)
    dollars.set(12.5)
    classes.labels(predicted_class="1").inc()
    values = its.values()
    assert values["prediction_cache_hits_total",] == 1
    assert values["model_confidence_score_bucket", ("le", "0.8")] == 1
    assert values["model_business_value_dollars",] == 12.5
    assert values["predictions_by_class_total", ("predicted_class", "1")] == 1


def test_custom_histograms_and_summaries_come_through(bench):
    histogram = HistogramMetricFamily("size", "", buckets=[("1", 1), ("+Inf", 2)], sum_value=3)
    its = bench(Custom(histogram, SummaryMetricFamily("took", "", 2, 5)))
    values = its.values()
    assert values["size_bucket", ("le", "1.0")] == 1
    assert (values["size_sum",], values["took_count",]) == (3, 2)


def test_unregistered_collectors_are_let_go(bench):
    its = bench()
    custom = Custom(GaugeMetricFamily("level", "", 1))
    its.registry.register(custom)
    its.take()
    its.registry.unregister(custom)
    its.take()
    its.take()
    gc.collect()
    assert custom not in [source.collector for source in its.snapshots._sources._known.values()]
