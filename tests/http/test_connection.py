"""Connections that are slow, many or hasty."""

from __future__ import annotations

import asyncio
import json

import pytest

from mlserver.server import connection

from .raw import CHUNKED, GET, WAIT, both_loops, padded, post, serving

run = both_loops()

# Times.


def test_headers_that_do_not_come_are_a_408(run):
    async def scenario():
        async with serving(header_timeout_s=0.25) as served, await served.connect() as client:
            await client.ask(GET)
            reply = await client.ask(b"POST /predict HTTP/1.1\r\nHo")
            return reply.status, reply.code, reply.last, await client.rest(), served.sink.rejected

    assert run(scenario()) == (408, "request_timeout", True, b"", [(408, "POST")])


def test_headers_that_come_byte_by_byte_do_not_get_more_time(run):
    async def scenario():
        async with serving(header_timeout_s=0.25, max_header_bytes=2**30) as served:
            client = await served.connect()
            reply = asyncio.ensure_future(client.reply())
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            while not reply.done():
                await client.send(b"x")
                await asyncio.sleep(0)
            client.hang_up()
            return (await reply).status

    assert run(scenario()) == 408


def test_a_connection_on_which_nothing_is_said_ends_without_a_word(run):
    async def scenario():
        async with serving(header_timeout_s=0.05) as served, await served.connect() as client:
            return await client.rest(), served.sink.rejected, served.app.seen

    assert run(scenario()) == (b"", [], [])


def test_an_idle_connection_ends_without_a_word(run):
    async def scenario():
        async with serving(keep_alive_s=0.05) as served, await served.connect() as client:
            await client.ask(GET)
            await client.send(b"\r\n")
            return await client.rest(), served.sink.rejected

    assert run(scenario()) == (b"", [])


def test_a_request_may_take_longer_than_a_connection_may_be_idle(run):
    async def scenario():
        async with serving(header_timeout_s=0.25, keep_alive_s=0.25) as served:
            first, second, silent = [await served.connect() for _ in range(3)]
            await first.ask(GET)
            for client in (first, second):
                await client.send(WAIT)
            await silent.rest()  # the times are over when it is closed
            served.app.go.set()
            statuses = [(await client.reply()).status for client in (first, second)]
            for client in (first, second, silent):
                client.hang_up()
            return statuses

    assert run(scenario()) == [200, 200]


# Responses before the end of a body.


def test_a_response_before_the_end_of_the_body_is_the_last_one(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(post(b"/unread", b"x" * 100)[:-1])
            return reply.status, reply.last, await client.rest(), len(served.sink.rejected)

    assert run(scenario()) == (200, True, b"", 0)


def test_a_client_still_sending_can_read_the_response(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            body = b"x" * 5_000_000
            await client.send(post(b"/unread", body))  # all of it, before the response is read
            reply = await client.reply()
            client.end()
            return reply.status, reply.last, await client.rest()

    assert run(scenario()) == (200, True, b"")


def test_a_client_that_never_stops_sending_is_cut(run):
    async def scenario(**limits):
        async with serving(**limits) as served, await served.connect() as client:
            await client.ask(post(b"/unread", b"x" * 10)[:-1])
            with pytest.raises(ConnectionError):
                await client.send_for_ever()
            return served.connections

    assert run(scenario(linger_bytes=200_000, linger_s=60.0)) == []
    assert run(scenario(linger_s=0.05, linger_bytes=2**60)) == []


def test_a_bad_chunk_behind_good_ones_is_the_applications_to_answer(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(CHUNKED + b"3\r\nabc\r\n")
            await served.app.begun.wait()
            reply = await client.ask(b"zz\r\n" + GET)
            return reply.status, reply.last, await client.rest(), served.sink.rejected, served.app.seen

    assert run(scenario()) == (400, True, b"", [(400, "POST")], [])


# Many connections.


def test_a_connection_beyond_the_limit_is_a_503_at_once(run):
    async def scenario():
        async with serving(max_connections=2) as served:
            first, second = await served.connect(), await served.connect()
            assert [(await each.ask(GET)).status for each in (first, second)] == [200, 200]
            async with await served.connect() as third:
                reply = await third.reply()  # nothing was sent
                third.end()
                rest = await third.rest()
            first.hang_up()
            while len(served.connections) > 1:
                await asyncio.sleep(0)
            async with await served.connect() as fourth, second:
                status = (await fourth.ask(GET)).status
            return reply, rest, status, served.sink.rejected

    reply, rest, status, rejected = run(scenario())
    assert (reply.status, reply.code, reply.last, reply.headers["retry-after"]) == (
        503,
        "overloaded",
        True,
        "1",
    )
    assert (rest, status, rejected) == (b"", 200, [(503, "")])


def test_a_refused_client_that_is_sending_can_read_the_503(run):
    async def scenario():
        async with serving(max_connections=1) as served, await served.connect() as first:
            await first.ask(GET)
            second = await served.connect()
            await second.send(post(b"/", b"x" * 100_000))
            status = (await second.reply()).status
            second.hang_up()
            return status

    assert run(scenario()) == 503


def test_a_flood_of_refused_clients_does_not_pile_up(run, monkeypatch):
    monkeypatch.setattr(connection, "REFUSED_AT_ONCE", 3)

    async def scenario():
        async with serving(max_connections=1, linger_s=60.0) as served:
            first = await served.connect()
            await first.ask(GET)
            refused = [await served.connect() for _ in range(20)]
            statuses = {(await client.reply()).status for client in refused}
            await asyncio.gather(*(client.rest() for client in refused))
            open_ones = len(served.connections)
            for client in (first, *refused):
                client.hang_up()
            return statuses, open_ones, len(served.sink.rejected)

    assert run(scenario()) == ({503}, 1 + 3, 20)


# Pipelines.


def test_pipelined_requests_are_answered_in_order(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            requests = [post(b"/%d" % number, b"x" * number) for number in range(50)]
            await client.send(b"".join(requests))
            return [json.loads((await client.reply()).body)["path"] for _ in requests]

    assert run(scenario()) == [f"/{number}" for number in range(50)]


def test_a_bad_request_does_not_overtake_the_good_ones_before_it(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(WAIT + GET + b"GET / HTTP/9\r\n\r\n" + GET)
            await served.app.begun.wait()
            before = list(served.sink.rejected)
            served.app.go.set()
            replies = [(await client.reply()).status for _ in range(3)]
            return before, replies, await client.rest(), served.sink.rejected

    assert run(scenario()) == ([], [200, 200, 400], b"", [(400, "GET")])


@pytest.mark.parametrize("path", [b"/", b"/unread"])
def test_a_flood_of_pipelined_requests_waits_outside(run, path):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(WAIT)
            await served.app.begun.wait()
            flood = padded(8_000, path) * 4_000
            sending = asyncio.ensure_future(client.send(flood))
            (server,) = served.connections
            while not server.flow.read_paused:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            held, sent = len(server._input), sending.done()
            served.app.go.set()
            for _ in range(400):
                assert (await client.reply()).status == 200
            sending.cancel()
            return held, sent, len(served.app.seen)

    held, sent, seen = run(scenario())
    assert held < 65536 + 2 * 262144
    assert not sent
    assert seen >= 400
