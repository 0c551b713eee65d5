"""A worker's part in scrapes, over a real channel whose other end is the test."""

from __future__ import annotations

import asyncio
import platform
import socket
from importlib.metadata import version

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from mlserver import signals
from mlserver.config import make_config
from mlserver.exposition import Exposition, Rendered
from mlserver.exposition.users.snapshot import Snapshots
from mlserver.pages import Key, Page
from mlserver.server import scrapes as module
from mlserver.server.control import Channel, Scrape, Snapshot
from mlserver.server.metrics import SUPERVISOR, FleetMetrics
from mlserver.server.scrapes import Scrapes, packed

CONFIG = make_config({"predictor": {"module": "m", "class_name": "C"}}, "/")


def samples(body):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


class Bench:
    """A worker's scrapes and the supervisor's end of its channel."""

    def __init__(self, patience_s):
        self.patience_s = patience_s

    async def __aenter__(self):
        ours, theirs = socket.socketpair()
        self.worker, self.supervisor = await Channel.over(ours), await Channel.over(theirs)
        self.said = aiter(self.supervisor.messages())
        registry = CollectorRegistry()
        self.counter = Counter("shop_rows", "Rows.", registry=registry)
        self.snapshots = Snapshots(registry, max_series=10, reserved=lambda _: False, on_drop=lambda _: None)
        self.snapshots.start()
        page = Page.private()
        page.series(Key("counter", "predictions_total", ("m",)))[0] = 7.0
        self.scrapes = Scrapes(
            self.worker, self.snapshots, alone=Exposition(CONFIG, [page]), timeout_s=4 * self.patience_s
        )
        return self

    async def __aexit__(self, *_):
        self.snapshots.close()
        self.worker.close()
        self.supervisor.close()


def run(scenario, patience_s=60):
    async def all_of_it():
        async with Bench(patience_s) as bench:
            return await scenario(bench)

    return asyncio.run(all_of_it())


def test_a_scrape_is_answered_with_what_the_supervisor_says_after_it_was_told_the_user_s_metrics():
    async def scenario(bench):
        bench.counter.inc(3)
        answer = asyncio.create_task(bench.scrapes.answer("text/plain", "gzip"))
        told, asked = await anext(bench.said), await anext(bench.said)
        bench.scrapes.take_in(packed(asked.number, Rendered(b"\x1f\x8b\x00\xff", b"text/plain", b"gzip")))
        return told, asked, await answer

    told, asked, answer = run(scenario)
    assert isinstance(told, Snapshot)
    ((name, kind, *_, packed_samples),) = told.families
    assert (name, kind, packed_samples) == ("shop_rows", "counter", [["shop_rows_total", {}, 3.0]])
    assert asked == Scrape(0, "text/plain; version=0.0.4; charset=utf-8", "gzip")
    assert answer == Rendered(b"\x1f\x8b\x00\xff", b"text/plain", b"gzip")


def test_each_kind_of_scrape_gets_its_own_answer():
    async def scenario(bench):
        kinds = [("", ""), ("", "gzip"), ("application/openmetrics-text", "")]
        answers = [asyncio.create_task(bench.scrapes.answer(*kind)) for kind in kinds]
        asked = [message async for message in _first(bench.said, Scrape, 3)]
        for scrape in reversed(asked):
            body = f"{scrape.accept.split(';')[0]} {scrape.accept_encoding}".encode()
            bench.scrapes.take_in(packed(scrape.number, Rendered(body, b"text/plain", None)))
        return [(await answer).body for answer in answers]

    assert run(scenario) == [b"text/plain ", b"text/plain gzip", b"application/openmetrics-text "]


def test_scrapes_that_come_while_one_is_answered_share_the_next_answer_and_not_that_one():
    async def scenario(bench):
        async def answered(scrape, body):
            bench.scrapes.take_in(packed(scrape.number, Rendered(body, b"text/plain", None)))

        first = [asyncio.create_task(bench.scrapes.answer("", "")) for _ in range(3)]
        (one,) = [message async for message in _first(bench.said, Scrape, 1)]
        later = [asyncio.create_task(bench.scrapes.answer("text/plain", "")) for _ in range(200)]
        await asyncio.sleep(0)
        await answered(one, b"before")
        before = [(await answer).body for answer in first]
        (two,) = [message async for message in _first(bench.said, Scrape, 1)]
        await answered(two, b"after")
        after = [(await answer).body for answer in later]
        bench.worker.close()
        return before, after, [message async for message in bench.said if isinstance(message, Scrape)]

    before, after, more = run(scenario)
    assert (before, set(after), len(after), more) == ([b"before"] * 3, {b"after"}, 200, [])


def test_a_scrape_that_is_given_up_takes_the_answer_from_nobody():
    async def scenario(bench):
        gone, stays = (asyncio.create_task(bench.scrapes.answer("", "")) for _ in range(2))
        (asked,) = [message async for message in _first(bench.said, Scrape, 1)]
        gone.cancel()
        bench.scrapes.take_in(packed(asked.number, Rendered(b"x", b"text/plain", None)))
        return (await stays).body

    assert run(scenario) == b"x"


def test_an_answer_too_large_for_the_channel_is_not_sent_over_it(monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 10)

    async def scenario(bench):
        answer = asyncio.create_task(bench.scrapes.answer("", ""))
        (asked,) = [message async for message in _first(bench.said, Scrape, 1)]
        message = packed(asked.number, Rendered(b"x" * 11, b"text/plain", None))
        bench.scrapes.take_in(message)
        return message, await answer

    message, answer = run(scenario)
    assert message.body is None
    assert samples(answer.body)["mlserver_predictions_total", ("model", "m")] == 7


def test_a_supervisor_that_was_silent_is_asked_again_once_it_has_spoken(caplog):
    async def scenario(bench):
        for _ in range(5):
            await bench.scrapes.answer("", "")
        (first,) = [message async for message in _first(bench.said, Scrape, 1)]
        bench.scrapes.take_in(packed(first.number, Rendered(b"late", b"text/plain", None)))
        bench.scrapes._patience_s = 60
        again = asyncio.create_task(bench.scrapes.answer("", ""))
        (second,) = [message async for message in _first(bench.said, Scrape, 1)]
        bench.scrapes.take_in(packed(second.number, Rendered(b"x", b"text/plain", None)))
        return first.number, second.number, (await again).body

    assert run(scenario, patience_s=0.01) == (0, 1, b"x")
    assert [record.getMessage() for record in caplog.records] == [
        "Scrapes have the server's own metrics only: the supervisor does not answer"
    ]


def test_metrics_that_have_not_changed_are_not_told_again():
    async def scenario(bench):
        for _ in range(3):
            await bench.scrapes.send()
        bench.counter.inc()
        await bench.scrapes.send()
        bench.worker.close()
        return [message async for message in bench.said]

    told = run(scenario)
    assert [message.families[0][-1][0][2] for message in told] == [0.0, 1.0]


def test_without_an_answer_a_scrape_has_the_pages_and_no_single_worker_s_metrics():
    async def scenario(bench):
        bench.counter.inc()
        answer = await bench.scrapes.answer("", "")
        late = packed(0, Rendered(b"late", b"text/plain", None))
        bench.scrapes.take_in(late)  # of a scrape that nobody waits for any more
        return answer

    found = samples(run(scenario, patience_s=0.01).body)
    assert found["mlserver_predictions_total", ("model", "m")] == 7
    assert not [key for key in found if key[0].startswith(("shop_", "process_", "python_"))]


def test_a_supervisor_that_does_not_read_is_not_told_without_end():
    async def scenario(bench):
        while not bench.worker.congested:
            bench.worker.send(Snapshot([["x" * 100_000]]))
        before = bench.worker._writer.transport.get_write_buffer_size()
        for _ in range(5):
            bench.counter.inc()
            await bench.scrapes.send()
        return before, bench.worker._writer.transport.get_write_buffer_size()

    before, after = run(scenario)
    assert after <= before


@pytest.fixture
def fleet():
    return FleetMetrics(CONFIG, slots=2)


def rendered(fleet):
    return samples(fleet.render("", "").body)


def test_the_supervisor_s_own_numbers_are_among_those_of_all(fleet):
    fleet.note_workers(ready=2, pids={})
    fleet.note_restart()
    fleet.note_dropped("logs", 3)
    found = rendered(fleet)
    assert found["mlserver_workers",] == 2
    assert found["mlserver_worker_restarts_total",] == 1
    assert found["mlserver_signals_dropped_total", ("signal", "logs")] == 3
    assert found["process_resident_memory_bytes", ("worker", SUPERVISOR)] > 0
    assert found["python_gc_collections_total", ("generation", "0"), ("worker", SUPERVISOR)] >= 0


def test_what_a_dead_worker_counted_stays_and_its_gauges_go(fleet):
    page = fleet._pages[0]
    page.series(Key("counter", "predictions_total", ("m",)))[0] = 5.0
    page.series(Key("gauge", "active_requests"))[0] = 4.0
    page.series(Key("gauge", "model_loaded", ("old", "1")))[0] = 1.0
    fleet.take(0, 0, [["shop_rows", "counter", "Rows.", "", "", [["shop_rows_total", {}, 3.0]]]])
    before = rendered(fleet)
    fleet.reset(0)
    fleet.retire(0)
    after = rendered(fleet)
    assert before["mlserver_active_requests",] == 4
    assert before["mlserver_model_loaded", ("model", "old"), ("version", "1")] == 1
    assert after["mlserver_active_requests",] == 0
    assert ("mlserver_model_loaded", ("model", "old"), ("version", "1")) not in after
    for found in (before, after):
        assert found["mlserver_predictions_total", ("model", "m")] == 5
        assert found["shop_rows_total",] == 3


def test_what_is_built_is_known_with_no_worker_at_all(fleet):
    versions = [dict(labels) for name, *labels in rendered(fleet) if name == "mlserver_build_info"]
    assert versions == [{"version": version("mlserver-observability"), "python": platform.python_version()}]


def test_label_sets_that_only_all_workers_together_have_too_many_of_are_told_and_counted(caplog):
    config = make_config(
        {"predictor": {"module": "m", "class_name": "C"}, "observability": {"max_series": 3}}, "/"
    )
    fleet = FleetMetrics(config, slots=2)
    for page in fleet._pages[:4]:
        for number in range(2):
            labels = ("m", f"{id(page)}-{number}")
            page.series(Key("counter", "prediction_errors_total", labels))[0] = 1.0
    found = [rendered(fleet), rendered(fleet)]
    overflow = (
        "mlserver_prediction_errors_total",
        ("error_type", signals.OVERFLOW),
        ("model", signals.OVERFLOW),
    )
    dropped = "mlserver_signals_dropped_total", ("signal", "metrics")
    assert [its[overflow] for its in found] == [5, 5]
    assert found[1][dropped] == 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert "mlserver_prediction_errors_total: all workers together have more than 3 sets of labels" in line


async def _first(messages, kind, count):
    async for message in messages:
        if isinstance(message, kind):
            yield message
            count -= 1
            if not count:
                return
