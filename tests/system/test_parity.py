"""One request, one story: responses, counts, log lines and traces, held against each other."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter, defaultdict
from datetime import datetime

import pytest

from mlserver.paths import PROBES

from . import load
from .collector import Collector, needs_rotel
from .conftest import Server, eventually
from .prometheus import samples

pytestmark = needs_rotel

REQUESTS = 5_000
CLIENTS = 8
PREDICTOR = load.PREDICTOR.replace("import numpy as np\n", "import time\n\nimport numpy as np\n").replace(
    '    feature_names = ["a", "b"]\n',
    '    feature_names = ["a", "b"]\n    batchable = True\n',
)
PREDICTOR = PREDICTOR.replace("X[0][0] == -3", "(X[:, 0] == -3).any()").replace(
    "        return X.sum(axis=1)", "        time.sleep(0.01)\n        return X.sum(axis=1)"
)
WITHOUT = {*PROBES, "/metrics"}
"""Paths that have neither lines nor traces."""


def mixed():
    """Requests of all kinds, but of those that make a run fail so few that coalescing never rests."""
    chosen = load.mixed(REQUESTS)
    failing = [number for number, kind in enumerate(chosen) if kind.status == 500]
    usual = max(load.KINDS, key=load.KINDS.get)
    for number in set(failing) - {failing[len(failing) // 4], failing[-len(failing) // 4]}:
        chosen[number] = usual
    return iter(chosen)


class Story:
    """What the clients hold, and what each signal says of it.

    Args:
        halfway: called once in the middle of the load, with the server.
    """

    def __init__(self, folder, collector, halfway):
        self.server = server = Server(folder)
        self.log = folder / "server.log"
        tracing = {"enabled": True, "endpoint": collector.url("grpc"), "protocol": "grpc"}
        server.configure(
            predictor=PREDICTOR,
            workers=2,
            max_body_bytes=load.MAX_BODY_BYTES,
            max_header_bytes=load.MAX_HEADER_BYTES,
            observability={"log_file": str(self.log), "tracing": tracing},
        )
        server.launch()
        eventually(lambda: server.url("management") and server.get("/readyz").status_code == 200, "readiness")
        eventually(lambda: len(server.worker_pids) == 2, "both workers")
        eventually(lambda: self._ready_lines == 2, "both workers' readiness")
        try:
            self.clients = self._put_under_load(halfway)
            self.counted = self._counts()
        finally:
            server.end()
        collector.end_agent()
        self.held = [
            (answer.request_id, (answer.kind.endpoint, answer.status))
            for client in self.clients
            for answer in client.answers
            if answer.kind.endpoint not in WITHOUT
        ]
        self.lost = sum(load.joined(self.clients, "lost").values())
        self.wrong = [wrong for client in self.clients for wrong in client.wrong]
        lines = [json.loads(line) for line in self.log.read_bytes().splitlines()]
        self.events = [line for line in lines if "http_status" not in line]
        self.lines = [line for line in lines if "http_status" in line]
        self.by_id = by_id(self.lines, lambda line: line["request_id"])
        self.spans = collector.spans
        self.requests = [span for span in self.spans if span["kind"] == "SERVER"]
        self.traced = by_id(self.requests, lambda span: span["attributes"]["mlserver.request_id"])

    def _put_under_load(self, halfway):
        requests = mixed()
        middle, reached = threading.Event(), threading.Lock()
        left = REQUESTS // 2

        def shared():
            nonlocal left
            while True:
                with reached:
                    kind = next(requests, None)
                    left -= 1
                    if left == 0:
                        middle.set()
                if kind is None:
                    return
                yield kind

        clients = [load.Client(self.server.port, shared(), keep=True) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        assert middle.wait(60)
        halfway(self.server)
        for client in clients:
            client.join(60)
            assert not client.is_alive()
        return clients

    @property
    def _ready_lines(self):
        return self.log.read_text().count("is ready") if self.log.exists() else 0

    def _counts(self):
        """``requests_total`` by its labels, without what has no lines, and all losses."""
        found = samples(self.server.get("/metrics", at="management").text)
        self.dropped = {
            name: value for name, value in found.items() if name.startswith("mlserver_signals_dropped_total")
        }
        return sum(
            value
            for name, value in found.items()
            if name.startswith("mlserver_requests_total")
            and not any(f'endpoint="{path}"' in name for path in WITHOUT)
        )


def by_id(found, id_of):
    named = defaultdict(list)
    for one in found:
        named[id_of(one)].append(one)
    return named


def agree(line, span):
    """Whether a line and a request's span tell the same of it."""
    attributes = span["attributes"]
    return (
        (span["trace_id"], span["span_id"]) == (line["trace_id"], line["span_id"])
        and attributes["http.response.status_code"] == line["http_status"]
        and (attributes["mlserver.model"], attributes["mlserver.model.version"])
        == (line["model"], line["version"])
        and attributes["mlserver.worker"] == line["worker"]
        and abs((span["end"] - span["start"]) / 1e6 - line["duration_ms"]) <= 1
    )


class TestWorkersAreReplaced:
    """…in the middle of the load, by a reload."""

    @pytest.fixture(scope="class")
    @classmethod
    def story(cls, tmp_path_factory):
        def reload(server):
            response = server.reload()
            assert response.status_code == 200, response.text

        folder = tmp_path_factory.mktemp("replaced")
        collector = Collector(folder).start()
        try:
            yield Story(folder, collector, reload)
        finally:
            collector.stop()

    def test_every_response_has_one_line_and_one_trace_that_agree(self, story):
        assert story.wrong == []
        assert story.lost == 0
        assert len(dict(story.held)) == len(story.held) > REQUESTS * 0.8
        for request_id, (endpoint, status) in story.held:
            (line,), (span,) = story.by_id[request_id], story.traced[request_id]
            assert (line["endpoint"], line["http_status"]) == (endpoint, status)
            assert agree(line, span), (line, span)

    def test_the_totals_are_the_same_everywhere(self, story):
        assert story.counted == len(story.held) == len(story.lines) == len(story.requests)
        assert len({span["trace_id"] for span in story.requests}) == len(story.requests)
        assert set(story.dropped.values()) == {0.0}

    def test_both_workers_and_a_successor_took_part(self, story):
        pids = {span["resource"]["process.pid"] for span in story.requests}
        assert len(pids) > 2
        assert {line["worker"] for line in story.lines} == {0, 1}

    def test_a_trace_is_whole(self, story):
        traces = by_id(story.spans, lambda span: span["trace_id"])
        for span in story.requests:
            kids = Counter(
                kid["name"] for kid in traces[span["trace_id"]] if kid["parent_id"] == span["span_id"]
            )
            if span["attributes"]["http.response.status_code"] == 200 and "predict" in span["name"]:
                assert kids == {"decode": 1, "queue": 1, "predict": 1, "encode": 1}
            assert len(traces[span["trace_id"]]) == 1 + kids.total()

    def test_a_shared_run_is_one_span_that_is_linked_to_all_that_it_answered(self, story):
        batches = by_id(
            (span for span in story.spans if span["name"] == "batch"),
            lambda span: span["attributes"]["mlserver.batch.id"],
        )
        named = by_id((line for line in story.lines if "batch_id" in line), lambda line: line["batch_id"])
        assert len(named) > 200
        for batch_id, lines in named.items():
            (batch,) = batches[batch_id]
            linked = {(line["trace_id"], line["span_id"]) for line in lines}
            assert linked == set(batch["links"])
            assert batch["attributes"]["mlserver.batch.requests"] == len(lines) > 1
        predicts = by_id(
            (span for span in story.spans if span["name"] == "predict"), lambda span: span["trace_id"]
        )
        for line in story.lines:
            (of_run,) = predicts.get(line.get("trace_id"), [None])
            if of_run is not None:
                assert of_run["attributes"].get("mlserver.batch.id") == line.get("batch_id")

    def test_what_failed_is_told_with_its_exception(self, story):
        failed = [line for line in story.lines if line["http_status"] == 500]
        assert len(failed) == 2
        errors = {span["trace_id"] for span in story.spans if span["status"] == "ERROR"}
        for line in failed:
            assert line["error_type"] == "ValueError"
            assert line["trace_id"] in errors


class TestAWorkerIsKilled:
    """…in the middle of the load, by SIGKILL."""

    @pytest.fixture(scope="class")
    @classmethod
    def story(cls, tmp_path_factory):
        def kill(server):
            os.kill(server.worker_pids[1], signal.SIGKILL)
            eventually(lambda: len(server.worker_pids) == 2, "the successor")

        folder = tmp_path_factory.mktemp("killed")
        collector = Collector(folder).start()
        try:
            yield Story(folder, collector, kill)
        finally:
            collector.stop()

    def test_every_response_has_one_line_and_one_count(self, story):
        assert story.wrong == []
        assert len(dict(story.held)) == len(story.held) > REQUESTS * 0.8
        for request_id, (endpoint, status) in story.held:
            (line,) = story.by_id[request_id]
            assert (line["endpoint"], line["http_status"]) == (endpoint, status)

    def test_lines_and_counts_exceed_the_responses_by_the_calls_in_flight_at_most(self, story):
        assert story.lost <= CLIENTS
        assert len(story.held) <= len(story.lines) <= len(story.held) + story.lost
        assert len(story.held) <= story.counted <= len(story.held) + story.lost
        assert set(story.dropped.values()) == {0.0}

    def test_traces_are_missing_only_from_the_last_second_of_that_worker(self, story):
        of_dead = [line for line in story.events if "killed by SIGKILL" in line["message"]]
        died = datetime.fromisoformat(of_dead[0]["timestamp"]).timestamp()
        missing = []
        for line in story.lines:
            spans = story.traced[line["request_id"]]
            if spans:
                (span,) = spans
                assert agree(line, span), (line, span)
            else:
                missing.append(line)
        assert {line["worker"] for line in missing} <= {1}
        ages = [died - datetime.fromisoformat(line["timestamp"]).timestamp() for line in missing]
        assert max(ages, default=0) <= 1
