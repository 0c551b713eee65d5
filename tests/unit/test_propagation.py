"""Ids and trace context on the requests that a run makes, and nothing on any other."""

from __future__ import annotations

import asyncio
import contextvars
import http.server
import inspect
import io
import itertools
import subprocess
import sys
import threading
from textwrap import dedent

import httpx
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from requests.adapters import BaseAdapter

from mlserver import propagation
from mlserver.propagation import outgoing, passed_on, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Downstream:
    """A server that keeps the headers it was sent, and sends on what asks for /redirect."""

    def __init__(self):
        requests_ = self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requests_.append(self.headers)
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(302 if self.path == "/redirect" else 200)
                self.send_header("Location", "/")
                self.send_header("Content-Length", str(len(self.body)))
                self.end_headers()
                self.wfile.write(self.body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def ids(self):
        """Of the requests so far: what each has for an id, every time that it has one."""
        return [headers.get_all("X-Request-ID") for headers in self.requests]

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def server():
    propagation.install()
    made = Downstream()
    yield made
    made.close()


@pytest.fixture
def downstream(server):
    server.requests.clear()
    return server


@pytest.fixture
def running():
    """Calls a function as if in a run with these headers to send."""

    def running(function, headers=None):
        context = contextvars.copy_context()
        context.run(outgoing.set, {"X-Request-ID": "run-1"} if headers is None else headers)
        return context.run(function)

    return running


@pytest.fixture
def source(monkeypatch):
    """Puts a source of headers in place."""

    def put(*given):
        monkeypatch.setattr(propagation, "sources", list(given))

    return put


async def asynchronously(url, **options):
    async with httpx.AsyncClient() as client:
        return (await client.get(url, **options)).text


async def asynchronous_stream(url, **options):
    async with httpx.AsyncClient() as client, client.stream("GET", url, **options) as response:
        return await response.aread()


def with_client(url, **options):
    with httpx.Client() as client:
        return client.get(url, **options).text


def httpx_stream(url, **options):
    with httpx.stream("GET", url, **options) as response:
        return response.read()


def built(url, **options):
    with httpx.Client() as client:
        return client.send(client.build_request("GET", url, **options)).text


def with_session(url, **options):
    with requests.Session() as session:
        return session.get(url, **options).text


def prepared(url, **options):
    with requests.Session() as session:
        return session.send(session.prepare_request(requests.Request("GET", url, **options))).text


def requests_stream(url, **options):
    with requests.get(url, stream=True, **options) as response:
        return response.raw.read()


def with_manager(url, **options):
    with urllib3.PoolManager() as manager:
        return manager.request("GET", url, **options).data


def with_pool(url, **options):
    with urllib3.connection_from_url(url) as pool:
        return pool.request("GET", "/", **options).data


def with_positions(url, headers=None):
    with urllib3.connection_from_url(url) as pool:
        return pool.urlopen("GET", "/", None, headers).data


def urllib3_stream(url, **options):
    with urllib3.PoolManager() as manager:
        response = manager.request("GET", url, preload_content=False, **options)
        return list(response.stream())


WAYS = [
    httpx.get,
    with_client,
    httpx_stream,
    built,
    lambda url, **options: asyncio.run(asynchronously(url, **options)),
    lambda url, **options: asyncio.run(asynchronous_stream(url, **options)),
    requests.get,
    with_session,
    prepared,
    requests_stream,
    lambda url, **options: urllib3.request("GET", url, **options),
    with_manager,
    with_pool,
    with_positions,
    urllib3_stream,
]
NAMES = [
    "httpx.get",
    "httpx.Client",
    "httpx.stream",
    "httpx.Client.send",
    "httpx.AsyncClient",
    "httpx.AsyncClient.stream",
    "requests.get",
    "requests.Session",
    "requests.Session.send",
    "requests stream",
    "urllib3.request",
    "urllib3.PoolManager",
    "urllib3 pool",
    "urllib3 pool.urlopen",
    "urllib3 stream",
]
every_way = pytest.mark.parametrize("get", WAYS, ids=NAMES)


@every_way
def test_a_request_made_in_a_run_carries_its_headers_once(downstream, running, get):
    headers = {"X-Request-ID": "run-1", "traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"}
    running(lambda: get(downstream.url), headers)
    (sent,) = downstream.requests
    assert {name: sent.get_all(name) for name in headers} == {n: [v] for n, v in headers.items()}


@every_way
def test_a_request_made_outside_of_a_run_carries_nothing(downstream, source, get):
    asked = []
    source(lambda: asked.append(1) or {"traceparent": TRACEPARENT})
    get(downstream.url)
    (sent,) = downstream.requests
    assert not {"x-request-id", "traceparent"} & {name.lower() for name in sent}
    assert asked == []


@every_way
def test_a_header_that_the_user_set_stays(downstream, running, get):
    given = {"x-request-id": "mine", "Other": "kept"}
    running(lambda: get(downstream.url, headers=given), {"X-Request-ID": "run-1", "baggage": "k=v"})
    assert given == {"x-request-id": "mine", "Other": "kept"}
    (sent,) = downstream.requests
    assert (sent.get_all("X-Request-ID"), sent["Other"], sent["Baggage"]) == (["mine"], "kept", "k=v")


@every_way
def test_what_the_user_passed_in_is_not_changed(downstream, running, get):
    given = {"Other": "kept"}
    for run in ("run-1", "run-2"):
        running(lambda: get(downstream.url, headers=given), {"X-Request-ID": run})
    assert given == {"Other": "kept"}
    assert downstream.ids() == [["run-1"], ["run-2"]]


@pytest.mark.parametrize(
    "get",
    [
        lambda url: httpx.get(url, follow_redirects=True),
        requests.get,
        lambda url: urllib3.request("GET", url),
        lambda url: urllib3.connection_from_url(url).request("GET", "/redirect"),
    ],
    ids=["httpx", "requests", "urllib3", "urllib3 pool"],
)
def test_a_redirected_request_carries_its_headers_every_time(downstream, running, get):
    running(lambda: get(f"{downstream.url}/redirect"))
    assert downstream.ids() == [["run-1"], ["run-1"]]


def test_a_request_that_is_used_in_two_runs_carries_the_id_of_each(downstream, running):
    request = httpx.Request("POST", downstream.url, content=b"body")
    ready = requests.Request("POST", downstream.url, data=b"body").prepare()
    with httpx.Client() as client, requests.Session() as session:
        for run in ("run-1", "run-2"):
            response = running(lambda: client.send(request), {"X-Request-ID": run})
            assert (response.text, response.request.content) == ("body", b"body")
            assert running(lambda: session.send(ready), {"X-Request-ID": run}).text == "body"
    assert downstream.ids() == [["run-1"], ["run-1"], ["run-2"], ["run-2"]]
    assert "X-Request-ID" not in request.headers
    assert "X-Request-ID" not in ready.headers


def test_bodies_that_are_streamed_arrive_whole(downstream, running):
    def send():
        parts = [b"one ", b"two"]
        length = {"Content-Length": "7"}
        return [
            httpx.post(downstream.url, content=iter(parts), headers=length).text,
            requests.post(downstream.url, data=io.BytesIO(b"one two")).text,
            urllib3.request(
                "POST", downstream.url, body=io.BytesIO(b"one two"), headers=length
            ).data.decode(),
        ]

    assert running(send) == ["one two"] * 3
    assert downstream.ids() == [["run-1"]] * 3


def test_transports_and_adapters_that_use_no_network_are_given_the_headers_too(running):
    sent = []

    class Adapter(BaseAdapter):
        def send(self, request, **_):
            sent.append(request.headers["X-Request-ID"])
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            response.raw = io.BytesIO()
            return response

        def close(self):
            pass

    def answer(request):
        sent.append(request.headers["X-Request-ID"])
        return httpx.Response(200)

    def get():
        with requests.Session() as session, httpx.Client(transport=httpx.MockTransport(answer)) as client:
            session.mount("http://", Adapter())
            session.get("http://example.com")
            client.get("http://example.com")

    running(get)
    assert sent == ["run-1", "run-1"]


def test_headers_of_a_pool_are_sent_beside_those_of_the_run(downstream, running):
    manager = urllib3.PoolManager(headers={"Other": "kept"})
    pool = urllib3.connection_from_url(downstream.url, headers={"Other": "kept"})

    def get():
        manager.request("GET", downstream.url)
        pool.urlopen("GET", "/")

    running(get)
    manager.clear()
    pool.close()
    assert downstream.ids() == [["run-1"], ["run-1"]]
    assert [headers["Other"] for headers in downstream.requests] == ["kept", "kept"]
    assert manager.headers == pool.headers == {"Other": "kept"}


def test_threads_tasks_and_contexts_that_a_run_starts(downstream, running):
    async def run():
        await asyncio.gather(
            asyncio.to_thread(httpx.get, downstream.url), asyncio.create_task(asynchronously(downstream.url))
        )

    def start(target, *arguments):
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        thread.join()

    running(lambda: asyncio.run(run()))
    running(lambda: start(contextvars.copy_context().run, httpx.get, downstream.url))
    assert downstream.ids() == [["run-1"]] * 3


def test_a_source_takes_the_place_of_the_callers_trace_context(downstream, running, source):
    caller = {"X-Request-ID": "run-1", "traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"}
    own = f"00-{TRACE}-{'1' * 16}-01"
    source(lambda: {"traceparent": own, "baggage": "mine=1"})
    running(lambda: httpx.get(downstream.url), caller)
    source(dict)
    running(lambda: httpx.get(downstream.url), caller)
    first, second = downstream.requests
    shown = [(s["X-Request-ID"], s["traceparent"], s["tracestate"], s["baggage"]) for s in (first, second)]
    assert shown == [("run-1", own, None, "mine=1"), ("run-1", TRACEPARENT, "a=1", "k=v")]


def test_a_span_of_the_users_own_is_sent_without_the_state_of_another(downstream, running):
    caller = {"X-Request-ID": "run-1", "traceparent": TRACEPARENT, "tracestate": "a=1", "baggage": "k=v"}
    own = f"00-{'2' * 32}-{'1' * 16}-01"
    running(lambda: requests.get(downstream.url, headers={"Traceparent": own}), caller)
    (sent,) = downstream.requests
    assert (sent.get_all("traceparent"), sent["tracestate"], sent["baggage"]) == ([own], None, "k=v")


def test_a_source_that_raises_costs_no_request(downstream, running, source, monkeypatch, caplog):
    monkeypatch.setattr(propagation, "_pace", propagation.Pace())

    def fail():
        raise RuntimeError("no span")

    source(fail, lambda: {"baggage": "k=v"})
    running(lambda: [get(downstream.url) for get in (httpx.get, requests.get, with_manager)])
    assert [(h["X-Request-ID"], h["baggage"]) for h in downstream.requests] == [("run-1", "k=v")] * 3
    assert caplog.text.count("without the trace context") == 1


@pytest.mark.parametrize("get", [httpx.get, requests.get, with_manager], ids=["httpx", "requests", "urllib3"])
@pytest.mark.parametrize("value", ["a\r\nEvil: 1", "ü", "\ud800", "x" * 9000])
def test_what_cannot_be_a_header_is_left_out(downstream, running, source, get, value):
    source(lambda: {"baggage": value})
    running(lambda: get(downstream.url))
    (sent,) = downstream.requests
    assert (sent["X-Request-ID"], sent["baggage"], sent["Evil"]) == ("run-1", None, None)


def test_headers_that_cannot_be_read_are_the_users_own_fault_as_before(running):
    with pytest.raises(AttributeError) as outside:
        urllib3.connection_from_url("http://127.0.0.1:1").urlopen("GET", "/", headers=3)
    with pytest.raises(AttributeError) as inside:
        running(lambda: urllib3.connection_from_url("http://127.0.0.1:1").urlopen("GET", "/", headers=3))
    assert str(inside.value) == str(outside.value)


def test_what_is_patched_still_looks_like_itself():
    propagation.install()
    assert inspect.iscoroutinefunction(httpx.AsyncClient.send)
    assert list(inspect.signature(requests.Session.send).parameters) == ["self", "request", "kwargs"]
    assert urllib3.HTTPConnectionPool.urlopen.__qualname__ == "HTTPConnectionPool.urlopen"
    assert not hasattr(requests.Session.send.__wrapped__, "__wrapped__")  # once only


INSTALL = "from mlserver import propagation; propagation.install(); propagation.install()"
IMPORT = "import requests, urllib3, httpx"
SEND = """
propagation.outgoing.set({"X-Request-ID": "run-1"})
httpx.get(url), requests.get(url), urllib3.request("GET", url)
"""


@pytest.mark.parametrize("steps", list(itertools.permutations((INSTALL, IMPORT))))
def test_it_does_not_matter_which_is_imported_first(downstream, steps):
    code = "\n".join([*steps, f"url = {downstream.url!r}", dedent(SEND)])
    subprocess.run([sys.executable, "-c", code], check=True)
    assert downstream.ids() == [["run-1"]] * 3


def test_a_library_that_is_made_otherwise_is_imported_all_the_same(tmp_path):
    (tmp_path / "httpx.py").write_text("get = len")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {INSTALL}; import httpx; print(httpx.get('abc'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
    assert "Requests made with httpx will not carry ids" in done.stderr


def test_nothing_is_imported_for_it():
    code = f"{INSTALL}; import sys; print({{'httpx', 'requests', 'urllib3'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# The caller's trace context


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (TRACEPARENT, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_traceparent_names_a_place_in_a_trace(value, sampled):
    assert read_traceparent(value.encode()) == (TRACE, SPAN, sampled)
    assert passed_on({b"traceparent": value.encode()}) == {"traceparent": value}


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc-{TRACE}-{SPAN}-01x",
    ],
)
def test_what_is_no_traceparent_is_as_if_it_were_not_there(value):
    assert read_traceparent(value.encode()) is None
    headers = {b"traceparent": value.encode(), b"tracestate": b"a=1", b"baggage": b"k=v"}
    assert passed_on(headers) == {"baggage": "k=v"}


def test_state_and_baggage_that_came_in_several_headers_are_joined():
    repeated = [(b"tracestate", b"a=1"), (b"baggage", b"k=v"), (b"tracestate", b"b=2"), (b"host", b"x")]
    headers = {b"traceparent": TRACEPARENT.encode(), **dict(repeated)}
    expected = {"traceparent": TRACEPARENT, "tracestate": "a=1,b=2", "baggage": "k=v"}
    assert passed_on(headers, repeated) == expected


@pytest.mark.parametrize(("name", "value"), [
    ("tracestate", "a=" + "x" * 254 + ",b=" + "x" * 253), ("baggage", "a=" + "x" * 4093 + ",b=" + "x" * 4094)
])  # fmt: skip
def test_what_is_too_long_is_not_passed_on(name, value):
    headers = {b"traceparent": TRACEPARENT.encode(), name.encode(): value.encode()}
    assert len(value) in (512, 8192)
    assert passed_on(headers)[name] == value
    headers[name.encode()] += b" "
    assert passed_on(headers) == {"traceparent": TRACEPARENT}


@pytest.mark.parametrize(("name", "given", "expected"), [
    ("tracestate", "a=1, b=2\t,,c@d=3", "a=1,b=2,c@d=3"),
    ("tracestate", "a=1,NO=1,b,=2,c=,d= ,e==,f=\xff,9=1,b=2", "a=1,b=2"),
    ("tracestate", "a=1,b=2,a=3", "a=1,b=2"),
    ("tracestate", f"{'k' * 257}=1,b={'v' * 200}", f"b={'v' * 200}"),
    ("tracestate", ",".join(f"k{number}=1" for number in range(40)), ",".join(f"k{number}=1" for number in range(32))),
    ("baggage", "a = 1 ; p ; q = 2 ,b=%20%C3%A9=", "a = 1 ; p ; q = 2,b=%20%C3%A9="),
    ("baggage", 'a=1,no,=1,b c=1,d=e f,g="1",h=\\,i=1;,j=\xff,k(=1,l=\n', "a=1"),
    ("baggage", f"a={'x' * 4095},b=1", "b=1"),
    ("baggage", ",".join(f"k{number}=1" for number in range(70)), ",".join(f"k{number}=1" for number in range(64))),
])  # fmt: skip
def test_of_a_list_what_is_well_formed_is_passed_on(name, given, expected):
    headers = {b"traceparent": TRACEPARENT.encode(), name.encode(): given.encode("latin-1")}
    assert passed_on(headers) == {"traceparent": TRACEPARENT, name: expected}


@given(st.dictionaries(st.sampled_from([b"traceparent", b"tracestate", b"baggage"]), st.binary(max_size=80)))
def test_whatever_is_sent_what_is_passed_on_can_stand_in_a_header(headers):
    for future in (b"", b"cc-%b-%b-01-" % (TRACE.encode(), SPAN.encode())):
        given = dict(headers)
        if future and b"traceparent" in given:
            given[b"traceparent"] = future + given[b"traceparent"]
        context = passed_on(given)
        for name, value in context.items():
            assert value.isascii()
            assert value.isprintable()
            members = given[name.encode()].split(b",")
            assert name == "traceparent" or set(value.encode().split(b",")) <= {
                member.strip(b" \t") for member in members
            }
        assert "tracestate" not in context or "traceparent" in context
