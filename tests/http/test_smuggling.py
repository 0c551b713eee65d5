"""Requests that two servers might read differently, on the way that predictions take.

`test_protocol.py` has what is no request on any path; here it is what hides a second prediction.
"""

from __future__ import annotations

import json
import re

import pytest

from .raw import both_loops
from .ways import ID, WAYS, chunked, predict, rows, serving, statuses, talk

run = both_loops()

GOOD = predict(rows(1))
HIDDEN = predict(rows(6))  # with the same head
CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(rows(1)), rows(1))


BODY = rows(1)


def framed(*headers, body=BODY, target=b"/predict", version=b"1.1"):
    """A request for a prediction whose end only these headers tell."""
    return b"\r\n".join((b"POST %b HTTP/%b" % (target, version), b"Host: a", ID, *headers, b"", body))


SIZE = b"Content-Length: %d" % len(rows(1))
CODED = b"Transfer-Encoding: chunked"

REFUSED = {
    "a length and chunks": framed(SIZE, CODED, body=CHUNK),
    "chunks and a length": framed(CODED, SIZE, body=CHUNK),
    "a length that hides what is behind the chunks": framed(
        b"Content-Length: %d" % len(b"0\r\n\r\n" + HIDDEN), CODED, body=b"0\r\n\r\n" + HIDDEN
    ),
    "chunks that hide what is behind the length": framed(
        b"Content-Length: 4", CODED, body=b"5c\r\n" + HIDDEN
    ),
    "equal lengths": framed(SIZE, SIZE),
    "different lengths": framed(SIZE, b"Content-Length: 0"),
    "different lengths, the other way": framed(b"Content-Length: 0", SIZE),
    "equal lengths in one header": framed(b"Content-Length: 24, 24"),
    "different lengths in one header": framed(b"Content-Length: 24, 0"),
    "a length with a sign": framed(b"Content-Length: +24"),
    "a length with a fraction": framed(b"Content-Length: 24.0"),
    "a length with a space within": framed(b"Content-Length: 2 4"),
    "a hexadecimal length": framed(b"Content-Length: 0x18"),
    "a length beyond 64 bits": framed(b"Content-Length: %d" % (2**64 + len(rows(1)))),
    "a length in quotes": framed(b'Content-Length: "24"'),
    "a length and a space before the colon": framed(b"Content-Length : 24"),
    "a length that is folded": framed(b"Content-Length:\r\n 24"),
    "a length that hides a coding": framed(b"Content-Length: 24\rTransfer-Encoding: chunked"),
    "a length and a bare line feed": framed(b"Content-Length: 24\nTransfer-Encoding: chunked"),
    "a coding and one that is none": framed(b"Transfer-Encoding: chunked, identity", body=CHUNK),
    "a coding behind one that is none": framed(b"Transfer-Encoding: identity, chunked", body=CHUNK),
    "the same coding twice": framed(b"Transfer-Encoding: chunked, chunked", body=CHUNK),
    "the same coding in two headers": framed(CODED, CODED, body=CHUNK),
    "another coding in a second header": framed(CODED, b"Transfer-Encoding: identity", body=CHUNK),
    "another coding in a second header, and a length": framed(
        CODED, b"Transfer-Encoding: x", SIZE, body=CHUNK
    ),
    "a coding with a prefix": framed(b"Transfer-Encoding: xchunked", body=CHUNK),
    "a coding with a parameter": framed(b"Transfer-Encoding: chunked;q=1", body=CHUNK),
    "a coding in quotes": framed(b'Transfer-Encoding: "chunked"', body=CHUNK),
    "a coding with a comma": framed(b"Transfer-Encoding: chunked,", body=CHUNK),
    "a coding that is folded": framed(b"Transfer-Encoding:\r\n chunked", body=CHUNK),
    "a coding with a fold behind it": framed(b"Transfer-Encoding: chunked\r\n identity", SIZE, body=CHUNK),
    "a coding and a space before the colon": framed(b"Transfer-Encoding : chunked", SIZE, body=CHUNK),
    "a coding behind a vertical tab": framed(b"Transfer-Encoding: \x0bchunked", SIZE, body=CHUNK),
    "a coding with NUL": framed(b"Transfer-Encoding: chunked\x00", SIZE, body=CHUNK),
    "a name with NUL": framed(b"Transfer-Encoding\x00: chunked", SIZE, body=CHUNK),
    "a coding behind a bare line feed": framed(b"X: y\nTransfer-Encoding: chunked", SIZE, body=CHUNK),
    "a coding behind a bare carriage return": framed(b"X: y\rTransfer-Encoding: chunked", SIZE, body=CHUNK),
    "a request behind a bare line feed": GOOD.replace(b"\r\n\r\n", b"\n\n"),
    "an end of a bare carriage return": GOOD.replace(b"\r\n\r\n", b"\r\r"),
    "chunks of HTTP/1.0": framed(CODED, body=CHUNK, version=b"1.0"),
    "a chunk size with a sign": framed(CODED, body=b"+" + CHUNK),
    "a chunk size with a prefix": framed(CODED, body=b"0x" + CHUNK),
    "a chunk size with an underscore": framed(CODED, body=CHUNK.replace(b"18", b"1_8", 1)),
    "a chunk size behind a space": framed(CODED, body=b" " + CHUNK),
    "a chunk size before a space": framed(CODED, body=CHUNK.replace(b"18", b"18 ", 1)),
    "a chunk size beyond 64 bits": framed(CODED, body=b"1" + b"0" * 14 + CHUNK),
    "a chunk size and a bare line feed": framed(CODED, body=CHUNK.replace(b"18\r\n", b"18\n")),
    "a chunk size and a bare carriage return": framed(CODED, body=CHUNK.replace(b"18\r\n", b"18\r")),
    "an extension with a bare line feed": framed(CODED, body=CHUNK.replace(b"18\r\n", b"18;a\nb\r\n")),
    "a chunk that is longer than its size": framed(CODED, body=CHUNK.replace(b"18\r\n", b"17\r\n")),
    "a chunk that is shorter than its size": framed(CODED, body=CHUNK.replace(b"18\r\n", b"19\r\n")),
    "a trailer that is a request": framed(CODED, body=CHUNK[:-2] + HIDDEN),
    "a target with its host": framed(SIZE, target=b"http://a/predict"),
    "a target with another host": framed(SIZE, target=b"http://b/predict"),
    "a target with a space": framed(SIZE, target=b"/predict HTTP/1.1 "),
    "a target with a line feed": framed(SIZE, target=b"/predict\n"),
    "a tab behind the target": framed(SIZE, target=b"/predict\t"),
}


def sums(received):
    return [json.loads(found) for found in re.findall(rb'\{"predictions":(\[[^]]*\])', received)]


async def told(configured, name, request, before):
    """What is answered to a request with another behind it, and what the model was asked."""
    async with serving(configured, name, short=True) as way:
        received = await talk(way, [GOOD] * before + [request + HIDDEN, HIDDEN], end=False)
        return received, way.module.runs


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_what_may_be_read_in_two_ways_is_a_400_and_nothing_behind_it_is_read(
    run, configured, request_, name, before
):
    received, runs = run(told(configured, name, request_, before))
    assert statuses(received) == [200] * before + [400]
    assert received.count(b"connection: close") == 1
    assert sums(received) == [[4.0]] * before
    assert runs == [[1.0]] * before


READ_ONE_WAY = {
    "leading zeros": (framed(b"Content-Length: 0000024"), 200),
    "spaces around a length": (framed(b"Content-Length:  \t24 \t"), 200),
    "a coding in capitals": (framed(b"TRANSFER-ENCODING: Chunked", body=CHUNK), 200),
    "leading zeros of a chunk": (framed(CODED, body=b"000" + CHUNK), 200),
    "a header that only looks like a coding": (framed(SIZE, b"Transfer_Encoding: chunked"), 200),
    "a header that only looks like a length": (framed(SIZE, b"X-Content-Length: 0"), 200),
    "a body that is a request": (predict(HIDDEN), 400),
    "a chunk that is a request": (chunked(HIDDEN), 400),
    "a query that is a request": (
        framed(SIZE, target=b"/predict?" + HIDDEN.split(b"\r\n")[0].replace(b" ", b"%20")),
        200,
    ),
    "an extension that ends a chunk": (
        framed(CODED, body=CHUNK.replace(b"18\r\n", b"18;0=%0d%0a0\r\n", 1)),
        200,
    ),
    "trailers that would frame": (
        framed(CODED, body=CHUNK[:-2] + b"Content-Length: 500\r\nTransfer-Encoding: x\r\n\r\n"),
        200,
    ),
    "a body where none is expected": (predict(HIDDEN).replace(b"POST", b"GET", 1), 405),
    "a body for another path": (predict(HIDDEN, path=b"/nothing"), 404),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("request_", "status"), READ_ONE_WAY.values(), ids=READ_ONE_WAY)
def test_what_can_be_read_in_one_way_only_ends_where_it_says(run, configured, request_, status, name):
    async def scenario():
        async with serving(configured, name, short=True) as way:
            pieces = [request_ + GOOD, request_, request_, GOOD]
            return await talk(way, pieces), way.module.runs

    received, runs = run(scenario())
    assert statuses(received) == [status, 200, status, status, 200]
    assert [6.0] not in runs


@pytest.mark.parametrize("name", WAYS)
def test_what_begins_within_a_head_is_not_taken_for_a_request_that_came_before(run, configured, name):
    async def scenario():
        async with serving(configured, name, short=True) as way:
            received = await talk(way, [GOOD, b"POST /predict HTTP/1.1\r\nX: ", HIDDEN, HIDDEN])
            return statuses(received), [call["headers"].get(b"x") for call in way.seen]

    assert run(scenario()) == ([200] * 3, [None, b"POST /predict HTTP/1.1", None])


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    "cut",
    [
        chunked(rows(1))[:-2],
        chunked(rows(1))[:-5],
        chunked(rows(1))[:-7],
        chunked(rows(1), trailers=b"a: b\r\n")[:-2],
    ],
    ids=["no empty line", "no last chunk", "no end of a chunk", "no end of the trailers"],
)
def test_a_body_without_its_end_is_never_answered(run, configured, cut, name):
    async def scenario():
        async with serving(configured, name, short=True) as way:
            return (
                await talk(way, [GOOD, cut]),
                way.module.runs,
                [line["http_status"] for line in way.lines()],
            )

    received, runs, logged = run(scenario())
    assert (statuses(received), runs, logged) == ([200], [[1.0]], [200, 499])


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    "tail",
    [b"1;" + b"x" * 10_000, b"1" * 10_000, b"0\r\n" + b"a: b\r\n" * 2_000],
    ids=["extension", "size", "trailers"],
)
def test_what_is_too_long_beside_a_body_is_refused_with_all_behind_it(run, configured, tail, name):
    received, runs = run(told(configured, name, framed(CODED, body=tail + b"\r\n"), 1))
    assert statuses(received)[:1] == [200]
    assert statuses(received)[1:] in ([431], [400])
    assert runs == [[1.0]]
