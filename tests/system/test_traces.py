"""Traces of a running server, through a real collector and through none that answers."""

from __future__ import annotations

import json
import signal
import threading

import httpx
import pytest
from tests.seeds import needs_seeds, snippet

from .collector import PROTOCOLS, Collector, Receiver, free_ports, needs_rotel
from .conftest import DEADLINE_S, eventually
from .prometheus import total


@pytest.fixture
def collector(tmp_path):
    (tmp_path / "rotel").mkdir()
    made = Collector(tmp_path / "rotel").start()
    yield made
    made.stop()


@pytest.fixture
def receiver():
    made = Receiver().start()
    yield made
    made.stop()


def traced(server, url, *, protocol="http/protobuf", sample_ratio=1.0, **options):
    tracing = {"enabled": True, "endpoint": url, "protocol": protocol, "sample_ratio": sample_ratio}
    observability = {"tracing": tracing, **options.pop("observability", {})}
    server.configure(observability=observability, **options)
    return server


def of_requests(spans):
    return [span for span in spans if span["kind"] == "SERVER"]


@needs_rotel
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_answered_before_the_end_has_its_trace(server, collector, protocol):
    traced(server, collector.url(protocol), protocol=protocol, workers=2)
    resource = "deployment.environment=test"
    server.start(env={"PATH": "/usr/bin", "OTEL_RESOURCE_ATTRIBUTES": resource, "OTEL_SERVICE_NAME": "sums"})
    ids = {server.predict().headers["x-request-id"] for _ in range(20)}
    server.end()
    collector.end_agent()
    found = of_requests(collector.spans)
    assert {span["attributes"]["mlserver.request_id"] for span in found} == ids
    assert len(found) == len(ids)
    assert {span["resource"]["service.name"] for span in found} == {"sums"}
    assert {span["resource"]["deployment.environment"] for span in found} == {"test"}
    assert not [line for line in server.lines if line["level"] in ("WARNING", "ERROR")]


LOGGING = """
import logging
import structlog
from opentelemetry import trace

tracer = trace.get_tracer(__name__)


class Predictor:
    def __init__(self):
        with tracer.start_as_current_span("init"):
            logging.getLogger("own").info("loading")

    def predict(self, X):
        with tracer.start_as_current_span("inner"):
            structlog.get_logger().info("inside")
        logging.getLogger("own").info("outside")
        return X.sum(axis=1)

    def close(self):
        tracer.start_span("closing").end()
"""


def test_what_a_predictor_logs_and_traces_is_part_of_the_story(server, receiver):
    traced(server, receiver.url(), predictor=LOGGING).start()
    sent = f"00-{'a' * 32}-{'b' * 16}-01"
    body = {"ndarray": [[1.0, 2.0]]}
    response = httpx.post(
        server.url("predictions") + "/predict", json=body, headers={"traceparent": sent, "x-request-id": "me"}
    )
    assert response.status_code == 200
    server.end()
    lines = [line for line in server.lines if line.get("request_id") == "me"]
    assert {line["trace_id"] for line in lines} == {"a" * 32}
    spans = {span["name"]: span for span in receiver.spans}
    request, predict, inner = spans["POST /predict"], spans["predict"], spans["inner"]
    assert request["parent_id"] == "b" * 16
    assert (predict["parent_id"], inner["parent_id"]) == (request["span_id"], predict["span_id"])
    assert {line["message"]: line["span_id"] for line in lines} == {
        "inside": inner["span_id"],
        "outside": predict["span_id"],
        "Prediction completed": request["span_id"],
    }
    assert {"init", "closing"} <= spans.keys()


def test_what_is_not_sampled_has_no_trace_and_its_lines_name_none(server, receiver):
    traced(server, receiver.url(), predictor=LOGGING, sample_ratio=0).start()
    assert server.predict().status_code == 200
    server.end()
    assert receiver.spans == []
    assert not [line for line in server.lines if "trace_id" in line or "span_id" in line]


def test_the_variable_that_turns_opentelemetry_off_is_heeded(server, receiver):
    traced(server, receiver.url(), predictor=LOGGING).start(
        env={"PATH": "/usr/bin", "OTEL_SDK_DISABLED": "true"}
    )
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    httpx.post(server.url("predictions") + "/predict", json={"ndarray": [[1.0, 2.0]]}, headers=headers)
    server.end()
    assert receiver.requests == 0
    assert not [line for line in server.lines if line["level"] == "WARNING"]


REQUESTS = 30


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("manner", ["away", "slow", "broken", "silent"])
def test_a_collector_in_trouble_costs_no_request_anything(server, manner, protocol):
    receiver = None if manner == "away" else Receiver(manner, delay=0.5).start()
    url = receiver.url(protocol) if receiver else f"http://127.0.0.1:{free_ports(1)[0]}"
    traced(server, url, protocol=protocol).start()
    try:
        with httpx.Client() as client:
            answers = [server.predict(client=client).status_code for _ in range(REQUESTS)]
        assert answers == [200] * REQUESTS
        server.end()
    finally:
        if receiver:
            receiver.stop()
    assert server.process.returncode == 0
    said = [line for line in server.lines if "http_status" not in line and "span" in line["message"]]
    arrived = len(receiver.spans) if receiver else 0
    assert arrived <= 5 * REQUESTS
    if manner == "slow":
        assert arrived == 5 * REQUESTS
        assert said == []
    else:
        assert arrived == 0
        assert said
    assert len([line for line in server.lines if "http_status" in line]) == REQUESTS


def test_losses_are_counted(server):
    traced(server, f"http://127.0.0.1:{free_ports(1)[0]}", workers=1)
    server.start(
        env={"PATH": "/usr/bin", "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
    )
    with httpx.Client() as client:
        for _ in range(REQUESTS):
            assert server.predict(client=client).status_code == 200

    def lost():
        text = server.get("/metrics", at="management").text
        return total(text, "mlserver_signals_dropped_total", signal="traces")

    assert eventually(lost, "a loss") <= 5 * REQUESTS
    told = [line for line in server.lines if "http_status" not in line and "lost" in line["message"]]
    assert len(told) <= 1


EIGHT = """
from opentelemetry import trace

tracer = trace.get_tracer("mlserver.tracing")
{code}

import time
from pathlib import Path

HERE = Path(__file__).parent


class Model:
    def predict(self, X):
        return X[:, 0]


class Predictor(TracedPredictor):
    batchable = True
    model = Model()

    def preprocess(self, X):
        if X[0][0] == -1:
            (HERE / "running").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.005)
        return X
"""


@needs_seeds
def test_the_predictor_that_traces_nests_under_ours_alone_and_in_a_run_of_eight(server, receiver):
    _, _, code = snippet("TracedPredictor").partition("# Instrument predictions\n")
    traced(server, receiver.url(), predictor=EIGHT.replace("{code}", code)).start()
    answers = {}

    def ask(name, first):
        answers[name] = server.predict(first).status_code

    first = threading.Thread(target=ask, args=("alone", -1.0))
    first.start()
    eventually((server.folder / "running").exists, "the first run")
    rest = [threading.Thread(target=ask, args=(number, float(number))) for number in range(8)]
    for thread in rest:
        thread.start()
    eventually(
        lambda: total(server.get("/metrics", at="management").text, "mlserver_queue_depth") == 8, "the queue"
    )
    (server.folder / "gate").touch()
    for thread in (first, *rest):
        thread.join(DEADLINE_S)
    assert set(answers.values()) == {200}
    server.end()

    spans = receiver.spans
    (batch,) = [span for span in spans if span["name"] == "batch"]
    shared = of_requests(spans)
    assert len(shared) == 9
    assert len(batch["links"]) == 8
    parts = [span for span in spans if span["attributes"].get("mlserver.batch.id") and span is not batch]
    assert {span["attributes"]["mlserver.batch.id"] for span in parts} == {
        batch["attributes"]["mlserver.batch.id"]
    }
    assert [span["name"] for span in parts] == ["predict"] * 8
    assert {(span["trace_id"], span["parent_id"]) for span in parts} == set(batch["links"])
    (alone,) = [
        span for span in spans
        if span["name"] == "predict" and span["scope"] == "mlserver" and span not in parts
    ]  # fmt: skip
    for parent in (alone, batch):
        kids = [span for span in spans if span["parent_id"] == parent["span_id"]]
        (own,) = [span for span in kids if span["scope"] == "mlserver.tracing"]
        assert own["name"] == "predict"
        below = {span["name"] for span in spans if span["parent_id"] == own["span_id"]}
        assert below == {"preprocess", "model_inference"}


SEEDED_LOGGING = """
import time
{code}


class Model:
    def predict(self, X):
        if X[0][0] == 7:
            raise ValueError("seven")
        return X[:, 0]


class Predictor(LoggingPredictor):
    model = Model()
"""


@needs_seeds
def test_the_predictor_that_logs_does_so_in_our_form_with_the_ids_of_its_request(server, receiver):
    code = snippet("LoggingPredictor")
    traced(server, receiver.url(), predictor=SEEDED_LOGGING.replace("{code}", code)).start()
    good, bad = server.predict(1.0), server.predict(7.0)
    server.end()
    lines = {
        (line["request_id"], line["message"]): line
        for line in server.lines
        if line.get("request_id") is not None
    }
    of_good, of_bad = (answer.headers["x-request-id"] for answer in (good, bad))
    assert lines.keys() == {
        (of_good, "prediction_started"), (of_good, "prediction_completed"), (of_good, "Prediction completed"),
        (of_bad, "prediction_started"), (of_bad, "prediction_failed"), (of_bad, "Prediction failed"),
    }  # fmt: skip
    completed, failed = lines[of_good, "prediction_completed"], lines[of_bad, "prediction_failed"]
    assert completed["output_shape"] == [1]
    assert (failed["level"], failed["error"], failed["error_type"]) == ("ERROR", "seven", "ValueError")
    assert failed["exception"].endswith("ValueError: seven\n")
    for request_id in (of_good, of_bad):
        assert len({line["trace_id"] for key, line in lines.items() if key[0] == request_id}) == 1


def test_a_worker_that_is_told_to_stop_twice_waits_for_no_collector(server):
    receiver = Receiver("silent").start()
    traced(server, receiver.url()).start()
    assert server.predict().status_code == 200
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGINT)
    try:
        server.wait()
    finally:
        receiver.stop()
    assert json.loads(server.out.splitlines()[-1])["message"] == "Stopped"
