"""Which bytes are a request, and which are not."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from .raw import CHUNKED, GET, Recorder, both_loops, padded, post, serving

run = both_loops()

# Requests that are no requests.

MALFORMED = {
    "nothing known": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "another protocol": b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space behind the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space before the method": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "one bare line feed": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "a line feed in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nb: c\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "a control character in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "a folded value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "a fold at the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "a name that is no token": b"GET / HTTP/1.1\r\nHost: a\r\nX@: b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a Host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with a user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "a target with its host": b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is a host": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "a target that is a star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target with a fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is not ASCII": "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a target with NUL": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that is not UTF-8": b"GET /%C3%28 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that is too long for Unicode": b"GET /%F8%88%80%80%80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "two equal lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    "a negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    "a hexadecimal length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
    "a length with a separator": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\naaaaaaaaaa",
    "an empty length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "a length of too many digits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunks": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two headers of codings": CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hidden coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding that is none": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "an empty coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    "a coding behind a control character": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk that is no number": CHUNKED + b"zz\r\n",
    "a chunk of a negative size": CHUNKED + b"-1\r\n",
    "a chunk of a prefixed size": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "a chunk size with a space": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "a chunk size of too many digits": CHUNKED + b"1" * 17 + b"\r\n",
    "a chunk size with a bare line feed": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "an extension with a bare carriage return": CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk with something else behind it": CHUNKED + b"1\r\naXY0\r\n\r\n",
    "a chunk with a bare line feed behind it": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "a trailer that is no header": CHUNKED + b"0\r\ntrailer\r\n\r\n",
    "a trailer with a bare line feed": CHUNKED + b"0\r\na: b\n\r\n",
}


def methods_of(data):
    match = re.match(rb"([A-Za-z]+) ", data)
    return match[1].decode() if match else ""


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_a_400_and_the_end_of_its_connection(run, data):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(data)
            return reply, await client.rest(), served.sink.rejected, served.app.seen

    reply, rest, rejected, seen = run(scenario())
    assert (reply.status, reply.code, reply.last, rest, seen) == (400, "malformed_request", True, b"", [])
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-request-id"] == "an-id"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", reply.headers["date"])
    assert rejected == [(400, methods_of(data))]


def test_a_rejected_head_request_has_no_body(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(b"HEAD / HTTP/1.1\r\n\r\n", method="HEAD")
            return reply, await client.rest(), served.sink.rejected

    reply, rest, rejected = run(scenario())
    assert (reply.status, rest, rejected) == (400, b"", [(400, "HEAD")])
    assert int(reply.headers["content-length"]) > 0


def test_a_sink_may_reply_later(run):
    async def scenario():
        async with serving(sink=Recorder(late=True)) as served, await served.connect() as client:
            reply = await client.ask(b"nonsense\r\n\r\n")
            return reply.status, await client.rest(), served.sink.rejected

    assert run(scenario()) == (400, b"", [(400, "")])


# Requests.


def test_a_request_reaches_the_application_as_it_was_sent(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            head = b"\r\n\r\nPOST /a%20b/%C3%A9?c=%20 HTTP/1.1\r\nHOST: [::1]:80\r\nX-Y:  z \t\r\nEmpty:\r\n"
            reply = await client.ask(head + b"Content-Length: 2\r\n\r\nab")
            return json.loads(reply.body), reply.headers

    got, headers = run(scenario())
    assert (got["method"], got["path"], got["query"], got["body"]) == ("POST", "/a b/é", "c=%20", "ab")
    assert got["headers"] == [["host", "[::1]:80"], ["x-y", "z"], ["empty", ""], ["content-length", "2"]]
    assert got["state"] == {"shared": 1}
    assert set(headers) == {"date", "content-length"}


def test_a_connection_takes_one_request_after_the_other(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            replies = [
                await client.ask(data) for data in (GET, post(b"/1", b"x"), CHUNKED + b"0\r\n\r\n", GET)
            ]
            return [reply.last for reply in replies], served.app.seen

    last, seen = run(scenario())
    assert last == [False] * 4
    assert seen == [("GET", "/"), ("POST", "/1"), ("POST", "/echo"), ("GET", "/")]


def test_chunks_make_one_body_and_trailers_are_dropped(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            body = b'3;name="a;b"\r\nabc\r\n00A ; x\r\n0123456789\r\n0;last\r\nHost: evil\r\nX: y\r\n\r\n'
            first = await client.ask(CHUNKED + body)
            second = await client.ask(GET)
            return json.loads(first.body), json.loads(second.body)

    first, second = run(scenario())
    assert first["body"] == "abc0123456789"
    assert [name for name, _ in first["headers"]] == ["host", "transfer-encoding"]
    assert second["headers"] == [["host", "a"]]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
def test_http_1_0_and_a_client_that_closes_get_one_answer_and_the_end(run, data):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(data + GET)
            return reply, await client.rest(), len(served.app.seen)

    reply, rest, count = run(scenario())
    assert (reply.status, reply.last, rest, count) == (200, True, b"", 1)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
def test_an_upgrade_is_ignored(run, upgrade):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            headers = (
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: " + upgrade,
                b"HTTP2-Settings: AAMAAABk",
            )
            replies = [await client.ask(data) for data in (post(b"/up", b"GET / HTTP", *headers), GET)]
            return [(reply.status, json.loads(reply.body)["body"]) for reply in replies]

    assert run(scenario()) == [(200, "GET / HTTP"), (200, "")]


def test_a_client_that_asks_is_told_to_go_on_with_its_body(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            whole = post(b"/", b"body", b"Expect: 100-Continue")
            interim = await client.ask(whole[:-4])
            for byte in whole[-4:-1]:
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            return interim.status, await client.ask(whole[-1:])

    interim, reply = run(scenario())
    assert (interim, reply.status, json.loads(reply.body)["body"]) == (100, 200, "body")


@pytest.mark.parametrize(
    "data",
    [
        post(b"/", b"body", b"Expect: something else"),
        post(b"/", b"body", b"Expect: 100-continue"),
        post(b"/", b"body", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["another expectation", "the body is there already", "HTTP/1.0"],
)
def test_nobody_else_is_told_to_go_on(run, data):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            return (await client.ask(data)).status

    assert run(scenario()) == 200


def test_head_has_the_length_of_a_body_that_is_not_sent(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            first = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", method="HEAD")
            return int(first.headers["content-length"]), (await client.ask(GET)).status

    length, status = run(scenario())
    assert length > 0
    assert status == 200


# Sizes.


def test_a_head_may_have_exactly_as_many_bytes_as_the_limit_says(run):
    async def scenario():
        async with serving(max_header_bytes=500) as served, await served.connect() as client:
            statuses = [(await client.ask(data)).status for data in (padded(500), padded(499), padded(501))]
            return statuses, await client.rest(), served.sink.rejected

    assert run(scenario()) == ([200, 200, 431], b"", [(431, "GET")])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 100_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 1_000_000,
        b"GET /" + b"x" * 1_000_000,
    ],
    ids=["value", "headers", "name", "space", "target"],
)
def test_a_head_without_end_is_a_431_once_it_is_too_large(run, data):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(data)
            held = max(len(each._input) for each in served.connections)
            return reply.status, reply.code, reply.last, held, served.sink.rejected

    assert run(scenario()) == (431, "headers_too_large", True, 0, [(431, "GET")])


def test_a_chunked_body_may_not_have_endless_lines_or_trailers(run):
    async def scenario(tail):
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(CHUNKED + tail)
            return reply.status, await client.rest(), served.sink.rejected

    for tail in (b"1;" + b"x" * 10_000, b"0\r\n" + b"a: b\r\n" * 2_000):
        assert run(scenario(tail)) == (431, b"", [(431, "POST")])
