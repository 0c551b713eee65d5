"""The HTTP API: what a client sends and gets, over both ways in."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

BODIES = {
    "ndarray": {"ndarray": [[1, 2, 3], [4, 5, 6]]},
    "records": {"records": [{"a": 1, "b": 2, "c": 3}, {"c": 6, "b": 5, "a": 4}]},
    "instances of lists": {"instances": [[1, 2, 3], [4, 5, 6]]},
    "instances of objects": {"instances": [{"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 5, "c": 6}]},
    "dataframe_split": {"dataframe_split": {"columns": ["c", "a", "b"], "data": [[3, 1, 2], [6, 4, 5]]}},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_each_input_form_gives_the_same_prediction(serving, run, body):
    async def scenario():
        async with serving() as server:
            return await server.client.post("/predict", json=body, headers={"x-request-id": "abc-123"})

    response = run(scenario())
    answer = response.json()
    assert response.status_code == 200
    assert list(answer) == ["predictions", "model", "version", "request_id", "time_ms"]
    assert answer | {"time_ms": 0} == {
        "predictions": [6.0, 15.0], "model": "sums", "version": "1.2.3", "request_id": "abc-123", "time_ms": 0,
    }  # fmt: skip
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == "abc-123"


def test_probabilities_have_their_own_path_and_key(serving, run):
    async def scenario():
        async with serving() as server:
            return await server.predict([1, 2], "/predict_proba")

    assert run(scenario()).json()["probabilities"] == [[0.25, 0.75], [0.25, 0.75]]


def test_not_a_number_travels_as_null_both_ways(serving, run):
    async def scenario():
        async with serving() as server:
            given = await server.client.post("/predict", json={"ndarray": [[None, 1, 2]]})
            returned = await server.predict([-5])
            return given.json()["predictions"], returned.json()["predictions"]

    assert run(scenario()) == ([None], [None])


@pytest.mark.parametrize("sent", [None, "", "has space", "a" * 129, "line\tfeed", "é"])
def test_an_id_that_is_missing_or_unfit_is_replaced(serving, run, sent):
    async def scenario():
        async with serving() as server:
            headers = {} if sent is None else {"x-request-id": sent.encode()}
            return await server.client.post("/predict", json={"ndarray": [[1, 2, 3]]}, headers=headers)

    response = run(scenario())
    assert re.fullmatch(r"[0-9a-f-]{28,}", response.json()["request_id"])
    assert response.headers["x-request-id"] == response.json()["request_id"] != sent


def test_without_correlation_ids_none_is_read_made_or_sent(serving, run):
    async def scenario():
        async with serving(observability={"correlation_ids": False}) as server:
            body = {"ndarray": [[1, 2, 3]]}
            response = await server.client.post("/predict", json=body, headers={"x-request-id": "abc"})
            return response, server.lines()

    response, (line,) = run(scenario())
    assert response.json()["request_id"] is line["request_id"] is None
    assert "x-request-id" not in response.headers


def test_every_answer_has_one_line_and_one_count_with_the_same_id_and_status(serving, run):
    async def scenario():
        async with serving() as server:
            responses = await asyncio.gather(*[server.predict([number]) for number in (1, 2, -1, 3)])
            responses.append(await server.client.get("/nowhere"))
            responses.append(await server.client.get("/predict"))
            responses.append(await server.client.get("/info"))
            return responses, server.lines(), server.counts()

    responses, lines, counts = run(scenario())
    sent = {response.headers["x-request-id"]: response.status_code for response in responses}
    assert {line["request_id"]: line["http_status"] for line in lines} == sent
    assert len(lines) == len(responses)
    assert counts == {
        ("/predict", "POST", 200): 3, ("/predict", "POST", 500): 1, ("unmatched", "GET", 404): 1,
        ("/predict", "GET", 405): 1, ("/info", "GET", 200): 1,
    }  # fmt: skip


def test_probes_and_scrapes_are_counted_but_have_no_line_at_info(serving, run):
    async def scenario():
        async with serving() as server:
            paths = ["/healthz", "/readyz", "/startupz", "/metrics"]
            statuses = [(await server.client.get(path)).status_code for path in paths]
            return statuses, server.lines(), server.counts()

    statuses, lines, counts = run(scenario())
    assert statuses == [200] * 4
    assert lines == []
    assert counts[("/healthz", "GET", 200)] == counts[("/metrics", "GET", 200)] == 1


def test_the_probes_say_what_the_specification_says(serving, run):
    async def scenario():
        async with serving() as server:
            return [(await server.client.get(path)).json() for path in ("/healthz", "/readyz", "/startupz")]

    healthz, readyz, startupz = run(scenario())
    assert (healthz, readyz) == ({"status": "healthy"}, {"status": "ready"})
    names = ["config_loaded", "model_loaded", "metrics_initialized", "dependencies_healthy"]
    assert startupz == {"status": "started", "checks": dict.fromkeys(names, True)}


BROKEN = "class Sum:\n    def __init__(self):\n        raise OSError('no such disk')\n    def predict(self, X): ...\n"


def test_a_model_that_does_not_load_leaves_the_server_up_and_says_why(serving, run):
    async def scenario():
        async with serving(BROKEN) as server:
            get, probes = server.client.get, ("/healthz", "/readyz", "/startupz")
            return (
                [await get(path) for path in probes],
                await server.predict([1]),
                (await get("/metrics")).text,
            )

    (healthz, readyz, startupz), prediction, metrics = run(scenario())
    assert healthz.status_code == 200
    assert (readyz.status_code, readyz.json()["detail"]) == (503, "Model not loaded")
    assert "OSError" in readyz.json()["reason"]
    assert startupz.status_code == 503
    assert "model_loaded" in startupz.json()["detail"]
    assert (prediction.status_code, prediction.json()["code"]) == (503, "not_ready")
    assert 'mlserver_model_loaded{model="sums",version="1.2.3"} 0.0' in metrics


WAITING = """
from pathlib import Path


class Sum:
    asked = 0

    def predict(self, X):
        return X.sum(axis=1)

    def check_health(self):
        if not Path(__file__).with_name("store").exists():
            raise ConnectionError("no feature store yet")
        self.asked += 1
        return self.asked > 1
"""


def test_a_start_is_over_only_when_the_predictor_says_that_what_it_needs_is_there(
    serving, run, folder, monkeypatch
):
    monkeypatch.setattr("mlserver.app.application.RECHECK_S", 0.05)

    async def scenario():
        async with serving(WAITING) as server:
            first = await server.client.get("/startupz")
            ready = await server.client.get("/readyz")
            (folder / "store").touch()
            while (await server.client.get("/startupz")).status_code != 200:
                await asyncio.sleep(0.01)
            return first, ready

    first, ready = run(scenario())
    assert (first.status_code, ready.status_code) == (503, 200)
    assert first.json()["detail"] == "Startup incomplete: ['dependencies_healthy']"
    assert first.json()["reason"] == "check_health() raised ConnectionError"


def test_an_operation_that_the_model_does_not_have_is_a_404_and_no_failure_of_the_model(serving, run):
    async def scenario():
        async with serving(ASYNC) as server:
            response = await server.predict([1], "/predict_proba")
            return response, server.lines(), (await server.client.get("/metrics")).text

    response, (line,), metrics = run(scenario())
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "no predict_proba" in response.json()["detail"]
    assert line["level"] == "WARNING"
    errors = re.findall(r"^mlserver_prediction_errors_total{.*} (.*)$", metrics, re.MULTILINE)
    assert set(errors) == {"0.0"}


def test_why_a_model_did_not_load_is_not_told_to_everybody(serving, run):
    source = BROKEN.replace("no such disk", "postgres://user:geheim@db")

    async def scenario():
        async with serving(source) as server:
            paths = ["/readyz", "/startupz", "/info", "/openapi.json"]
            texts = [(await server.client.get(path)).text for path in paths]
            return [*texts, (await server.predict([1])).text]

    assert not [text for text in run(scenario()) if "geheim" in text]


def test_info_openapi_and_docs_know_the_model(serving, run):
    async def scenario():
        async with serving() as server:
            get = server.client.get
            return await get("/info"), await get("/openapi.json"), await get("/docs")

    info, openapi, docs = run(scenario())
    assert info.json()["feature_names"] == ["a", "b", "c"]
    assert (info.json()["model"], info.json()["version"]) == ("sums", "1.2.3")
    assert info.json()["operations"] == ["predict", "predict_proba"]
    assert '"required":["a","b","c"]' in json.dumps(openapi.json(), separators=(",", ":"))
    assert docs.headers["content-type"].startswith("text/html")
    assert "content-security-policy" in docs.headers
    assert not re.search(r"""(src|href)=["']?https?://""", docs.text)


def test_head_is_get_without_a_body(serving, run):
    async def scenario():
        async with serving() as server:
            return await server.client.head("/info"), await server.client.get("/info")

    head, get = run(scenario())
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))


def test_metrics_are_at_the_configured_path_with_the_configured_prefix(serving, run):
    settings = {"metrics_endpoint": "/internal/metrics", "metrics_prefix": "acme_"}

    async def scenario():
        async with serving(observability=settings) as server:
            await server.predict([1])
            return await server.client.get("/internal/metrics"), await server.client.get("/metrics")

    metrics, elsewhere = run(scenario())
    assert 'acme_requests_total{endpoint="/predict",method="POST",status="200"} 1.0' in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert elsewhere.status_code == 404


def test_metrics_can_be_turned_off(serving, run):
    async def scenario():
        async with serving(observability={"metrics": False}) as server:
            return (await server.predict([1])).status_code, (await server.client.get("/metrics")).status_code

    assert run(scenario()) == (200, 404)


def test_a_payload_is_logged_only_when_asked_for(serving, run):
    async def scenario(**settings):
        async with serving(observability=settings) as server:
            await server.predict([1])
            return server.lines()[-1]

    assert "request_body" not in run(scenario())
    line = run(scenario(log_payloads=True))
    assert json.loads(line["request_body"]) == {"ndarray": [[1, 1.0, 2.0]]}
    assert json.loads(line["response_body"])["predictions"] == [4.0]


def test_structured_logging_off_gives_the_same_facts_for_a_terminal(serving, run, tmp_path):
    async def scenario():
        async with serving(observability={"structured_logging": False}) as server:
            await server.predict([1])

    run(scenario())
    line = (tmp_path / "server.log").read_text()
    assert "INFO     Prediction completed" in line
    assert "http_status=200" in line
    assert "model=sums" in line


def test_lines_lost_on_a_full_disk_are_counted_one_by_one_and_requests_go_on(serving, run):
    async def scenario():
        async with serving(observability={"log_file": "/dev/full"}) as server:
            responses = await asyncio.gather(*[server.predict([number]) for number in range(20)])
            return [response.status_code for response in responses], (
                await server.client.get("/metrics")
            ).text

    statuses, metrics = run(scenario())
    assert statuses == [200] * 20
    assert 'mlserver_signals_dropped_total{signal="logs"} 20.0' in metrics


ASYNC = """
import asyncio

class Sum:
    async def predict(self, X):
        await asyncio.sleep(0)
        return X.sum(axis=1)
"""


def test_an_async_predictor_is_served_alike(serving, run):
    async def scenario():
        async with serving(ASYNC) as server:
            return (await server.predict([1, 2])).json()["predictions"]

    assert run(scenario()) == [4.0, 5.0]


def test_the_first_request_starts_an_application_that_nobody_started(serving, run):
    async def scenario():
        async with serving(start=False) as server:
            probe = await server.client.get("/readyz")
            return probe.status_code, (await server.predict([1])).json()["predictions"]

    assert run(scenario()) == (503, [4.0])
