"""The examples, trained and served as their READMEs say, under mixed load over two workers."""

from __future__ import annotations

import asyncio
import collections
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS = 10_000
CONNECTIONS = 32


@pytest.fixture
def serve(server, eventually):
    """Trains an example where that was not done yet and serves it on free ports."""

    def start(name, workers):
        folder = EXAMPLES / name
        if not [*folder.glob("model.*")]:
            subprocess.run([sys.executable, folder / "train.py"], check=True, capture_output=True)
        environment = os.environ | {"MLSERVER_SERVER__PORT": "0", "MLSERVER_SERVER__MANAGEMENT__PORT": "0"}
        command = [
            sys.executable,
            "-m",
            "mlserver",
            "serve",
            folder / "mlserver.yaml",
            "--workers",
            str(workers),
        ]
        with (server.folder / "stdout").open("w") as out, (server.folder / "stderr").open("w") as err:
            server.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd="/"
            )
        eventually(lambda: server.url("management"), "the start")
        eventually(lambda: len(server.ready_lines) == workers, "readiness")
        return server

    return start


def documented(name):
    """The body of the first curl in an example's README, and the answer beneath it."""
    text = (EXAMPLES / name / "README.md").read_text()
    sent = re.search(r"-d '(\{.*?\})'", text, re.DOTALL)
    answer = re.search(r'^(\{"predictions".*\})$', text, re.MULTILINE)
    return json.loads(sent[1]), json.loads(answer[1])


@pytest.mark.parametrize("name", ["quickstart", "catboost-survival"])
def test_an_example_answers_what_its_readme_shows(serve, name):
    body, expected = documented(name)
    server = serve(name, 1)
    answer = httpx.post(server.url("predictions") + "/predict", json=body).json()
    assert list(answer) == list(expected)
    for key in ("predictions", "model", "version"):
        assert answer[key] == expected[key]


# The payloads that are no good, each with the status that it is owed.
BAD = {
    "not JSON": ("POST", "/predict", b"hello", 400),
    "ragged": ("POST", "/predict", b'{"ndarray": [[1, 2, 3, 4], [1, 2]]}', 422),
    "wrong width": ("POST", "/predict_proba", b'{"ndarray": [[1, 2]]}', 422),
    "text": ("POST", "/predict", b'{"ndarray": [["a", 2, 3, 4]]}', 422),
    "no such path": ("GET", "/nowhere", None, 404),
    "wrong method": ("PUT", "/predict", b"{}", 405),
}


def predictor():
    """The example's class in this process, to say what each response must be."""
    spec = importlib.util.spec_from_file_location(
        "my_predictor", EXAMPLES / "catboost-survival" / "my_predictor.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SurvivalPredictor()


async def load(base, model):
    """Sends mixed requests over several connections; gives statuses by endpoint and what was wrong."""
    numbers = iter(range(REQUESTS))
    statuses, wrong = collections.Counter(), []
    rng = random.Random(7)
    rows = np.random.default_rng(7).uniform(0, 80, (REQUESTS, 3, model.n_columns)).round(3)
    expected = model.predict(rows.reshape(REQUESTS * 3, -1)).reshape(REQUESTS, 3)

    async def client():
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60, trust_env=False) as connection:
            for number in numbers:
                request_id = f"request-{number}"
                headers = {"x-request-id": request_id, "content-type": "application/json"}
                if rng.random() < 0.3:
                    method, path, content, owed = rng.choice(list(BAD.values()))
                    response = await connection.request(method, path, content=content, headers=headers)
                    right = response.json()["request_id"] == request_id
                else:
                    path, owed, size = "/predict", 200, rng.randint(1, 3)
                    body = {"ndarray": rows[number, :size].tolist()}
                    response = await connection.post(path, json=body, headers=headers)
                    answer = response.json()
                    right = answer["request_id"] == request_id and answer["predictions"] == pytest.approx(
                        expected[number, :size].tolist()
                    )
                method = response.request.method
                statuses["unmatched" if path == "/nowhere" else path, method, response.status_code] += 1
                if response.status_code != owed or not right:
                    wrong.append((number, owed, response.status_code, response.text))

    await asyncio.gather(*[client() for _ in range(CONNECTIONS)])
    return statuses, wrong


def counted(metrics):
    """requests_total by endpoint, method and status, without probes and scrapes."""
    return {
        (sample.labels["endpoint"], sample.labels["method"], int(sample.labels["status"])): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "mlserver_requests_total"
        and sample.value
        and sample.labels["endpoint"] not in ("/metrics", "/readyz")
    }


def test_every_response_is_the_one_owed_and_counters_and_lines_equal_what_the_client_counted(serve):
    server, model = serve("catboost-survival", 2), predictor()
    model.n_columns = len(model.feature_names)
    statuses, wrong = asyncio.run(load(server.url("predictions"), model))
    assert wrong == []
    assert sum(statuses.values()) == REQUESTS
    assert (
        counted(server.get("/metrics").text)
        == counted(server.get("/metrics", at="management").text)
        == statuses
    )
    lines = [line for line in server.lines if "http_status" in line]
    assert (
        collections.Counter((line["endpoint"], line["method"], line["http_status"]) for line in lines)
        == statuses
    )
    assert len({line["request_id"] for line in lines}) == REQUESTS
    assert {line["worker"] for line in lines} == {0, 1}
