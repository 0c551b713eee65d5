"""Users' own metrics: many workers' snapshots made one."""

from __future__ import annotations

import json
import math
import pickle
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from mlserver.config import make_config
from mlserver.exposition import Exposition
from mlserver.exposition.users.family import Exemplar, Family, Sample, pack, unpack
from mlserver.exposition.users.merge import MAX_FAMILIES, Merger
from mlserver.exposition.users.sums import MAX_BOUNDS, Partials, total


def wired(families):
    """As they come over the control channel."""
    return unpack(json.loads(json.dumps(pack(families))))


def counter(name="hits", **values):
    samples = [Sample(f"{name}_total", {"kind": kind}, value) for kind, value in values.items()]
    return Family(name, "counter", samples=samples)


def gauge(value, mode="", labels=None, name="level"):
    return Family(name, "gauge", mode=mode, samples=[Sample(name, labels or {}, value)])


def histogram(observed, bounds, name="size", labels=None, exemplar=None):
    labels = labels or {}
    samples = []
    for bound in [*bounds, math.inf]:
        le = "+Inf" if bound == math.inf else str(float(bound))
        count = float(sum(value <= bound for value in observed))
        samples.append(Sample(f"{name}_bucket", {**labels, "le": le}, count, exemplar))
    samples.append(Sample(f"{name}_count", labels, float(len(observed))))
    samples.append(Sample(f"{name}_sum", labels, math.fsum(observed)))
    return Family(name, "histogram", samples=samples)


def shown(merger):
    """What a scrape has, in both formats, read back: {(name, labels): value} and the types."""
    registry = CollectorRegistry()
    registry.register(merger)
    strict = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    plain = list(parse(generate_latest(registry).decode()))
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in strict for s in family.samples}
    count = sum(len(family.samples) for family in plain)
    assert count == len(samples)
    return samples


def value(merger, name, **labels):
    return shown(merger).get((name, *sorted(labels.items())))


def merged(*snapshots, max_series=1000):
    """A merger that was given one snapshot by each of several workers."""
    merger = Merger(max_series)
    for number, families in enumerate(snapshots):
        merger.take(number, str(number), wired(families))
    return merger


def test_packed_families_survive_json():
    families = [
        Family("a", "gauge", "help", "", "livemax", [Sample("a", {"x": "é"}, math.inf)]),
        Family("b", "counter", samples=[Sample("b_total", {}, 1.5, Exemplar({"t": "1"}, 0.5, 12.25))]),
    ]
    assert wired(families) == families


@pytest.mark.parametrize("bad", [[["a"]], [["a", "gauge", "", "", "", [1]]], [1]])
def test_what_is_not_packed_families_is_refused(bad):
    with pytest.raises((ValueError, TypeError)):
        unpack(bad)


def test_counters_are_added_up():
    assert shown(merged([counter(a=1, b=2)], [counter(b=3)])) == {
        ("hits_total", ("kind", "a")): 1,
        ("hits_total", ("kind", "b")): 5,
    }


def test_a_dead_workers_counts_stay_and_its_late_snapshot_is_not_looked_at():
    merger = merged([counter(a=5)], [counter(a=1)])
    merger.retire(0)
    merger.take(0, "0", [counter(a=9)])
    assert value(merger, "hits_total", kind="a") == 6
    merger.take(2, "0", [counter(a=2)])
    assert value(merger, "hits_total", kind="a") == 8


def test_a_counter_that_begins_anew_goes_on():
    merger = Merger()
    for count in (5, 2, 4, 0, 1):
        merger.take(1, "0", [counter(a=count)])
    assert value(merger, "hits_total", kind="a") == 5 + 4 + 1


def test_a_label_set_that_is_gone_is_held_and_may_come_back():
    merger = merged([counter(a=5, b=1)])
    merger.take(0, "0", [counter(b=2)])
    assert value(merger, "hits_total", kind="a") == 5
    merger.take(0, "0", [])
    merger.take(0, "0", [counter(a=7)])
    assert value(merger, "hits_total", kind="a") == 7


def test_a_sum_that_falls_by_negative_observations_is_no_new_beginning():
    merger = Merger()

    def summary(count, total):
        return [Family("d", "summary", samples=[Sample("d_count", {}, count), Sample("d_sum", {}, total)])]

    for its in [summary(1, 10.0), summary(2, 7.0)]:
        merger.take(1, "0", its)
    assert (value(merger, "d_count"), value(merger, "d_sum")) == (2, 7)
    merger.take(1, "0", summary(1, 4.0))
    assert (value(merger, "d_count"), value(merger, "d_sum")) == (3, 11)


def test_a_sum_that_is_not_given_for_a_while_is_held():
    merger = merged([histogram([1.0], [2.0])])
    less = histogram([1.0, 1.5], [2.0])
    less.samples.pop()
    merger.take(0, "0", [less])
    assert (value(merger, "size_count"), value(merger, "size_sum")) == (2, 1)


def test_histograms_of_other_buckets_count_at_the_largest_bound_below():
    merger = merged([histogram([0.5, 1.5, 9.0], [1.0, 2.0])], [histogram([0.2, 3.0], [0.25, 2.0, 4.0])])
    buckets = {key[1][1]: count for key, count in shown(merger).items() if key[0] == "size_bucket"}
    assert buckets == {"0.25": 1, "1.0": 2, "2.0": 3, "4.0": 4, "+Inf": 5}
    merger.retire(0)
    assert {key[1][1]: count for key, count in shown(merger).items() if key[0] == "size_bucket"} == buckets


def test_buckets_that_are_drawn_anew_are_added_to_the_old_ones():
    merger = merged([histogram([0.5], [1.0])])
    merger.take(0, "0", [histogram([0.5, 0.7], [0.6, 2.0])])
    assert (value(merger, "size_count"), value(merger, "size_sum")) == (3, pytest.approx(1.7))


def test_bounds_of_the_dead_are_bounded_and_the_page_stays_valid(caplog):
    dropped = []
    merger = Merger(on_drop=dropped.append)
    for worker in range(MAX_BOUNDS + 100):
        merger.take(worker, "0", [histogram([0.5], [1.0 + worker])])
        merger.retire(worker)
    merger.take(10**6, "0", [])
    assert value(merger, "size_count") == MAX_BOUNDS + 100
    assert value(merger, "size_bucket", le="+Inf") == MAX_BOUNDS + 100
    assert sum(key[0] == "size_bucket" for key in shown(merger)) == MAX_BOUNDS
    assert sum(dropped) == 101
    (record,) = caplog.records
    assert "buckets" in record.getMessage()


def test_a_histogram_of_too_many_buckets_shows_the_same_when_its_worker_has_died():
    bounds = [float(bound) for bound in range(1, MAX_BOUNDS + 200)]
    merger = merged([histogram([0.5, 3.0, MAX_BOUNDS + 50.0, 1e9], bounds)])
    before = shown(merger)
    assert value(merger, "size_bucket", le="+Inf") == value(merger, "size_count") == 4
    assert value(merger, "size_bucket", le="3.0") == 2
    merger.retire(0)
    assert shown(merger) == before
    merger.take(1, "0", [histogram([0.25], bounds)])
    after = shown(merger)
    assert after.keys() == before.keys()
    assert all(after[key] >= its for key, its in before.items())
    assert after["size_count",] == 5


def test_negative_buckets_have_neither_sum_nor_count():
    names = {key[0] for key in shown(merged([histogram([-3.0, 1.0], [-1.0, 2.0])]))}
    assert names == {"size_bucket"}


def test_gauge_histograms_tell_their_worker():
    def its(count):
        names = [("g_gcount", {}), ("g_gsum", {}), ("g_bucket", {"le": "+Inf"}), ("g_bucket", {"le": "1.0"})]
        return [
            Family("g", "gaugehistogram", samples=[Sample(name, labels, count) for name, labels in names])
        ]

    merger = merged(its(2.0), its(3.0))
    assert value(merger, "g_gcount", worker="1") == 3
    assert value(merger, "g_bucket", le="1.0", worker="0") == 2
    merger.retire(0)
    merger.take(2, "0", its(4.0))
    assert value(merger, "g_gsum", worker="0") == 4


def test_the_latest_exemplar_is_shown():
    def at(time, value):
        labels = {"trace_id": str(value)}
        return [histogram([0.5], [1.0], exemplar=Exemplar(labels, 0.5, time))]

    merger = merged(at(5.0, 1), at(7.0, 2), at(6.0, 3), at(None, 4))
    merger.retire(1)
    (family,) = merger.collect()
    first = next(iter(family.samples))
    assert first.exemplar.labels == {"trace_id": "2"}
    assert shown(merger)


def test_what_belongs_to_a_worker_has_its_label():
    merger = merged([gauge(1.0)], [gauge(2.0)])
    assert shown(merger) == {("level", ("worker", "0")): 1, ("level", ("worker", "1")): 2}


def test_the_users_own_label_worker_is_kept_under_another_name():
    labels = {"worker": "mine", "exported_worker": "too"}
    assert shown(merged([gauge(1.0, labels=labels)])) == {
        (
            "level",
            ("exported_exported_worker", "mine"),
            ("exported_worker", "too"),
            ("worker", "0"),
        ): 1
    }
    assert shown(merged([gauge(1.0, "max", labels={"worker": "mine"})])) == {("level", ("worker", "mine")): 1}


@pytest.mark.parametrize(("mode", "stays"), [("all", 1.0), ("", 1.0), ("liveall", None)])
def test_a_dead_workers_gauge_stays_until_its_successor_gives_one(mode, stays):
    merger = merged([gauge(1.0, mode)])
    merger.retire(0)
    assert value(merger, "level", worker="0") == stays
    merger.take(1, "0", [gauge(3.0, mode)])
    assert value(merger, "level", worker="0") == 3


def test_of_two_workers_of_a_slot_the_newest_living_one_is_shown():
    merger = Merger()
    merger.take(1, "0", [gauge(1.0)])
    merger.take(2, "0", [gauge(2.0)])
    merger.take(1, "0", [gauge(1.5)])
    assert value(merger, "level", worker="0") == 2
    merger.retire(2)  # a reload that failed
    assert value(merger, "level", worker="0") == 1.5


MODES = {
    "min": ([1.0, 5.0, 3.0], 1.0, 1.0),
    "max": ([5.0, 1.0, 3.0], 5.0, 5.0),
    "sum": ([1.0, 5.0, 3.0], 9.0, 9.0),
    "mostrecent": ([1.0, 5.0, 0.0], 5.0, 5.0),
    "livemin": ([1.0, 5.0, 3.0], 1.0, 3.0),
    "livemax": ([5.0, 1.0, 3.0], 5.0, 3.0),
    "livesum": ([1.0, 5.0, 3.0], 9.0, 8.0),
    "livemostrecent": ([5.0, 1.0, 7.0], 7.0, 7.0),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_make_one_value_of_all_workers(mode):
    values, before, after = MODES[mode]
    merger = merged(*([gauge(its, mode)] for its in values))
    assert shown(merger) == {("level",): before}
    merger.retire(0)
    assert value(merger, "level") == after


def test_most_recent_is_the_last_one_that_changed():
    merger = merged([gauge(1.0, "mostrecent")], [gauge(2.0, "mostrecent")])
    merger.take(0, "0", [gauge(1.0, "mostrecent")])
    assert value(merger, "level") == 2
    merger.take(0, "0", [gauge(4.0, "mostrecent")])
    assert value(merger, "level") == 4
    merger.take(2, "2", [gauge(0.0, "mostrecent")])
    assert value(merger, "level") == 4
    merger.take(1, "1", [gauge(0.0, "mostrecent")])
    assert value(merger, "level") == 0


def test_no_number_is_no_minimum():
    for mode in ("min", "max"):
        assert value(merged([gauge(math.nan, mode)], [gauge(2.0, mode)]), "level") == 2
        assert value(merged([gauge(2.0, mode)], [gauge(math.nan, mode)]), "level") == 2


def test_a_gauge_that_a_worker_no_longer_has_is_not_shown():
    for mode in ("", "sum"):
        merger = merged([gauge(1.0, mode)])
        merger.take(0, "0", [])
        assert shown(merger) == {}


def test_states_and_quantiles_tell_their_worker_and_infos_are_shown_once():
    def its(version):
        return [
            Family("s", "stateset", samples=[Sample("s", {"s": "on"}, 1), Sample("s", {"s": "off"}, 0)]),
            Family("i", "info", samples=[Sample("i_info", {"version": version}, 1)]),
            Family(
                "q", "summary", samples=[Sample("q", {"quantile": "0.5"}, 2.0), Sample("q_count", {}, 3.0)]
            ),
            Family("u", "unknown", samples=[Sample("u", {}, 7.0)]),
        ]

    merger = merged(its("1"), its("1"), its("2"))
    samples = shown(merger)
    assert [key for key in samples if key[0] == "i_info"] == [
        ("i_info", ("version", "1")),
        ("i_info", ("version", "2")),
    ]
    assert samples["s", ("s", "on"), ("worker", "1")] == 1
    assert samples["q", ("quantile", "0.5"), ("worker", "2")] == 2
    assert samples["q_count",] == 9
    assert samples["u", ("worker", "0")] == 7


def test_what_tells_of_a_process_is_not_added_to_another_slots():
    def its(count):
        return [Family("gc", "counter", mode="process", samples=[Sample("gc_total", {"g": "0"}, count)])]

    merger = merged(its(5.0), its(7.0))
    merger.take(9, "supervisor", its(1.0))
    merger.retire(0)
    merger.take(10, "0", its(2.0))
    assert [value(merger, "gc_total", g="0", worker=slot) for slot in ("0", "1", "supervisor")] == [7, 7, 1]


def test_the_newest_worker_knows_what_a_metric_is():
    merger = Merger()
    merger.take(2, "0", [gauge(3.0, name="hits", mode="max")])
    merger.take(1, "1", [counter(a=1.0)])
    assert shown(merger) == {("hits",): 3}
    merger.retire(2)
    assert shown(merger) == {("hits_total", ("kind", "a")): 1}


def scraped(merger):
    """What a scrape of the whole server has of these metrics."""
    config = make_config({"predictor": {"module": "m", "class_name": "C"}}, "/")
    body = Exposition(config, [], [merger]).render("application/openmetrics-text").body.decode()
    families = [family for family in parse_openmetrics(body) if not family.name.startswith("mlserver_")]
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_of_two_metrics_that_share_a_name_the_newest_workers_is_shown():
    merger = Merger()
    merger.take(1, "0", [counter(a=1.0), gauge(2.0, name="z")])
    merger.take(2, "1", [gauge(3.0, name="hits_total")])
    assert scraped(merger) == {("hits_total", ("worker", "1")): 3, ("z", ("worker", "0")): 2}


def test_names_that_only_newer_servers_allow_do_not_spoil_the_page():
    assert len(scraped(merged([gauge(1.0, name="a.b"), gauge(2.0, name="a_b")]))) == 1


def test_label_sets_beyond_the_budget_are_counted_together(caplog):
    dropped = []
    merger = Merger(3, dropped.append)
    merger.take(1, "0", [counter(a=1, b=2, c=3)])
    merger.take(2, "1", [counter(c=1, d=10, e=20)])
    assert value(merger, "hits_total", kind="__overflow__") == 30
    assert value(merger, "hits_total", kind="c") == 4
    merger.retire(2)
    merger.take(3, "1", [counter(f=1, __overflow__=5)])
    assert value(merger, "hits_total", kind="__overflow__") == 36
    assert len(shown(merger)) == 4
    assert sum(dropped) == 3
    assert len(caplog.records) == 1
    assert "hits" in caplog.text


def test_a_larger_budget_is_for_new_label_sets_and_folded_ones_stay_folded():
    merger = Merger(1)
    merger.take(1, "0", [counter(a=1, b=2)])
    merger.take(1, "0", [counter(a=1, b=2), gauge(1.0, "max", {"x": "1"})])
    merger.retire(1)
    merger.take(2, "0", [counter(a=1, b=3), gauge(1.0, "max", {"x": "2"})])
    before = shown(merger)
    assert before["hits_total", ("kind", "__overflow__")] == 5
    merger.adopt(5)
    merger.take(2, "0", [counter(a=1, b=4, c=7), gauge(1.0, "max", {"x": "2"})])
    merger.take(3, "1", [counter(b=10)])
    assert shown(merger) == {
        ("hits_total", ("kind", "a")): 2,
        ("hits_total", ("kind", "c")): 7,
        ("hits_total", ("kind", "b")): 10,
        ("hits_total", ("kind", "__overflow__")): 6,
        ("level", ("x", "1")): 1,
        ("level", ("x", "2")): 1,
    }
    merger.retire(2)
    assert value(merger, "hits_total", kind="__overflow__") == 6
    assert value(merger, "level", x="2") == 1
    merger.take(4, "0", [counter(**{f"n{number}": 1.0 for number in range(9)})])
    assert sum(key[0] == "hits_total" for key in shown(merger)) == 6


def test_memory_does_not_grow_with_deaths_and_label_sets_that_come_and_go():
    merger = Merger(5)

    def live(number):
        """Three snapshots of a worker with other label sets, names, buckets and exemplars each."""
        for turn in range(3):
            unique = f"{number}_{turn}"
            mark = Exemplar({"trace_id": unique}, 0.5, float(number))
            families = [
                counter(**{f"k{unique}": 1.0}),
                counter(f"m{unique}", a=1.0),
                histogram([0.5], [1.0 + number], labels={"kind": unique}, exemplar=mark),
                gauge(1.0, "max", {"kind": unique}, "largest"),
                gauge(1.0, "", {"kind": unique}),
                Family("odd", "counter", samples=[Sample("odd_total", {f"l{unique}": "x"}, 1.0)]),
            ]
            merger.take(number, "0", families)
        merger.retire(number)
        shown(merger) if number % 50 == 0 else None

    def weight():
        return len(pickle.dumps([vars(merger)[name] for name in ("_members", "_kinds", "_readings")])) + sum(
            len(pickle.dumps({key: its for key, its in vars(totals).items() if key != "_on_fold"}))
            for totals in merger._totals.values()
        )

    for number in range(MAX_BOUNDS + 10):
        live(number)
    before = weight()
    for number in range(MAX_BOUNDS + 10, MAX_BOUNDS + 110):
        live(number)
    assert weight() < 1.02 * before
    assert len(merger._totals) < MAX_FAMILIES + 10


def test_a_worker_that_keeps_renewing_its_label_sets_does_not_fill_the_memory():
    merger = Merger(3)
    for number in range(100):
        merger.take(1, "0", [counter(**{f"k{number}": 1.0})])
    assert sum(shown(merger).values()) == 100
    (totals,) = merger._totals.values()
    assert len(totals._last[1]) <= 6


def test_of_the_metrics_that_nobody_has_those_that_changed_longest_ago_go():
    merger = Merger()
    old = counter("old", a=1.0)
    for number in range(MAX_FAMILIES):
        merger.take(1, "0", [old, counter(f"m{number}", a=1.0)])
    merger.take(1, "0", [counter("old", a=2.0)])
    merger.take(1, "0", [counter("new", a=1.0)])
    merger.take(1, "0", [])
    assert value(merger, "old_total", kind="a") == 2
    assert value(merger, "m0_total", kind="a") is None


def test_the_metrics_of_living_workers_leave_room_for_those_that_went():
    merger = Merger()
    many = [counter(f"m{number}", a=1.0) for number in range(MAX_FAMILIES + 10)]
    merger.take(1, "0", [counter("gone", a=1.0), *many])
    merger.take(1, "0", many)
    assert value(merger, "gone_total", kind="a") == 1


def test_metrics_that_nobody_has_any_more_are_forgotten_at_last():
    merger = Merger()
    for number in range(MAX_FAMILIES + 50):
        merger.take(number, "0", [counter(f"m{number}", a=1.0), counter("kept", a=1.0)])
        merger.retire(number)
    merger.take(10**6, "0", [counter("kept", a=1.0)])
    assert value(merger, "m10_total", kind="a") is None
    assert value(merger, f"m{MAX_FAMILIES}_total", kind="a") == 1
    assert value(merger, "kept_total", kind="a") == MAX_FAMILIES + 51
    assert value(merger, "m49_total", kind="a") is None
    assert value(merger, "m50_total", kind="a") == 1
    assert len(merger._totals) == MAX_FAMILIES + 1


def test_a_family_that_cannot_be_put_together_does_not_take_the_others(caplog):
    broken = Family("size", "histogram", samples=[Sample("size_sum", {}, 1.0)])
    assert shown(merged([broken, counter(a=1)])) == {("hits_total", ("kind", "a")): 1}
    assert "size" in caplog.text


# Sequences of what workers do, against plain references.

amounts = st.sampled_from([0.0, 0.1, 0.3, 1e-9, 1.0, 2.5, 1e6, 1e15])
steps = st.lists(
    st.tuples(
        st.sampled_from(["inc", "inc", "snapshot", "snapshot", "kill", "reset", "remove"]),
        st.integers(0, 2),
        st.sampled_from("ab"),
        amounts,
    ),
    max_size=60,
)


@given(steps)
def test_counters_are_the_sum_of_all_that_was_snapshot_and_never_fall(steps):
    merger = Merger()
    number, workers = 3, {slot: slot for slot in range(3)}
    counts = defaultdict(dict)
    lives = []  # (kind, last snapshot of one life of a counter)
    last = {}  # worker, kind -> index into lives
    before = {}
    for step, slot, kind, amount in steps:
        worker = workers[slot]
        own = counts[worker]
        if step == "inc":
            own[kind] = own.get(kind, 0.0) + amount
        elif step == "reset":  # seen by the merger only if the next snapshot has less
            own[kind] = 0.0
        elif step == "remove":
            own.pop(kind, None)
        elif step == "kill":
            merger.retire(worker)
            workers[slot] = number = number + 1
        else:
            merger.take(worker, str(slot), wired([counter(**own)]))
            for its, count in own.items():
                life = last.get((worker, its))
                if life is None or count < lives[life][1]:
                    last[worker, its] = len(lives)
                    lives.append((its, count))
                else:
                    lives[life] = (its, count)
        now = shown(merger)
        assert all(now[key] >= its for key, its in before.items())
        for its in "ab":
            expected = [count for kind, count in lives if kind == its]
            assert now.get(("hits_total", ("kind", its)), 0.0) == math.fsum(expected)
        before = now


BOUNDS = ([1.0, 2.0], [0.5, 2.0, 4.0], [1.0])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["observe", "observe", "snapshot", "kill"]),
            st.integers(0, 2),
            st.sampled_from([0.25, 0.5, 1.0, 1.75, 3.0, 9.0]),
        ),
        max_size=50,
    )
)
def test_histograms_stay_valid_and_count_all_that_was_snapshot(steps):
    merger = Merger()
    number, workers = 3, {slot: slot for slot in range(3)}
    bounds = dict(enumerate(BOUNDS))
    observed = defaultdict(list)
    snapshots = {}
    before = {}
    for step, slot, observation in steps:
        worker = workers[slot]
        if step == "observe":
            observed[worker].append(observation)
        elif step == "snapshot":
            merger.take(worker, str(slot), wired([histogram(observed[worker], bounds[worker])]))
            snapshots[worker] = list(observed[worker])
        else:
            merger.retire(worker)
            workers[slot] = number = number + 1
            bounds[number] = BOUNDS[number % len(BOUNDS)]
        now = shown(merger)  # the strict parser looks after order, rise, +Inf and count
        assert all(now[key] >= its for key, its in before.items())
        before = now
        every = {bound for worker in snapshots for bound in bounds[worker]} | (
            {math.inf} if snapshots else set()
        )
        assert {float(key[1][1]) for key in now if key[0] == "size_bucket"} == every
        for bound in every:
            expected = sum(
                sum(
                    value <= max([b for b in [*bounds[worker], math.inf] if b <= bound], default=-1)
                    for value in its
                )
                for worker, its in snapshots.items()
            )
            le = "+Inf" if bound == math.inf else str(bound)
            assert now["size_bucket", ("le", le)] == expected
        if snapshots:
            assert now["size_sum",] == sum(map(sum, snapshots.values()))


@given(
    st.sampled_from(sorted(MODES)),
    st.lists(
        st.tuples(st.sampled_from(["set", "set", "kill"]), st.integers(0, 2), st.integers(-3, 3)), max_size=40
    ),
)
def test_gauges_are_what_a_plain_reference_says(mode, steps):
    merger = Merger()
    number, workers = 3, {slot: slot for slot in range(3)}
    history = []  # worker, value
    dead = set()
    for step, slot, setting in steps:
        worker = workers[slot]
        if step == "kill":
            merger.retire(worker)
            dead.add(worker)
            workers[slot] = number = number + 1
        else:
            merger.take(worker, str(slot), wired([gauge(float(setting), mode)]))
            history.append((worker, setting))
        counted = [(w, v) for w, v in history if not (mode.startswith("live") and w in dead)]
        newest = dict(counted)
        changed = []
        last = {}
        for w, v in counted:
            if v != last.get(w, 0):
                changed.append(v)
            last[w] = v
        kind = mode.removeprefix("live")
        if kind == "mostrecent":
            expected = changed[-1] if changed else 0
        else:
            expected = {"min": min, "max": max, "sum": sum}[kind](newest.values() or [0])
        assert value(merger, "level") == (expected if newest else None)


@given(st.lists(st.floats(0, 1e300, allow_nan=False), max_size=30))
def test_partial_sums_are_exact(values):
    partials = Partials()
    for its in values:
        partials.add(its)
    assert total(partials.parts) == total(values)


def test_sums_beyond_what_a_float_holds_are_infinite_and_stay_so():
    merger = merged([counter(a=1e308)], [counter(a=1e308)])
    assert value(merger, "hits_total", kind="a") == math.inf
    merger.retire(0)
    merger.retire(1)
    merger.take(3, "1", [counter(a=1.0)])
    assert value(merger, "hits_total", kind="a") == math.inf
