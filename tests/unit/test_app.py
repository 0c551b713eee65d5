"""The application as a whole: its start, its end, and what it says on the way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import httpx
import pytest

from mlserver.app import create_app
from mlserver.config import make_config
from mlserver.observers.metrics import Metrics
from mlserver.serving.codec import Decoder

_number = itertools.count()
SUM = "class Sum:\n    def predict(self, X):\n        return X.sum(axis=1)\n"
ASYNC_SUM = "class Sum:\n    async def predict(self, X):\n        return X.sum(axis=1)\n"
BODY = {"ndarray": [[1, 2, 3]]}


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 30))


@pytest.fixture
def configured(tmp_path, modules_as_before):
    def make(source=SUM, **sections):
        module = f"app_predictor_{next(_number)}"
        (tmp_path / f"{module}.py").write_text(dedent(source))
        observability = {"log_file": str(tmp_path / "server.log"), **sections.pop("observability", {})}
        predictor = {"module": module, "class_name": "Sum"}
        return make_config({"predictor": predictor, "observability": observability, **sections}, tmp_path)

    return make


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def metric(app, name):
    """The one sample whose name and labels begin so."""
    body = app.metrics.exposition.render("").body
    (value,) = [
        line.split()[-1] for line in body.decode().splitlines() if line.startswith(f"mlserver_{name}")
    ]
    return float(value)


def test_the_model_counts_as_loaded_from_the_start_to_the_end(configured):
    async def scenario():
        app = create_app(configured())
        found = [metric(app, "model_loaded")]
        await app.start()
        found.append(metric(app, "model_loaded"))
        await app.close()
        return [*found, metric(app, "model_loaded")]

    assert run(scenario()) == [0.0, 1.0, 0.0]


def test_a_first_request_that_is_cancelled_leaves_the_load_to_the_next(configured, monkeypatch):
    gate = threading.Event()
    monkeypatch.setitem(sys.modules, "a_gate", SimpleNamespace(gate=gate))
    source = "from a_gate import gate\n" + SUM + "    def __init__(self):\n        gate.wait(30)\n"

    async def scenario():
        app = create_app(configured(source))
        async with client_of(app) as client:
            first = asyncio.ensure_future(client.post("/predict", json=BODY))
            while app._starting is None:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            gate.set()
            second = await client.post("/predict", json=BODY)
        await app.close()
        return first.cancelled(), second.status_code

    assert run(scenario()) == (True, 200)


@pytest.mark.parametrize("source", [SUM, ASYNC_SUM], ids=["sync", "async"])
def test_what_is_closed_leaves_no_descriptor_and_no_thread(configured, source):
    config = configured(source)

    async def round_trip():
        app = create_app(config)
        await app.start()
        async with client_of(app) as client:
            assert (await client.post("/predict", json=BODY)).status_code == 200
        await app.close()

    def held():
        gc.collect()  # what other tests have left behind is none of this one's
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    run(round_trip())
    before = held()
    for _ in range(20):
        run(round_trip())
    assert held() == before


def test_bodies_in_the_log_are_warned_of(configured, caplog):
    async def scenario(**observability):
        caplog.clear()
        await create_app(configured(observability=observability)).close()
        return [record.message for record in caplog.records if record.levelno == logging.WARNING]

    (said,) = run(scenario(log_payloads=True))
    assert "log_payloads" in said
    assert run(scenario()) == []


def test_an_observer_that_raises_fails_no_request_and_is_counted(configured, monkeypatch, tmp_path):
    def failing(*_):
        raise OSError("no page")

    monkeypatch.setattr(Metrics, "__call__", failing)

    async def scenario():
        app = create_app(configured())
        await app.start()
        async with client_of(app) as client:
            statuses = [(await client.post("/predict", json=BODY)).status_code for _ in range(3)]
        dropped = metric(app, 'signals_dropped_total{signal="metrics"}')
        await app.close()
        return statuses, dropped

    statuses, dropped = run(scenario())
    assert statuses == [200] * 3
    assert dropped >= 3
    assert len((tmp_path / "server.log").read_text().splitlines()) == 3


def test_a_fault_of_the_servers_own_or_a_late_answer_is_no_error_of_the_predictor(configured, monkeypatch):
    def failing(*_):
        raise RuntimeError("inside")

    async def scenario():
        app = create_app(configured())
        await app.start()
        monkeypatch.setattr(Decoder, "__call__", failing)
        async with client_of(app) as client:
            status = (await client.post("/predict", json=BODY)).status_code
        body = app.metrics.exposition.render("").body
        await app.close()
        return status, body

    status, body = run(scenario())
    assert status == 500
    errors = [line for line in body.splitlines() if line.startswith(b"mlserver_prediction_errors_total{")]
    assert {line.rpartition(b" ")[2] for line in errors} == {b"0.0"}


WORKER = """
import asyncio, json, sys
import httpx
from pathlib import Path
from mlserver.app import create_app
from mlserver.config import make_config

folder = Path(sys.argv[1])
(folder / "talking.py").write_text('''
import logging
import structlog

class Sum:
    batchable = True

    def predict(self, X):
        structlog.get_logger().info("from structlog", rows=len(X))
        logging.getLogger("library").warning("from logging")
        return X.sum(axis=1)
''')
api = {"batching": {"enabled": True, "max_rows": 3, "max_wait_ms": 60000}}
predictor = {"module": "talking", "class_name": "Sum"}
app = create_app(make_config({"predictor": predictor, "api": api}, folder), worker=0)

async def main():
    await app.start()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        async def post(id, rows):
            headers = {"x-request-id": id}
            response = await client.post("/predict", json={"ndarray": [[1, 2]] * rows}, headers=headers)
            assert response.status_code == 200
        await post("alone", 3)
        await asyncio.gather(*[post(id, 1) for id in ("a", "b", "c")])
    await app.close()

asyncio.run(asyncio.wait_for(main(), 30))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """All lines of a worker whose predictor logs: of a run alone, then of one that three calls share."""
    command = [sys.executable, "-c", WORKER, str(tmp_path_factory.mktemp("worker"))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_predictor_logs_has_the_id_of_its_request(said):
    own = [line for line in said if line.get("request_id") == "alone" and "http_status" not in line]
    assert [line["message"] for line in own] == ["from structlog", "from logging"]
    assert own[0]["rows"] == 3
    assert {line["worker"] for line in own} == {0}


def test_what_a_predictor_logs_in_a_shared_run_has_the_ids_of_all_its_requests(said):
    requests = [line for line in said if "http_status" in line and line["request_id"] != "alone"]
    (batch_id,) = {line["batch_id"] for line in requests}
    own = [line for line in said if line.get("batch_id") == batch_id and "http_status" not in line]
    assert [line["message"] for line in own] == ["from structlog", "from logging"]
    assert [line["request_ids"] for line in own] == [["a", "b", "c"]] * 2
    assert all("request_id" not in line for line in own)
