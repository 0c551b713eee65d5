"""Anything at all, in any pieces."""

from __future__ import annotations

import asyncio
import itertools
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .raw import CHUNKED, GET, WAIT, both_loops, padded, post, serving

run = both_loops()

fragments = st.sampled_from(
    [
        GET,
        WAIT,
        post(b"/p", b"0123456789"),
        post(b"/raise", b"x"),
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: railer\r\n\r\n",
        CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nbad trailer\r\n\r\n",
        GET.replace(b"1.1", b"1.0"),
        GET.replace(b"GET", b"HEAD"),
        post(b"/u", b"abc", b"Connection: upgrade", b"Upgrade: h2c"),
        padded(300),
        padded(301),
        b"\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n",
        b"\x00\xff",
        b"GET / HTTP/1.1\r\nHo",
    ]
)
unread = st.just(
    post(b"/unread", b"0123456789")
)  # how much of it has come decides whether its connection ends


async def talk(served, pieces):
    """All that comes back when these pieces are sent, each after the server has had the one before, then nothing."""
    served.app.go.set()
    before = len(served.sink.rejected)
    async with await served.connect() as client:
        try:
            for piece in pieces:
                await client.send(piece)
                for _ in range(3):
                    await asyncio.sleep(0)
            client.end()
        except ConnectionError:
            pass
        received = await client.rest()
    while served.connections:
        await asyncio.sleep(0)
    return received, served.sink.rejected[before:]


def outcomes(received):
    """Statuses in a stream of responses, each of which must be complete."""
    found, rest = [], received
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        bodiless = rest[:1] != b"{"
        body, rest = (b"", rest) if bodiless else (rest[:length], rest[length:])
        assert bodiless or len(body) == length
        found.append((status, b"connection: close" in head, body))
    return found


def check_errors(found, rejected):
    errors = [status for status, _, _ in found if status >= 400]
    assert errors == [status for status, _ in rejected]
    assert len([status for status in errors if status != 500]) <= 1
    assert not any(last for _, last, _ in found[:-1])


quick = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@quick
@given(parts=st.lists(fragments, min_size=1, max_size=5), cuts=st.lists(st.integers(1, 600), max_size=8))
def test_the_same_bytes_have_the_same_answers_however_they_are_split(run, parts, cuts):
    data = b"".join(parts)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]

    async def scenario():
        async with serving(max_header_bytes=300) as served:
            return await talk(served, [data]), await talk(served, pieces)

    (whole, rejected), (split, rejected_split) = run(scenario())
    check_errors(outcomes(whole), rejected)
    assert outcomes(split) == outcomes(whole)
    assert rejected_split == rejected


def test_a_cut_at_any_one_place_makes_no_difference(run):
    data = post(b"/1", b"abc") + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + GET

    async def scenario():
        async with serving() as served:
            whole = await talk(served, [data])
            for cut in range(1, len(data)):
                split = await talk(served, [data[:cut], data[cut:]])
                assert (cut, outcomes(split[0])) == (cut, outcomes(whole[0]))
            return len(outcomes(whole[0]))

    assert run(scenario()) == 3


@quick
@given(data=st.lists(st.one_of(fragments, unread, st.binary(max_size=200)), max_size=6))
def test_no_bytes_break_the_connection_or_go_uncounted(run, data):
    async def scenario():
        async with serving(max_header_bytes=300) as served:
            answer = await talk(served, data)
            async with await served.connect() as client:
                return answer, (await client.ask(GET)).status

    (received, rejected), status = run(scenario())
    check_errors(outcomes(received), rejected)
    assert status == 200
