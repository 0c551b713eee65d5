"""A service that a predictor calls is told whose request it is answering."""

from __future__ import annotations

import http.server
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
CONTEXT = ("X-Request-ID", "traceparent", "tracestate", "baggage")
TRACED = {"enabled": True, "endpoint": "http://127.0.0.1:1"}
"""With a collector that is not there."""
WAYS = ("httpx", "httpx-async", "requests", "requests-thread", "urllib3", "urllib3-pool")
BEFORE = """
import asyncio, contextvars, os, threading, time
from pathlib import Path

import httpx
import requests
import urllib3

HERE = Path(__file__).parent


async def asynchronously(url):
    async with httpx.AsyncClient() as client:
        await client.get(url, params={"way": "httpx-async"})


class Predictor:
    '''Calls a service in every way, but for rows that start with -1, which wait for the file `gate`.'''

    batchable = True

    def __init__(self, url):
        self.url = url
        self.session = requests.Session()
        self.pool = urllib3.connection_from_url(url)
        self.session.get(url, params={"way": "start"})

    def predict(self, X):
        if X[0][0] == -1:
            (HERE / "running").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.005)
            return [os.getpid()] * len(X)
        get = lambda: self.session.get(self.url, params={"way": "requests-thread"})
        thread = threading.Thread(target=contextvars.copy_context().run, args=[get])
        httpx.get(self.url, params={"way": "httpx"})
        asyncio.run(asynchronously(self.url))
        self.session.get(self.url, params={"way": "requests"})
        thread.start()
        thread.join()
        urllib3.request("GET", self.url + "?way=urllib3")
        self.pool.request("GET", "/?way=urllib3-pool")
        return [os.getpid()] * len(X)
"""
ASYNCHRONOUS = """
import asyncio, os

class Predictor:
    def __init__(self, url):
        self.url = url

    async def predict(self, X):
        import httpx  # only now

        async with httpx.AsyncClient() as client:
            await asyncio.gather(
                client.get(self.url, params={"way": "httpx"}), client.get(self.url, params={"way": "httpx-async"})
            )
        return [os.getpid()] * len(X)
"""


@pytest.fixture
def downstream():
    """The address of a service, and what it was sent: the way and the headers of each request."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            seen.append(
                (self.path.rpartition("=")[2], {name: self.headers.get_all(name) for name in CONTEXT})
            )
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.daemon_threads = True
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    service.url, service.seen = f"http://127.0.0.1:{service.server_port}", seen
    yield service
    service.shutdown()
    thread.join()
    service.server_close()


@pytest.fixture
def serve(server, downstream):
    def serve(predictor=BEFORE, **observability):
        server.configure(
            predictor=predictor, init_kwargs={"url": downstream.url}, observability=observability
        )
        server.start()
        assert {name: sent for name, sent in downstream.seen if any(sent.values())} == {}
        downstream.seen.clear()
        return server

    return serve


def predict(server, *, first=0.0, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.post(
        server.url("predictions") + "/predict", json={"ndarray": [[first]]}, headers=sent, timeout=30
    )
    assert response.status_code == 200, response.text
    return response


def without(**sent):
    return {name: sent.get(name.replace("-", "_")) for name in CONTEXT}


def test_requests_of_a_run_carry_the_id_and_the_context_of_its_request(serve, downstream):
    server = serve()
    context = {"traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"}
    predict(server, x_request_id="4c1f", **context)
    expected = {"X-Request-ID": ["4c1f"], **{name: [value] for name, value in context.items()}}
    assert downstream.seen == [(way, expected) for way in WAYS]

    downstream.seen.clear()
    given = predict(server).headers["X-Request-ID"]
    assert downstream.seen == [(way, without(X_Request_ID=[given])) for way in WAYS]


@pytest.mark.parametrize("tracing", [{}, TRACED], ids=["untraced", "traced"])
def test_requests_of_a_shared_run_carry_its_id_which_the_log_leads_on_from(
    serve, downstream, eventually, tracing
):
    server = serve(tracing=tracing)
    with ThreadPoolExecutor(5) as clients:
        first = clients.submit(predict, server, first=-1.0)
        eventually((server.folder / "running").exists)
        others = [
            clients.submit(predict, server, x_request_id=f"id-{number}", traceparent=TRACEPARENT)
            for number in range(4)
        ]
        eventually(lambda: "mlserver_queue_depth 4.0" in server.get("/metrics").text, "the queue")
        (server.folder / "gate").touch()
        for client in (first, *others):
            client.result()
    of_requests = [line for line in server.lines if "http_status" in line]
    shared = {line["request_id"]: line["batch_id"] for line in of_requests if "batch_id" in line}
    assert set(shared) == {f"id-{number}" for number in range(4)}
    (batch,) = set(shared.values())
    parent = downstream.seen[0][1]["traceparent"]
    assert downstream.seen == [(way, without(X_Request_ID=[batch], traceparent=parent)) for way in WAYS]
    if not tracing:
        assert parent is None
    else:
        assert parent[0].startswith("00-")
        assert int(parent[0].rpartition("-")[2], 16) & 1
        assert TRACE not in parent[0]  # which is that of one request, or of each


def test_requests_of_an_asynchronous_predictor_carry_their_own_id(serve, downstream):
    server = serve(ASYNCHRONOUS)
    with ThreadPoolExecutor(4) as clients:
        ids = [f"id-{number}" for number in range(8)]
        for sent in [clients.submit(predict, server, x_request_id=id_) for id_ in ids]:
            sent.result()
    assert sorted(sent["X-Request-ID"] for _, sent in downstream.seen) == sorted([[id_] for id_ in ids * 2])


def test_without_correlation_nothing_is_added(serve, downstream):
    server = serve(correlation_ids=False)
    predict(server, x_request_id="4c1f", traceparent=TRACEPARENT, tracestate="a=1", baggage="k=v")
    assert downstream.seen == [(way, without()) for way in WAYS]


def test_with_tracing_requests_carry_the_span_that_made_them(serve, downstream):
    server = serve(tracing=TRACED)
    predict(server, x_request_id="4c1f", traceparent=TRACEPARENT, tracestate="a=1", baggage="k=v")
    assert [way for way, _ in downstream.seen] == list(WAYS)
    ((parent,),) = {tuple(sent["traceparent"]) for _, sent in downstream.seen}
    version, trace, span, flags = parent.split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != SPAN
    rest = {"X-Request-ID": ["4c1f"], "tracestate": ["a=1"], "baggage": ["k=v"]}
    assert [sent | rest for _, sent in downstream.seen] == [sent for _, sent in downstream.seen]
    (line,) = [line for line in server.lines if "http_status" in line]
    assert line["trace_id"] == TRACE


def test_with_tracing_an_unsampled_trace_stays_unsampled(serve, downstream):
    server = serve(tracing=TRACED)
    predict(server, x_request_id="4c1f", traceparent=TRACEPARENT.removesuffix("01") + "00")
    for _, sent in downstream.seen:
        (parent,) = sent["traceparent"]
        assert parent.startswith(f"00-{TRACE}-")
        assert parent.endswith("-00")
