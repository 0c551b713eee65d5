"""Users' own metrics: what a worker takes from prometheus_client's registry, whatever it finds there."""

from __future__ import annotations

import asyncio
import gc
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
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

from mlserver.exposition.users import clients, sources
from mlserver.exposition.users.lanes import HUNG_TICKS
from mlserver.exposition.users.merge import Merger
from mlserver.exposition.users.snapshot import QUIET_S, Snapshots
from mlserver.exposition.users.sources import Source

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


def folded(its, name="m_total"):
    return its.values().get((name, ("who", "__overflow__")))


def custom(kind, **values):
    if kind is Counter:
        family = CounterMetricFamily("m", "", labels=["who"])
        for who, value in values.items():
            family.add_metric([who], value)
    else:
        family = HistogramMetricFamily("m", "", labels=["who"])
        for who, value in values.items():
            family.add_metric([who], [("1", value), ("+Inf", value)], value)
    return (family,)


@pytest.mark.parametrize("kind", [Counter, Histogram])
def test_what_is_folded_never_falls_and_never_jumps(bench, kind):
    source = Custom()
    its = bench(source, max_series=1)
    name = "m_total" if kind is Counter else "m_count"
    for values, expected in [
        ({"a": 1, "b": 5, "c": 2}, 7),
        ({"a": 1, "c": 2}, 7),  # one is removed
        ({"a": 1, "b": 1, "c": 2}, 8),  # and begins anew
        ({"a": 1, "b": 3, "c": 1}, 11),  # one is reset
        ({"a": 1}, 11),  # fewer than the budget: who is folded stays so
        ({"d": 1}, 12),
        ({}, 12),
        ({"d": 2}, 13),  # it was only left out once
        ({}, 13),
        ({"d": 2}, 13),
    ]:
        source.gives = custom(kind, **values)
        assert folded(its, name) == expected


@given(
    st.sampled_from([Counter, Histogram, Summary]),
    st.lists(
        st.tuples(st.sampled_from(["inc", "inc", "inc", "remove", "snapshot"]), st.sampled_from("abcde")),
        max_size=40,
    ),
)
def test_folded_label_sets_count_all_that_was_seen(kind, steps):
    registry = CollectorRegistry()
    metric = kind("m", "", ["who"], registry=registry)
    source = Source(metric, ["m"], 2, lambda _: False)
    merger = Merger(2)
    shown_alone, held, seen, past = set(), {}, {}, 0.0
    now = {}
    for step, who in steps:
        if step == "inc":
            child = metric.labels(who)
            child.inc() if kind is Counter else child.observe(1.0)
            now[who] = now.get(who, 0) + 1
        elif step == "remove":
            metric.remove(who)
            now.pop(who, None)
        else:
            shown_alone |= set([its for its in now if its not in shown_alone][: 2 - len(shown_alone)])
            for its in shown_alone & now.keys():  # one that is removed may come back
                past += held.get(its, 0) if now[its] < held.get(its, 0) else 0
                held[its] = now[its]
            past += sum(count for its, count in seen.items() if now.get(its, 0) < count)
            seen = {its: count for its, count in now.items() if its not in shown_alone}
            source.keep(source.vetting.collect())
            merger.take(1, "0", [vetted.family for vetted in source.good.values()])
            samples = [sample for family in merger.collect() for sample in family.samples]
            assert len({(its.name, *its.labels.items()) for its in samples}) == len(samples)
            suffix = "_total" if kind is Counter else "_count"
            shown = sum(its.value for its in samples if its.name == f"m{suffix}")
            assert shown == past + sum(seen.values()) + sum(held.values())


def test_a_users_own_overflow_is_no_second_one(bench):
    its = bench(max_series=2)
    counter = Counter("m", "", ["who"], registry=its.registry)
    for who in ("__overflow__", "a", "b", "c"):
        counter.labels(who).inc(10 if who == "__overflow__" else 1)
    assert folded(its) == 11
    assert len(its.take()["m"].samples) == 3


def test_labels_that_have_a_meaning_for_other_types_are_label_sets(bench):
    its = bench(max_series=2)
    counter = Counter("m", "", ["quantile"], registry=its.registry)
    gauge = Gauge("level", "", ["le"], registry=its.registry)
    source = GaugeMetricFamily("own", "", labels=["quantile"])
    for number in range(5):
        counter.labels(str(number)).inc()
        gauge.labels(str(number))
        source.add_metric([str(number)], 1)
    its.registry.register(Custom(source))
    families = its.take()
    assert {name: len(family.samples) for name, family in families.items()} == {"m": 3, "level": 2, "own": 2}
    assert its.values()["m_total", ("quantile", "__overflow__")] == 3


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


def hang(its, hanging, lane=1):
    """Has the collector hang until it is left behind; its thread."""
    hanging.release.clear()
    hanging.entered.clear()
    held = its.snapshots._lanes[lane]
    thread = held.thread
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    for _ in range(HUNG_TICKS):
        assert held.thread is thread
        its.snapshots.tick()
    assert held.thread is not thread
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
    thread = its.snapshots._lanes[1].thread
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    for _ in range(HUNG_TICKS - 1):
        its.snapshots.tick()
    its.now += 3600
    hanging.release.set()
    assert set(its.take()) == {"slow"}
    assert its.snapshots._lanes[1].thread is thread
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


def everything(registry):
    Counter("hits", "", registry=registry).inc()
    Gauge("level", "", registry=registry).inc()
    Histogram("size", "", registry=registry).observe(1)
    Summary("took", "", registry=registry).observe(1)
    Info("build", "", registry=registry).info({"version": "1"})
    Enum("state", "", registry=registry, states=["on", "off"]).state("off")


EVERYTHING = {
    ("hits_total",): 1,
    ("level",): 1,
    ("size_count",): 1,
    ("took_count",): 1,
    ("build_info", ("version", "1")): 1,
    ("state", ("state", "off")): 1,
}


@pytest.mark.parametrize("function", [False, True])
def test_the_clients_own_metrics_are_not_held_up_by_others(bench, function):
    hanging = Hanging(GaugeMetricFamily("slow", "", 1))
    its = bench()
    if function:  # first one without, then with one that hangs
        gauge = Gauge("slow", "", ["x"], registry=its.registry).labels("y")
        its.take()
        gauge.set_function(lambda: len(list(hanging.collect())))
    else:
        its.registry.register(hanging)
    hanging.release.clear()
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    everything(its.registry)

    async def take():
        taking = asyncio.create_task(its.snapshots.take(PATIENCE_S))
        await asyncio.sleep(0)
        future = its.snapshots._lanes[0].waiting[0][2]
        await asyncio.wait_for(asyncio.shield(future), PATIENCE_S)
        assert not taking.done()
        hanging.release.set()
        return await taking

    families = asyncio.run(take())
    merger = Merger()
    merger.take(1, "0", families)
    samples = {
        (sample.name, *(item for item in sorted(sample.labels.items()) if item[0] != "worker")): sample.value
        for family in merger.collect()
        for sample in family.samples
    }
    assert samples.items() >= EVERYTHING.items()


def test_a_take_out_of_time_has_the_clients_own_as_they_are_now(bench):
    hanging = Hanging(GaugeMetricFamily("slow", "", 1))
    its = bench(hanging)
    its.take()
    hanging.release.clear()
    hanging.entered.clear()
    its.snapshots.tick()
    assert hanging.entered.wait(PATIENCE_S)
    everything(its.registry)

    async def take():
        own = its.snapshots._lanes[0]
        taking = asyncio.create_task(its.snapshots.take(PATIENCE_S))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.shield(own.waiting[0][2]), PATIENCE_S)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        return await its.snapshots.take(0.0)

    assert {family.name for family in asyncio.run(take())} == {
        *("hits", "level", "size", "took", "build", "state", "slow")
    }
    hanging.release.set()


def test_a_class_made_from_a_clients_may_hang(bench):
    class Slow(Counter):
        def collect(self):
            entered.set()
            assert release.wait(PATIENCE_S)
            return super().collect()

    entered, release = threading.Event(), threading.Event()
    its = bench()
    Slow("slow", "", registry=None)
    release.set()
    slow = Slow("slow", "", registry=its.registry)
    release.clear()
    entered.clear()
    patched = Counter("patched", "", registry=its.registry)
    patched.collect = slow.collect
    hits = Counter("hits", "", registry=its.registry)
    its.snapshots.tick()
    assert entered.wait(PATIENCE_S)
    hits.inc()
    lane = its.snapshots._lanes[0]

    async def own():
        taking = asyncio.create_task(its.snapshots.take(PATIENCE_S))
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.shield(lane.waiting[0][2]), PATIENCE_S)
        release.set()
        return await taking

    families = {family.name: family for family in asyncio.run(own())}
    assert families["hits"].samples[0].value == 1


def test_the_clients_own_are_as_its_collect_has_them(bench):
    its = bench()
    registry = its.registry
    hits = Counter("hits", "", ["b", "a"], registry=registry)
    size = Histogram("size", "", ["x"], registry=registry, buckets=[0.5, 2])
    below = Histogram("below", "", registry=registry, buckets=[-1, 2])
    took = Summary("took", "", ["x"], registry=registry)
    level = Gauge("level", "", ["x"], registry=registry)
    for turn in range(4):
        hits.labels("1", str(turn)).inc(turn, exemplar={"trace_id": str(turn)})
        size.labels("é\n").observe(turn, exemplar={"trace_id": str(turn)})
        size.labels(str(turn))
        below.observe(turn - 2)
        took.labels("x").observe(1.5)
        level.labels(str(turn)).set(-turn)
        if turn == 2:
            hits.remove("1", "0")
        expected = {
            (sample.name, *sorted(sample.labels.items())): (sample.value, sample.exemplar)
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        got = {
            (sample.name, *sorted(sample.labels.items())): (sample.value, sample.exemplar)
            for family in its.take().values()
            for sample in family.samples
        }
        assert got == expected
    assert its.dropped == []


def test_what_has_not_changed_is_not_made_anew(bench):
    its = bench()
    size = Histogram("size", "", ["x"], registry=its.registry)
    for who in "ab":
        size.labels(who).observe(1)
    before = its.take()["size"].samples
    size.labels("b").observe(1)
    after = its.take()["size"].samples
    half = len(before) // 2
    assert all(one is other for one, other in zip(before[:half], after[:half], strict=True))
    assert after[half:] != before[half:]
    size.remove("a")
    assert its.take()["size"].samples == after[half:]


def test_a_client_that_has_changed_inside_is_collected_as_any_other(bench, monkeypatch):
    its = bench()
    Counter("hits", "", registry=its.registry).inc()

    def changed(child):
        raise AttributeError("_value")

    monkeypatch.setitem(clients._READERS, Counter, changed)
    its.take()
    assert its.values() == {("hits_total",): 1}


def test_a_metric_whose_collect_is_replaced_is_asked_by_it(bench):
    its = bench()
    hits = Counter("hits", "", registry=its.registry)
    hits.collect = lambda: [CounterMetricFamily("hits", "", 7)]
    assert its.values() == {("hits_total",): 7}


def test_sums_of_metrics_that_come_and_go_are_kept_but_not_for_ever_new_ones(bench, monkeypatch):
    monkeypatch.setattr("mlserver.exposition.users.vetting.MAX_ABSENT", 3)
    source = Custom(*custom(Counter, a=1, b=5))
    its = bench(source, max_series=1)
    its.take()
    source.gives = ()
    its.take()
    source.gives = custom(Counter, a=1, b=2)
    assert folded(its) == 7
    for number in range(9):
        source.gives = (GaugeMetricFamily(f"level{number}", "", 1),)
        its.take()
    (held,) = [each for each in its.snapshots._sources._known.values() if each.collector is source]
    assert list(held.vetting._budgets) == [f"level{number}" for number in (5, 6, 7, 8)]


def test_a_metric_that_becomes_another_type_is_counted_anew(bench):
    gauge = GaugeMetricFamily("m", "", labels=["who"])
    for who in "ab":
        gauge.add_metric([who], 1)
    source = Custom(gauge)
    its = bench(source, max_series=1)
    assert len(its.take()["m"].samples) == 1
    source.gives = custom(Counter, a=1, b=2)
    assert folded(its) == 2


def test_one_of_the_clients_own_that_hangs_all_the_same_is_left_behind(bench, caplog):
    class Value(Hanging):
        def get(self):
            list(self.collect())
            return 1.0

        def get_exemplar(self):
            return None

    its = bench()
    counter = Counter("hits", "", registry=its.registry)
    counter._value = value = Value()
    assert its.values() == {("hits_total",): 1}
    left = hang(its, value, lane=0)
    assert its.values() == {("hits_total",): 1}
    assert "hits" in caplog.text
    value.release.set()
    left.join(PATIENCE_S)
    assert not left.is_alive()


def test_closing_wakes_whoever_waits(bench):
    hanging = Hanging(GaugeMetricFamily("slow", "", 1))
    its = bench(hanging)
    hanging.release.clear()

    async def run():
        taking = asyncio.create_task(its.snapshots.take(10 * PATIENCE_S))
        assert await asyncio.to_thread(hanging.entered.wait, PATIENCE_S)
        its.snapshots.close()
        return await asyncio.wait_for(taking, PATIENCE_S)

    assert asyncio.run(run()) == []
    hanging.release.set()


def test_collecting_at_once_needs_no_threads():
    registry = CollectorRegistry()
    Counter("hits", "", registry=registry).inc()
    registry.register(Custom(GaugeMetricFamily("level", "", 1), RuntimeError()))
    its = sources.Sources(registry, 10, lambda _: False)
    assert [family.name for family in its.collect_now()] == ["hits", "level"]


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
    thread = its.snapshots._lanes[1].thread
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
    assert [lane.waiting for lane in its.snapshots._lanes] == [[], []]
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


def test_a_collector_that_takes_longer_than_it_may_is_shown_once_it_is_done(bench):
    gate, entered = threading.Event(), threading.Event()

    class Slow(Custom):
        def collect(self):
            entered.set()
            gate.wait()
            return super().collect()

    slow = Slow()
    slow.gives = custom(Counter, a=3)
    its = bench(slow)
    its.snapshots.tick()
    entered.wait(10)
    for _ in range(HUNG_TICKS + 1):
        its.snapshots.tick()
    left = [thread for thread in threading.enumerate() if thread.name == "user-metrics-other"]
    gate.set()
    for thread in left:
        if getattr(thread, "left", False):
            thread.join(10)
    assert its.snapshots._sources.assemble()[0][0].samples[0].value == 3


def test_exemplars_that_come_later_count_among_the_bytes_of_a_snapshot(bench, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 2000)
    registry = CollectorRegistry()
    seen = Histogram("seen", "", registry=registry, buckets=[1.0])
    its = bench(seen)
    assert its.values()[("seen_count",)] == 0
    seen.observe(0.5, {"trace_id": "\U0001f600" * 100})
    seen.observe(2.0, {"trace_id": "\U0001f600" * 100})
    assert ("seen_count",) not in its.values()


def test_more_label_sets_than_are_looked_at_keep_what_was_last_seen(bench, monkeypatch, caplog):
    monkeypatch.setattr("mlserver.exposition.users.clients.MAX_CHILDREN", 3)
    counter = Counter("many", "", ["who"], registry=CollectorRegistry())
    for who in "abc":
        counter.labels(who).inc()
    its = bench(counter)
    before = its.values()
    counter.labels("d").inc()
    assert its.values() == before
    assert "many has 4 label sets" in caplog.text


def test_what_was_read_before_a_value_that_is_none_is_not_taken_for_shown(bench):
    seen = Gauge("seen", "", ["who"], registry=CollectorRegistry())
    first, second = seen.labels("x"), seen.labels("y")
    its = bench(seen)
    first.set(1), second.set(1)
    its.take()
    first.set(42)
    second._value.set("odd")
    assert its.values()["seen", ("who", "x")] == 1
    second.set(1)
    assert its.values()["seen", ("who", "x")] == 42


def test_two_metrics_whose_names_are_shown_alike_are_one_too_many(bench):
    first, second = (GaugeMetricFamily(name, "", value=1) for name in ("_1a", "1a"))
    its = bench(Custom(first), Custom(second))
    assert list(its.take()) == ["_1a"]
    assert sum(its.dropped) == 1
