"""What `make bench` says follows from what it measured, and the page shows what is in the results."""

from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = {"p50_ms": 1.0, "p99_ms": 2.0, "errors": 0, "cpu_us": 30.0, "rss_mb": 200.0, "others": 0.0}
MEMORY = {"100032": 250.0, "2000032": 254.5}


@pytest.fixture(scope="module")
def benchmark():
    """A function from names to modules of `benchmarks`."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def row(server, rate, model="regression", connections=32, **figures):
    middle = FIGURES | {"rate": rate, "load": 0.5, "others_beside": 0.0} | figures
    return {
        "server": server,
        "model": model,
        "connections": connections,
        "varied": False,
        "median": middle,
        "rounds": [middle],
    }


def result(*rows, memory=MEMORY):
    titles = {each["server"]: each["server"].upper() for each in rows}
    return {"titles": titles, "rows": rows, "memory_mb": memory}


def verdicts(found):
    return [(target.measured, target.reached) for target in found if target.measured]


def test_the_page_and_its_picture_show_the_results_that_are_there(benchmark):
    report = benchmark("report")
    assert report.PAGE.read_text("utf-8") == report.page(), "run `python benchmarks/report.py`"
    assert report.PICTURE.read_text("utf-8") == report.picture(report.read("throughput"))


@pytest.mark.parametrize(
    ("rate", "verdict"), [(6500, ("0.65", True)), (6499, ("0.65", False))], ids=["just", "just not"]
)
def test_a_share_of_the_floor_is_reached_from_its_limit_on(benchmark, rate, verdict):
    rows = result(row("on", rate), row("floor", 10_000), memory={})
    assert verdict in verdicts(benchmark("targets").targets(rows))


def test_the_best_peer_is_the_fastest_that_made_no_errors(benchmark):
    peers = row("seldon", 100), row("bentoml", 50), row("litserve", 900, errors=1)
    found = verdicts(benchmark("targets").targets(result(row("on", 1800), *peers, memory={})))
    assert ("18.00", True) in found


@pytest.mark.parametrize(
    ("p99", "verdict"), [(2.5, ("2.50", True)), (2.6, ("2.60", False))], ids=["just", "just not"]
)
def test_a_tail_is_held_against_its_own_median(benchmark, p99, verdict):
    found = verdicts(benchmark("targets").targets(result(row("on", 1, p99_ms=p99), memory={})))
    assert found == [verdict]


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        (MEMORY, ("+4.5 MB", True)),
        (MEMORY | {"2000032": 255.5}, ("+5.5 MB", False)),
        ({"100032": 250.0, "900000": 251.0}, ("+1.0 MB after 900,000", None)),
    ],
    ids=["little", "much", "not all"],
)
def test_memory_counts_only_after_all_requests(benchmark, memory, verdict):
    assert verdicts(benchmark("targets").targets(result(memory=memory))) == [verdict]


def test_what_was_not_measured_is_neither_reached_nor_missed(benchmark):
    found = list(benchmark("targets").targets(result(row("on", 1, errors=3), memory={})))
    assert len(found) == 12
    assert {target.reached for target in found} == {None}


def test_a_row_with_errors_is_shown_as_not_valid_and_a_disturbed_one_is_marked(benchmark):
    rows = row("on", 1234, errors=2), row("off", 99, others_beside=0.06), row("floor", 77)
    table = benchmark("report").results_table(result(*rows))
    assert "| ON | not valid (1,234) |" in table
    assert "| OFF | 99 ~ |" in table
    assert "| FLOOR | 77 |" in table


@pytest.mark.parametrize(("others", "said"), [(0.05, ""), (0.06, "1 of 2 rows")], ids=["quiet", "disturbed"])
def test_a_run_that_others_disturbed_says_so(benchmark, others, said):
    warning = benchmark("report").warning(result(row("on", 1), row("off", 1, others=others)))
    assert said in warning
    assert bool(warning) == bool(said)


def test_bars_are_as_long_as_their_values_and_those_with_errors_are_left_out(benchmark):
    rows = row("floor", 400), row("on", 300), row("litserve", 100), row("bentoml", 200, errors=1)
    picture = ET.fromstring(benchmark("report").picture(result(*rows)))
    widths = [
        float(each.get("width")) for each in picture.findall(".//{*}rect") if each.get("height") != "100%"
    ]
    assert [width / widths[0] for width in widths] == [1, 0.75, 0.25]


def test_the_median_of_rounds_keeps_every_error_and_the_worst_disturbance(benchmark):
    reading = benchmark("measure").Reading
    rounds = [
        reading(rate, 1.0, 2.0, errors, 30.0, 200.0, 0.5, others, 0.0)
        for rate, errors, others in [(10.0, 0, 0.01), (30.0, 2, 0.2), (20.0, 1, 0.0)]
    ]
    found = benchmark("throughput").median(rounds)
    assert (found["rate"], found["errors"], found["others"]) == (20.0, 3, 0.2)


class Wire:
    def __init__(self):
        self.sent = 0

    def write(self, data):
        self.sent += 1


def test_a_latency_counts_from_when_the_request_was_due_though_no_connection_was_free(benchmark):
    arrivals, now = benchmark("arrivals"), [0.0]
    client = arrivals.Client(b"", iter([1.0, 2.0]), lambda: now[0])
    connection = arrivals.Connection()
    connection.transport, connection.client = Wire(), client
    client.release(connection)
    for now[0] in (0.5, 1.25, 2.0):
        client.send_what_is_due()
    assert connection.transport.sent == 1
    now[0] = 5.0
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n{")
    assert client.latencies == []
    connection.data_received(b"}")
    assert connection.transport.sent == 2
    now[0] = 6.0
    connection.data_received(b"HTTP/1.1 503 Busy\r\n\r\n{}")
    assert client.latencies == [(1.0, 4.0), (2.0, 4.0)]
    assert (client.late, client.errors, client.done) == ([0.25, 0.0], 1, True)


def test_arrivals_come_at_the_rate_asked_for_and_not_evenly(benchmark):
    times = list(benchmark("arrivals").times(1000, 20, seed=1))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert 19_500 < len(times) < 20_500
    assert times == sorted(times)
    assert 0.95 < (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean < 1.05


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 51), (0.99, 100), (0.0, 1)], ids=["median", "tail", "least"]
)
def test_a_quantile_is_one_of_the_values(benchmark, share, expected):
    assert benchmark("arrivals").quantile(list(range(100, 0, -1)), share) == expected


def test_a_body_of_the_open_inference_protocol_holds_the_same_numbers(benchmark):
    works = benchmark("works")
    (given,) = json.loads(works.inference(works.WIDE))["inputs"]
    width = given["shape"][1]
    assert [given["data"][at : at + width] for at in range(0, len(given["data"]), width)] == works.WIDE
