"""One set of tests over all ways in: the application called by ASGI alone or through our own listener, and the
fast way, on which that listener hands predictions to the pipeline."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlserver.app import create_app
from mlserver.config import make_config

_number = itertools.count()

PREDICTOR = '''
import sys
import time


class Sum:
    """Answers the sum of each row, and does as it is told by a row's first value."""

    feature_names = ["a", "b", "c"]

    def predict(self, X):
        first = X[0, 0]
        if first == -1:
            raise ValueError("the secret reason")
        if first == -2:
            return [1.0] * (len(X) + 1)
        if first == -3:
            return None
        if first == -4:
            sys.exit(3)
        if first == -5:
            return [float("nan")] * len(X)
        return X.sum(axis=1)

    def predict_proba(self, X):
        return [[0.25, 0.75]] * len(X)
'''


class Server:
    """A running application and what it has said so far."""

    def __init__(self, app, client, log, address=None):
        self.app, self.client, self._log, self.address = app, client, log, address

    def lines(self):
        """Log lines of requests; probes and scrapes have none at INFO."""
        records = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [record for record in records if "http_status" in record]

    def counts(self):
        """requests_total by (endpoint, method, status), without the scrapes and probes."""
        body = self.app.metrics.exposition.render("").body
        return {
            (sample.labels["endpoint"], sample.labels["method"], int(sample.labels["status"])): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if sample.name == "mlserver_requests_total" and sample.value
        }

    async def predict(self, firsts, path="/predict"):
        return await self.client.post(path, json={"ndarray": [[first, 1.0, 2.0] for first in firsts]})


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def configured(tmp_path):
    """Makes a configuration around a predictor's source."""

    def make(source=PREDICTOR, class_name="Sum", **sections):
        module = f"predictor_{next(_number)}"
        (tmp_path / f"{module}.py").write_text(source)
        data = {
            "model": {"name": "sums", "version": "1.2.3"},
            "predictor": {"module": module, "class_name": class_name},
            **sections,
        }
        data["observability"] = {"log_file": str(tmp_path / "server.log"), **data.get("observability", {})}
        return make_config(data, tmp_path)

    return make


@pytest.fixture(params=["asgi", "listener", "fast"])
def serving(request, configured, tmp_path):
    """An async context manager that serves a predictor over one way in."""

    @asynccontextmanager
    async def serve(source=PREDICTOR, class_name="Sum", *, start=True, **sections):
        config = configured(source, class_name, **sections)
        app = create_app(config)
        if start:
            await app.start()
        try:
            async with _way_in(request.param if start else WAYS_TO_START[request.param], app, config) as (
                client,
                address,
            ):
                yield Server(app, client, tmp_path / "server.log", address)
        finally:
            await app.close()

    serve.way = request.param
    return serve


WAYS_TO_START = {"asgi": "asgi", "listener": "listener", "fast": "listener"}
"""Under ``mlserver serve``, where the fast way is, it is the worker that starts the application."""


@asynccontextmanager
async def _way_in(way, app, config):
    if way == "asgi":
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, None
        return
    from mlserver.server.limits import Limits
    from mlserver.server.listener import Listener

    listening = socket.create_server(("127.0.0.1", 0))
    listener = Listener(
        app, limits=Limits.of(config.server), sink=app, entry=app.entry if way == "fast" else None
    )
    await listener.accept(listening, "only")
    address = listening.getsockname()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}", trust_env=False) as client:
            yield client, address
    finally:
        await listener.close(5.0)
        listening.close()


@pytest.fixture
def run():
    return asyncio.run
