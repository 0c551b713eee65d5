"""What a scrape gets."""

from __future__ import annotations

import gzip
import logging
import math
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar, NativeHistogram, Sample

from mlserver import signals
from mlserver.config import make_config
from mlserver.exposition import Exposition
from mlserver.exposition.known import known
from mlserver.exposition.processes import Processes
from mlserver.pages import Key, Page

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def a_config(**observability):
    data = {"predictor": {"module": "my_model", "class_name": "Model"}, "observability": observability}
    return make_config(data | {"model": {"name": "iris", "version": "1.0.0"}}, Path("/"))


CONFIG = a_config()


class Yields:
    """A collector of given families; an exception among them is raised."""

    def __init__(self, *families):
        self.families = families

    def collect(self):
        for family in self.families:
            if isinstance(family, Exception):
                raise family
            yield family


def rendered(*collectors, accept="", pages=(), config=CONFIG, **options):
    return Exposition(config, pages, collectors, **options).render(accept)


def parsed(*collectors, accept="", **options):
    """Families by name, as the format's own parser sees them; no two of one name."""
    body = rendered(*collectors, accept=accept, **options).body.decode()
    families = list((parse_openmetrics if accept else parse_text)(body))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def all_samples(families):
    return {
        (s.name, *sorted(s.labels.items())): s.value for family in families.values() for s in family.samples
    }


@pytest.fixture
def page():
    """One on which everything has happened."""
    page = Page.private()
    for record, label_sets in {
        "calls": known(CONFIG)["requests_total"],
        "runs_alone": [("iris",)],
        "runs_shared": [("iris",)],
        "request_phase_duration_seconds": [(phase,) for phase in signals.PHASES],
    }.items():
        for labels in label_sets:
            key = Key("histogram", record, labels, signals.LATENCY_BUCKETS)
            values = page.series(key)
            for bucket in range(15):
                values[bucket] = random.randrange(1_000_000)
            values[15] = random.random() * 1e4
            page.put_exemplar(key, 3, TRACE, 0.004, 1700000000.25)
    page.series(Key("histogram", "batch_rows", ("iris",), signals.ROW_BUCKETS))[4] = 7.0
    for metric in signals.METRICS:
        if metric.type != "histogram" and not metric.sources:
            page.series(Key(metric.type, metric.name, ("x",) * len(metric.labels)))[0] = 3.0
    return page


# The formats.


@pytest.mark.parametrize("accept", ["", PROMETHEUS_2_42])
def test_all_there_is_comes_back_from_the_parser(page, accept):
    processes = Processes(lambda: {"supervisor": os.getpid()})
    families = parsed(processes, accept=accept, pages=[page, page])
    names = [
        metric.full_name("mlserver_").removesuffix("_total")
        for metric in signals.CATALOGUE
        if not metric.name.startswith("python_")
    ]
    assert list(families) == names
    found = all_samples(families)
    for metric in signals.METRICS:
        family = families[metric.full_name("mlserver_").removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert {tuple(sorted(set(s.labels) - {"le"})) for s in family.samples} == {
            tuple(sorted(metric.labels))
        }
    page_says = dict(page.read())
    for labels in known(CONFIG)["requests_total"]:
        values = page_says[Key("histogram", "calls", labels, signals.LATENCY_BUCKETS)]
        shown = dict(zip(signals.REQUESTS.labels, labels, strict=True))
        assert found["mlserver_requests_total", *sorted(shown.items())] == 2 * sum(values[:-1])


def test_exemplars_are_in_openmetrics_and_not_in_text(page):
    def exemplars(families):
        return {s.exemplar for f in families.values() for s in f.samples if s.exemplar is not None}

    sample = next(
        sample
        for sample in parsed(accept=OPENMETRICS, pages=[page])["mlserver_prediction_duration_seconds"].samples
        if sample.exemplar
    )
    assert sample.labels == {"model": "iris", "le": "0.005"}
    assert sample.exemplar == Exemplar({"trace_id": TRACE}, 0.004, sample.exemplar.timestamp)
    assert float(sample.exemplar.timestamp) == 1700000000.25
    assert TRACE not in rendered(pages=[page]).body.decode()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2_42, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
        ("application/openmetrics-text", "openmetrics"),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", "openmetrics"),
        ('application/openmetrics-text; version="1.0.0"', "openmetrics"),
        ("application/openmetrics-text;version=1.0.0, */*;q=0.1", "openmetrics"),
        ("*/*, application/openmetrics-text", "openmetrics"),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.6", "openmetrics"),
        ("application/openmetrics-text;q=0.1, text/plain;q=0", "openmetrics"),
        ("text/plain;version=1.0.0, application/openmetrics-text;q=0.5", "openmetrics"),
        (
            "application/vnd.google.protobuf;encoding=delimited, application/openmetrics-text;q=0.8",
            "openmetrics",
        ),
        ("application/openmetrics-text;q=0.5, */*;q=0.5", "openmetrics"),
        ("", "text"),
        ("*/*", "text"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "text"),
        ("text/plain, application/openmetrics-text", "text"),
        ("text/plain;q=0.7, application/openmetrics-text;q=0.6", "text"),
        ("application/openmetrics-text;q=0.5, */*", "text"),
        ("application/openmetrics-text;q=0.5, text/*", "text"),
        ("text/*;q=0.1, */*, application/openmetrics-text;q=0.5", "openmetrics"),
        ("application/openmetrics-text;version=0.0.1", "text"),
        ("application/openmetrics-text;version=2.0.0", "text"),
        ("application/openmetrics-text;version=x.y", "text"),
        ("application/openmetrics-text;q=0", "text"),
        ("application/openmetrics-text;q=0, text/plain;q=0", "text"),
        ("application/openmetrics-text;q=much", "text"),
        ("application/openmetrics-text;q=2", "text"),
        ("application/openmetrics-text;q=-1", "text"),
        ("application/openmetrics-text;q=nan", "text"),
        ("application/json", "text"),
        (";;,=,;q=,", "text"),
    ],
)
def test_the_format_is_the_one_that_the_client_ranks_first(accept, expected):
    answer = rendered(accept=accept)
    if expected == "text":
        assert answer.content_type == b"text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in answer.body
    else:
        assert answer.content_type == b"application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.body.endswith(b"\n# EOF\n")
        assert answer.body.count(b"# EOF") == 1


pieces = st.sampled_from(
    [
        "text/plain",
        "application/openmetrics-text",
        "*/*",
        ";",
        ",",
        "q=",
        "version=",
        "1.0.0",
        "0.5",
        '"',
        " ",
        "é",
    ]
)
EMPTY = Exposition(CONFIG, [])


@given(
    st.one_of(st.text(), st.lists(pieces).map("".join)), st.one_of(st.text(), st.lists(pieces).map("".join))
)
@example("a" * 30_000, "," * 30_000)
def test_no_header_is_an_exception(accept, accept_encoding):
    answer = EMPTY.render(accept, accept_encoding)
    assert answer.content_type.startswith(
        (b"text/plain; version=0.0.4;", b"application/openmetrics-text; version=1.0.0;")
    )


qualities = st.integers(0, 1000).map(lambda q: q / 1000)


@given(qualities, qualities, st.booleans())
def test_the_higher_quality_wins_and_else_the_first(text, openmetrics, text_first):
    ranges = [
        f"text/plain;version=0.0.4;q={text}",
        f"application/openmetrics-text;version=1.0.0;q={openmetrics}",
    ]
    answer = EMPTY.render(",".join(ranges if text_first else ranges[::-1]))
    expected = openmetrics > text or (openmetrics == text > 0 and not text_first)
    assert answer.content_type.startswith(b"application/") == expected


# Compression.


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("gzip", True),
        ("x-gzip", True),
        ("GZIP;Q=0.5", True),
        ("deflate, gzip, br, zstd", True),
        ("*", True),
        ("gzip;q=0.001", True),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("gzip, *;q=0", True),
        ("identity;q=0", False),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity;q=1, *;q=0", False),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=x", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_used_for_whoever_takes_it(page, accept_encoding, expected):
    exposition = Exposition(CONFIG, [page])
    plain, answer = exposition.render(""), exposition.render("", accept_encoding)
    assert answer.encoding == (b"gzip" if expected else None)
    assert (gzip.decompress(answer.body) if expected else answer.body) == plain.body
    assert answer.content_type == plain.content_type
    if expected:
        assert answer.body[4:8] == bytes(4)  # the time, by which equal answers would differ
        assert len(answer.body) < len(plain.body) / 5


# Faults of one collector.

GOOD = GaugeMetricFamily("good", "Is shown.", value=1.0)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize(
    "collector",
    [
        Yields(RuntimeError("broken")),
        Yields(GaugeMetricFamily("half", "", value=1.0), RuntimeError("broken")),
        type("NoIterable", (), {"collect": lambda self: 7})(),
        type("NoneAtAll", (), {"collect": lambda self: None})(),
        type("NotCallable", (), {})(),
    ],
    ids=lambda collector: type(collector).__name__,
)
def test_a_collector_that_raises_is_left_out_and_said_so(accept, collector, caplog):
    dropped = []
    families = parsed(collector, Yields(GOOD), accept=accept, on_drop=dropped.append)
    assert "good" in families
    assert "half" not in families
    assert "mlserver_requests" in families
    assert dropped == [1]
    assert f"Metrics of {type(collector).__name__} are left out of scrapes" in caplog.text


def with_(family, **changes):
    for name, value in changes.items():
        setattr(family, name, value)
    return family


def sampled(*samples, kind="gauge", name="bad", unit=""):
    family = Metric(name, "Help.", kind, unit)
    family.samples = list(samples)
    return family


BAD = {
    "a value that is no number": sampled(Sample("bad", {}, "many")),
    "no value": sampled(Sample("bad", {}, None)),
    "a label that is no text": sampled(Sample("bad", {"n": 1}, 1.0)),
    "text that UTF-8 cannot encode": sampled(Sample("bad", {"n": "\ud800"}, 1.0)),
    "a label without a name": sampled(Sample("bad", {"": "x"}, 1.0)),
    "a label of Prometheus's own": sampled(Sample("bad", {"__name__": "x"}, 1.0)),
    "labels that are one when they are legal": sampled(Sample("bad", {"a.b": "x", "a_b": "y"}, 1.0)),
    "no labels": sampled(Sample("bad", None, 1.0)),
    "no sample": sampled(("bad", 1.0)),
    "another type": with_(sampled(Sample("bad", {}, 1.0)), type="matrix"),
    "no name": with_(sampled(Sample("bad", {}, 1.0)), name=""),
    "no text for a name": with_(sampled(Sample("bad", {}, 1.0)), name=None),
    "a sample without a name": sampled(Sample("", {}, 1.0)),
    "a unit that its name has not": with_(sampled(Sample("bad", {}, 1.0)), unit="seconds"),
    "no help": with_(sampled(Sample("bad", {}, 1.0)), documentation=None),
    "no family": "bad",
    "nothing": None,
    "a name of the server's own": GaugeMetricFamily("mlserver_active_requests", "Mine.", value=7.0),
    "a sample's name of the server's own": GaugeMetricFamily("mlserver_requests_total", "Mine.", value=7.0),
    "a name that is the server's when it is legal": GaugeMetricFamily("mlserver.workers", "Mine.", value=7.0),
    "another's samples": sampled(Sample("mlserver_active_requests", {}, 7.0)),
}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_family_that_cannot_be_shown_is_left_out_alone(bad, accept, caplog):
    dropped = []
    without = rendered(Yields(GOOD), accept=accept).body
    answer = rendered(Yields(bad, GOOD), accept=accept, on_drop=dropped.append)
    assert answer.body == without
    assert dropped == [1]
    assert "is left out of scrapes" in caplog.text


def test_of_two_families_with_one_name_the_first_is_shown(caplog):
    families = parsed(
        Yields(CounterMetricFamily("jobs", "First.", value=1.0)),
        Yields(
            CounterMetricFamily("jobs", "Second.", value=2.0), GaugeMetricFamily("jobs_total", "", value=3.0)
        ),
        Yields(
            HistogramMetricFamily("size", "", [("+Inf", 1.0)], 1.0), CounterMetricFamily("size_count", "", 1)
        ),
    )
    assert families["jobs"].documentation == "First."
    assert [sample.value for sample in families["jobs"].samples] == [1.0]
    assert families["size"].type == "histogram"
    assert "another metric has the name jobs already: give it another name" in caplog.text
    assert "size_count" not in families


def test_a_name_is_taken_before_there_is_a_sample():
    later = GaugeMetricFamily("jobs_total", "", value=3.0)
    assert "jobs_total" not in parsed(
        Yields(CounterMetricFamily("jobs", "None yet.", labels=["kind"]), later)
    )


def test_faults_are_logged_once_a_minute_for_each_collector(caplog):
    clock = [100.0]
    bad = Yields(*[with_(GaugeMetricFamily("bad", "", value=1.0), type=str(number)) for number in range(5)])
    exposition = Exposition(CONFIG, [], [bad, Yields(RuntimeError("x"))], now=lambda: clock[0])
    expected = 0
    for now, more in ((100, 2), (101, 0), (159.9, 0), (160.1, 2), (161, 0)):
        clock[0] = now
        exposition.render("")
        expected += more
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == expected


# What others' metrics look like.


def test_every_kind_of_metric_comes_back_and_created_never(page):
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels('a\\b"c\nd é').inc(
        2, exemplar={"trace_id": "1"}
    )
    Gauge("depth", "A \\ and\na line.", registry=registry).set(math.inf)
    Gauge("when_created", "Not what it seems.", registry=registry).set(5)
    Histogram("size", "Sizes.", registry=registry, unit="bytes").observe(3)
    Summary("wait", "Waits.", registry=registry).observe(3)
    Info("build", "Build.", registry=registry).info({"commit": "4c1f"})
    Enum("mood", "Mood.", states=["good", "bad"], registry=registry).state("bad")
    for accept in ("", OPENMETRICS):
        found = all_samples(parsed(registry, accept=accept))
        assert found["jobs_total", ("kind", 'a\\b"c\nd é')] == 2
        assert found["depth",] == math.inf
        assert found["when_created",] == 5
        assert found["size_bytes_bucket", ("le", "5.0")] == found["size_bytes_count",] == 1
        assert found["wait_sum",] == 3
        assert found["build_info", ("commit", "4c1f")] == 1
        assert found["mood", ("mood", "bad")] == 1
        assert {key for key in found if key[0].endswith("_created")} == {("when_created",)}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_native_histogram_is_left_out_and_the_classic_one_is_not(accept):
    family = HistogramMetricFamily("size", "Sizes.", [("1.0", 1.0), ("+Inf", 2.0)], 3.0)
    family.add_sample("size", {}, None, native_histogram=NativeHistogram(2, 3, 3, 0.01, 0))
    found = all_samples(parsed(Yields(family), accept=accept))
    assert found["size_count",] == 2
    assert ("size",) not in found


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_names_beyond_the_classic_ones_become_legal(accept):
    family = GaugeMetricFamily("9 tiny.things", "Help.", labels=["a.b", "1st"])
    family.add_metric(["x", "y"], 1.0)
    found = all_samples(parsed(Yields(family), accept=accept))
    assert found["_9_tiny_things", ("_1st", "y"), ("a_b", "x")] == 1
    assert family.name == "9 tiny.things"
    assert family.samples == [Sample("9 tiny.things", {"a.b": "x", "1st": "y"}, 1.0)]


def test_an_exemplar_that_would_break_the_format_is_left_out_alone():
    family = CounterMetricFamily("jobs", "Jobs.", value=3.0, exemplar=Exemplar({"trace.id": "1"}, 1.0))
    (sample,) = parsed(Yields(family), accept=OPENMETRICS)["jobs"].samples
    assert (sample.value, sample.exemplar) == (3.0, None)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_prefix_with_a_colon_is_kept_in_every_name(accept):
    families = parsed(accept=accept, config=a_config(metrics_prefix="team:ml_"))
    for family in families.values():
        assert family.name.startswith("team:ml_")
        assert all(sample.name.startswith("team:ml_") for sample in family.samples)


def test_another_configuration_is_taken_over(page):
    exposition = Exposition(CONFIG, [page])
    exposition.adopt(a_config(metrics_prefix="acme_", buckets={"batch_rows": [1, 16]}))
    families = {family.name: family for family in parse_text(exposition.render("").body.decode())}
    assert all(name.startswith("acme_") for name in families)
    bounds = {s.labels["le"] for s in families["acme_batch_rows"].samples if "le" in s.labels}
    assert bounds == {"1.0", "16.0", "+Inf"}


# Prometheus's own word.


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("prefix", ["mlserver_", "acme:"])
def test_promtool_has_nothing_to_say(page, prefix):
    processes = Processes(lambda: {"supervisor": os.getpid(), "0": os.getpid()})
    answer = rendered(processes, pages=[page, Page.private()], config=a_config(metrics_prefix=prefix))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=answer.body, capture_output=True, check=False
    )
    said = (checked.stdout + checked.stderr).decode()
    if prefix.endswith(":"):  # that such names are for recording rules is the configuration's doing
        said = "\n".join(line for line in said.splitlines() if "should not contain ':'" not in line)
        assert said == ""
    else:
        assert (said, checked.returncode) == ("", 0)


def test_a_scrape_of_a_new_server_is_of_a_sensible_size():
    processes = Processes(lambda: {str(slot): os.getpid() for slot in range(5)})
    assert rendered(processes).body.count(b"\n") < 700
