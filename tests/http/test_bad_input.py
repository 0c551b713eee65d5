"""Bad input: each gets its status, one line, one count, and the server goes on."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from mlserver.app import create_app

MEGABYTE = 2**20
JSON = {"content-type": "application/json"}

BODIES = {
    "empty body": (b"", 400),
    "not JSON": (b"hello", 400),
    "truncated JSON": (b'{"ndarray": [[1, 2', 400),
    "invalid UTF-8": (b'{"ndarray": [["\xff"]]}', 400),
    "a number out of range": (b'{"ndarray": [[1e400, 1, 2]]}', 400),
    "NaN is no JSON": (b'{"ndarray": [[NaN, 1, 2]]}', 400),
    "nested brackets": (b"[" * 1_000_000, 400),
    "JSON of the wrong type": (b"[1, 2, 3]", 422),
    "rows of the wrong type": (b'{"ndarray": 7}', 422),
    "no rows": (b'{"ndarray": []}', 422),
    "one flat row": (b'{"ndarray": [1, 2, 3]}', 422),
    "ragged rows": (b'{"ndarray": [[1, 2, 3], [1, 2]]}', 422),
    "wrong width": (b'{"ndarray": [[1, 2]]}', 422),
    "a string for a number": (b'{"ndarray": [["1", 2, 3]]}', 422),
    "an unknown feature": (b'{"records": [{"a": 1, "b": 2, "c": 3, "d": 4}]}', 422),
    "a missing feature": (b'{"records": [{"a": 1, "b": 2}]}', 422),
    "two forms at once": (b'{"ndarray": [[1, 2, 3]], "records": []}', 422),
    "an unknown form": (b'{"data": [[1, 2, 3]]}', 422),
    "one byte too many": (b'{"ndarray": [[1, 2, 3]]}'.ljust(10 * MEGABYTE + 1), 413),
    "the predictor raises": (b'{"ndarray": [[-1, 2, 3]]}', 500),
    "the predictor answers the wrong length": (b'{"ndarray": [[-2, 2, 3]]}', 500),
    "the predictor answers None": (b'{"ndarray": [[-3, 2, 3]]}', 500),
    "the predictor calls sys.exit": (b'{"ndarray": [[-4, 2, 3]]}', 500),
}


async def exchange(server, request):
    """The response to a request, its line and its count, after a good prediction that shows the server goes on."""
    response = await server.client.send(request)
    assert (await server.predict([1])).json()["predictions"] == [4.0]
    lines = [line for line in server.lines() if line["request_id"] == response.headers["x-request-id"]]
    endpoint = request.url.path if request.url.path in ("/predict", "/info") else "unmatched"
    count = server.counts().get((endpoint, request.method, response.status_code))
    return response, lines, count


def check(response, lines, count, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert list(problem) == ["type", "title", "status", "detail", "code", "request_id"]
    assert (problem["status"], problem["request_id"]) == (status, response.headers["x-request-id"])
    assert [line["http_status"] for line in lines] == [status]
    assert lines[0]["level"] == ("ERROR" if status >= 500 else "WARNING")
    assert count == 1
    return problem


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES)
def test_a_bad_body(serving, run, body, status):
    async def scenario():
        async with serving() as server:
            request = server.client.build_request("POST", "/predict", content=body, headers=JSON)
            return await exchange(server, request)

    problem = check(*run(scenario()), status)
    assert "secret reason" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/predict", {"content-type": "text/csv"}, 415),
        ("GET", "/no/such/path", {}, 404),
        ("POST", "/no/such/path", JSON, 404),
        ("GET", "/predict", {}, 405),
        ("DELETE", "/info", {}, 405),
        ("BREW", "/predict", {}, 405),
    ],
)
def test_a_bad_request_line_or_media_type(serving, run, method, path, headers, status):
    if method == "BREW" and serving.way != "asgi":
        pytest.skip("the parser itself refuses unknown methods: see test_protocol.py")

    async def scenario():
        async with serving() as server:
            content = b"{}" if method == "POST" else None
            request = server.client.build_request(method, path, content=content, headers=headers)
            response, lines, count = await exchange(server, request)
            if method == "BREW":
                count = server.counts().get(("/predict", "OTHER", 405))
            return response, lines, count

    response, lines, count = run(scenario())
    check(response, lines, count, status)
    if status == 405:
        assert response.headers["allow"] in ("POST", "GET, HEAD")


def test_a_body_that_never_ends_is_a_408(serving, run):
    async def endless():
        yield b'{"ndarray": '
        await asyncio.Event().wait()

    async def scenario():
        async with serving(server={"request_timeout_s": 0.2}) as server:
            if serving.way == "asgi":
                status = await _send_slowly(server.app)
            else:
                request = server.client.build_request("POST", "/predict", content=endless(), headers=JSON)
                sending = asyncio.ensure_future(server.client.send(request))
                while not server.counts():
                    await asyncio.sleep(0.01)
                sending.cancel()
                status = None
            return status, server.lines(), server.counts()

    status, lines, counts = run(scenario())
    assert status in (408, None)
    assert [(line["http_status"], line["error_type"]) for line in lines] == [(408, "RequestTimeout")]
    assert counts == {("/predict", "POST", 408): 1}


async def _send_slowly(app):
    sent = []

    async def receive():
        if not sent:
            sent.append(True)
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(_scope(), receive, send)
    return sent[1]["status"]


def _scope():
    return {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(b"content-type", b"application/json")],
    }


def test_a_connection_dropped_within_the_body_is_a_499(serving, run):
    async def scenario():
        async with serving() as server:
            if serving.way == "asgi":
                messages = iter(
                    [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
                )

                async def receive():
                    return next(messages)

                async def send(_message):
                    raise AssertionError("nobody is there to be answered")

                await server.app(_scope(), receive, send)
            else:
                _, writer = await asyncio.open_connection(*server.address)
                writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                await writer.drain()
                writer.close()
                while not server.counts():
                    await asyncio.sleep(0.01)
            return server.lines(), server.counts()

    lines, counts = run(scenario())
    assert [(line["http_status"], line["level"]) for line in lines] == [(499, "WARNING")]
    assert counts == {("/predict", "POST", 499): 1}


GATED = """
import threading

gate = threading.Event()
runs = []

class Sum:
    def predict(self, X):
        gate.wait()
        runs.append(len(X))
        return X.sum(axis=1)
"""


def test_a_client_that_hangs_up_is_dropped_from_the_queue(serving, run, monkeypatch):
    import sys

    async def scenario():
        async with serving(GATED) as server:
            module = sys.modules[server.app.config.predictor.module]
            first = asyncio.ensure_future(server.predict([1]))
            impatient = asyncio.ensure_future(server.predict([2]))
            while len(server.app._pipeline._dispatcher._queue) < 1:
                await asyncio.sleep(0.01)
            impatient.cancel()
            while not server.counts().get(("/predict", "POST", 499)):
                await asyncio.sleep(0.01)
            module.gate.set()
            answer = (await first).json()["predictions"]
            return answer, module.runs, server.counts()

    answer, runs, counts = run(scenario())
    assert answer == [3.0] or answer == [4.0]
    assert runs == [1]
    assert counts == {("/predict", "POST", 200): 1, ("/predict", "POST", 499): 1}


def test_a_full_queue_is_a_429_and_a_late_answer_a_504(serving, run):
    import sys

    async def scenario():
        settings = {"server": {"request_timeout_s": 0.5}, "api": {"max_queue": 1}}
        async with serving(GATED, **settings) as server:
            module = sys.modules[server.app.config.predictor.module]
            waiting = [asyncio.ensure_future(server.predict([1])) for _ in range(3)]
            statuses = sorted([(await response).status_code for response in waiting])
            module.gate.set()
            return statuses, sorted(line["http_status"] for line in server.lines()), server.counts()

    statuses, logged, counts = run(scenario())
    assert statuses == logged == [429, 504, 504]
    assert counts == {("/predict", "POST", 429): 1, ("/predict", "POST", 504): 2}


def test_bytes_beyond_what_may_wait_are_a_503(serving, run):
    async def scenario():
        async with serving(server={"max_buffered_bytes": 64}) as server:
            request = server.client.build_request("POST", "/predict", content=b" " * 65, headers=JSON)
            return await exchange(server, request)

    problem = check(*run(scenario()), 503)
    assert problem["code"] == "overloaded"
    assert "server.max_buffered_bytes" in problem["detail"]


def test_an_application_mounted_under_a_prefix_answers_below_it(configured, run):
    async def scenario():
        app = create_app(configured())
        transport = httpx.ASGITransport(app, root_path="/models/sums")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post("/models/sums/predict", json={"ndarray": [[1, 2, 3]]})
        await app.close()
        return response

    assert run(scenario()).json()["predictions"] == [6.0]


@pytest.mark.parametrize(
    ("root", "path"), [("/api/", "/api/predict"), ("/pre", "/predict"), ("", "/predict")]
)
def test_only_a_whole_segment_is_taken_for_the_prefix(configured, run, root, path):
    async def scenario():
        app = create_app(configured())
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post(path, json={"ndarray": [[1, 2, 3]]})
        await app.close()
        return response.status_code

    assert run(scenario()) == 200


def test_middleware_that_gives_the_body_again_is_not_taken_for_a_client_that_left(configured, run):
    async def scenario():
        app, sent = create_app(configured()), []

        async def receive():
            return {"type": "http.request", "body": b'{"ndarray": [[1, 2, 3]]}', "more_body": False}

        async def send(message):
            sent.append(message)

        await app(_scope(), receive, send)
        await app.close()
        return sent[0]["status"]

    assert run(scenario()) == 200


def test_a_scrape_of_a_version_that_is_none_gets_text(serving, run):
    async def scenario():
        async with serving() as server:
            accept = {"accept": "application/openmetrics-text; version=abc"}
            return await server.client.get("/metrics", headers=accept)

    response = run(scenario())
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


def test_any_first_request_starts_the_model_and_every_prediction_waits_for_it(configured, run):
    async def scenario():
        app = create_app(configured())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            first = await client.get("/readyz")
            posts = [client.post("/predict", json={"ndarray": [[1, 2, 3]]}) for _ in range(3)]
            statuses = [response.status_code for response in await asyncio.gather(*posts)]
        await app.close()
        return first.status_code, statuses

    assert run(scenario()) == (503, [200, 200, 200])
