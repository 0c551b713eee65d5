"""One end for every request: limits on its body, faults of the server's own, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace

import pytest

from mlserver.app import create_app
from mlserver.serving import routes
from mlserver.serving.codec import Decoder
from mlserver.serving.model import Model

BODY = b'{"ndarray": [[1, 2, 3]]}'


@pytest.fixture
def run():
    return lambda scenario: asyncio.run(asyncio.wait_for(scenario, 30))


async def asked(app, *messages, headers=(), then="wait"):
    """The status of a POST whose body comes in these messages; ``then`` what comes after them, for ever."""
    coming, taken, sent = list(messages), [], []

    async def receive():
        taken.append(True)
        await asyncio.sleep(0)
        if coming:
            return coming.pop(0)
        if then == "wait":
            await asyncio.Event().wait()
        return then

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(b"content-type", b"application/json"), *headers],
    }
    await app(scope, receive, send)
    return sent[0]["status"], len(taken)


def part(body=BODY, *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def asgi(configured, run):
    """Runs a scenario with a started application, which is called as any ASGI server would."""

    def served(scenario, **sections):
        async def whole():
            app = create_app(configured(**sections))
            await app.start()
            try:
                return await scenario(app)
            finally:
                await app.close()

        return run(whole())

    return served


def test_a_body_that_declares_too_much_is_refused_before_any_of_it_is_read(asgi):
    headers = [(b"content-length", b"11")]
    limits = {"max_body_bytes": 10}
    assert asgi(lambda app: asked(app, headers=headers), server=limits) == (413, 0)


def test_a_body_that_declares_nothing_is_refused_once_it_is_too_large(asgi):
    limits = {"max_body_bytes": 10}
    endless = part(b"1234", more=True)
    assert asgi(lambda app: asked(app, then=endless), server=limits) == (413, 3)


def test_a_body_of_exactly_the_limit_is_taken(asgi):
    limits = {"max_body_bytes": len(BODY)}
    headers = [(b"content-length", str(len(BODY)).encode())]
    assert asgi(lambda app: asked(app, part(), headers=headers), server=limits)[0] == 200


@pytest.mark.parametrize("then", ["wait", part(b"", more=True)], ids=["no byte", "drop by drop"])
def test_a_body_has_one_time_from_the_headers_to_its_end(asgi, then):
    assert asgi(lambda app: asked(app, then=then), server={"request_timeout_s": 0.1})[0] == 408


def test_time_that_has_passed_since_the_headers_is_not_given_again(asgi, monkeypatch):
    async def scenario(app):
        clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 59.95)
        monkeypatch.setattr(routes, "time", clock)
        return await asked(app)

    assert asgi(scenario, server={"request_timeout_s": 60})[0] == 408


def test_no_task_outlives_its_request(asgi):
    async def scenario(app):
        before = asyncio.all_tasks()
        statuses = [(await asked(app, part(body)))[0] for body in (BODY, b"{", BODY)]
        async with asyncio.timeout(5):
            while asyncio.all_tasks() != before:
                await asyncio.sleep(0)
        return statuses

    assert asgi(scenario) == [200, 400, 200]


def test_what_a_middleware_sets_in_a_context_variable_reaches_the_predictor(configured, run):
    source = """
from contextvars import ContextVar

tenant = ContextVar("tenant", default=0.0)

class Sum:
    def predict(self, X):
        return [tenant.get()] * len(X)
"""

    async def scenario():
        config = configured(source)
        app = create_app(config)
        await app.start()
        bodies = []

        async def middleware(number):
            sys.modules[config.predictor.module].tenant.set(number)
            messages = iter([part()])

            async def receive():
                return next(messages, None) or await asyncio.Event().wait()

            async def send(message):
                bodies.append(message.get("body"))

            scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
            await app(scope, receive, send)

        for number in (7.0, 8.0):
            await asyncio.create_task(middleware(number))
        await app.close()
        return [json.loads(body)["predictions"] for body in bodies if body]

    assert run(scenario()) == [[7.0], [8.0]]


def failing(*_):
    raise RuntimeError("the secret reason")


@pytest.mark.parametrize(
    ("owner", "name", "method", "path"),
    [(Model, "info", "GET", "/info"), (Decoder, "__call__", "POST", "/predict")],
)
def test_a_fault_of_the_servers_own_is_one_500_one_line_and_one_count(
    serving, run, monkeypatch, owner, name, method, path
):
    async def scenario():
        async with serving() as server:
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, failing)
                response = await server.client.request(
                    method, path, content=BODY if method == "POST" else None
                )
            return response, server.lines(), server.counts(), (await server.predict([1])).status_code

    response, (line,), counts, after = run(scenario())
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert (line["http_status"], line["error_type"], line["endpoint"]) == (500, "RuntimeError", path)
    assert "in failing" in line["exception"]
    assert counts == {(path, method, 500): 1}
    assert after == 200


def test_the_line_of_a_prediction_has_its_shapes_and_at_least_the_time_that_the_client_was_told(serving, run):
    async def scenario():
        async with serving() as server:
            return await server.predict([1, 2]), await server.predict([1], "/predict_proba"), server.lines()

    first, second, lines = run(scenario())
    assert [line["input_shape"] for line in lines] == [[2, 3], [1, 3]]
    assert [line["output_shape"] for line in lines] == [[2], [1, 2]]
    for response, line in zip((first, second), lines, strict=True):
        assert 0 < response.json()["time_ms"] <= line["duration_ms"]


PICKY = """
from mlserver.errors import InvalidInput

class Sum:
    batchable = True

    def predict(self, X):
        if 13 in X[:, 0]:
            raise InvalidInput("13 is no value that the model takes")
        return X.sum(axis=1)
"""


def test_what_the_model_calls_invalid_is_a_422_for_its_own_client_only(serving, run):
    api = {"batching": {"enabled": True, "max_rows": 3, "max_wait_ms": 60_000}}

    async def scenario():
        async with serving(PICKY, api=api) as server:
            alone = await server.predict([13, 1, 1])
            return alone, *await asyncio.gather(*[server.predict([first]) for first in (1, 13, 2)])

    alone, *shared = run(scenario())
    assert alone.json()["detail"] == "13 is no value that the model takes"
    assert [response.status_code for response in (alone, *shared)] == [422, 200, 422, 200]


@pytest.mark.parametrize("kind", ["", "async "], ids=["sync", "async"])
def test_a_check_that_exits_leaves_the_server_up(serving, run, kind):
    source = f"""
import sys

class Sum:
    {kind}def predict(self, X):
        return X.sum(axis=1)

    {kind}def check_health(self):
        sys.exit(3)
"""

    async def scenario():
        async with serving(source) as server:
            probes = [(await server.client.get(path)).status_code for path in ("/healthz", "/startupz")]
            return [*probes, (await server.predict([1])).status_code]

    assert run(scenario()) == [200, 503, 200]


def test_a_class_that_exits_when_it_is_made_leaves_the_server_up(serving, run):
    source = """
import sys

class Sum:
    def __init__(self):
        sys.exit(3)

    def predict(self, X):
        return X
"""

    async def scenario():
        async with serving(source) as server:
            probes = [(await server.client.get(path)).status_code for path in ("/healthz", "/readyz")]
            return [*probes, (await server.predict([1])).status_code]

    assert run(scenario()) == [200, 503, 503]
