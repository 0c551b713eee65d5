"""A worker's part in scrapes, over a real channel whose other end is the test."""

from __future__ import annotations

import asyncio
import socket

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

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
        self.scrapes = Scrapes(self.worker, self.snapshots, alone=Exposition(CONFIG, [page]))
        return self

    async def __aexit__(self, *_):
        self.snapshots.close()
        self.worker.close()
        self.supervisor.close()


def run(scenario):
    async def all_of_it():
        async with Bench() as bench:
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
    assert asked == Scrape(0, "text/plain", "gzip")
    assert answer == Rendered(b"\x1f\x8b\x00\xff", b"text/plain", b"gzip")


def test_each_of_several_scrapes_gets_its_own_answer():
    async def scenario(bench):
        answers = [asyncio.create_task(bench.scrapes.answer(str(number), "")) for number in range(3)]
        asked = [message async for message in _first(bench.said, Scrape, 3)]
        for scrape in reversed(asked):
            body = scrape.accept.encode()
            bench.scrapes.take_in(packed(scrape.number, Rendered(body, b"text/plain", None)))
        return [(await answer).body for answer in answers]

    assert run(scenario) == [b"0", b"1", b"2"]


def test_metrics_that_have_not_changed_are_not_told_again():
    async def scenario(bench):
        for _ in range(3):
            await bench.scrapes.beat()
        bench.counter.inc()
        await bench.scrapes.beat()
        bench.worker.close()
        return [message async for message in bench.said]

    told = run(scenario)
    assert [message.families[0][-1][0][2] for message in told] == [0.0, 1.0]


def test_without_an_answer_a_scrape_has_the_pages_and_no_single_worker_s_metrics(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_S", 0.01)

    async def scenario(bench):
        bench.counter.inc()
        answer = await bench.scrapes.answer("", "")
        late = packed(0, Rendered(b"late", b"text/plain", None))
        bench.scrapes.take_in(late)  # of a scrape that nobody waits for any more
        return answer

    found = samples(run(scenario).body)
    assert found["mlserver_predictions_total", ("model", "m")] == 7
    assert not [key for key in found if key[0].startswith(("shop_", "process_", "python_"))]


def test_a_supervisor_that_does_not_read_is_not_told_without_end():
    async def scenario(bench):
        while not bench.worker.congested:
            bench.worker.send(Snapshot([["x" * 100_000]]))
        before = bench.worker._writer.transport.get_write_buffer_size()
        for _ in range(5):
            bench.counter.inc()
            await bench.scrapes.beat()
        return before, bench.worker._writer.transport.get_write_buffer_size()

    before, after = run(scenario)
    assert after <= before


@pytest.fixture
def fleet():
    return FleetMetrics(CONFIG, slots=2)


def rendered(fleet):
    return samples(fleet.exposition.render("").body)


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
    fleet.retire(0, 0)
    after = rendered(fleet)
    assert before["mlserver_active_requests",] == 4
    assert before["mlserver_model_loaded", ("model", "old"), ("version", "1")] == 1
    assert after["mlserver_active_requests",] == 0
    assert ("mlserver_model_loaded", ("model", "old"), ("version", "1")) not in after
    for found in (before, after):
        assert found["mlserver_predictions_total", ("model", "m")] == 5
        assert found["shop_rows_total",] == 3


def test_metrics_that_are_off_are_not_shown_until_they_are_on_again(fleet):
    off = make_config(
        {"predictor": {"module": "m", "class_name": "C"}, "observability": {"metrics": False}}, "/"
    )
    fleet.adopt(off)
    assert fleet.exposition is None
    fleet.adopt(CONFIG)
    assert fleet.exposition is not None


async def _first(messages, kind, count):
    async for message in messages:
        if isinstance(message, kind):
            yield message
            count -= 1
            if not count:
                return
