"""Clients that stop sending, or reading, or being there."""

from __future__ import annotations

import asyncio
import json

import pytest

from .raw import CHUNKED, GET, WAIT, Raw, both_loops, post, serving

run = both_loops()


def test_a_client_that_only_stops_sending_is_answered(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(GET + post(b"/2", b"body"))
            client.end()
            return [(await client.reply()).status for _ in range(2)], await client.rest()

    assert run(scenario()) == ([200, 200], b"")


def test_a_client_that_only_stops_sending_is_waited_for(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(WAIT)
            client.end()
            interim = await client.reply()  # asks the client whether it is there
            served.app.go.set()
            return interim.status, (await client.reply()).status, await client.rest()

    assert run(scenario()) == (100, 200, b"")


def test_an_http_1_0_client_that_stops_sending_gets_no_interim_response(run):
    async def scenario():
        async with serving(linger_s=600.0) as served, await served.connect() as client:
            await client.send(WAIT.replace(b"1.1", b"1.0"))
            client.end()
            await served.app.begun.wait()
            (server,) = served.connections
            while not server._probed:
                await asyncio.sleep(0)
            served.app.go.set()
            reply = await client.reply()
            while served.connections:  # it has said already that it will send no more
                await asyncio.sleep(0)
            return reply.status, await client.rest()

    assert run(scenario()) == (200, b"")


@pytest.mark.parametrize("way", ["hang_up", "reset"])
def test_a_client_that_is_gone_is_noticed_while_it_is_answered(run, way):
    async def scenario():
        async with serving() as served:
            client = await served.connect()
            await client.send(WAIT)
            await served.app.begun.wait()
            getattr(client, way)()
            await served.app.gone.wait()
            return served.connections, served.app.seen

    assert run(scenario()) == ([], [])


@pytest.mark.parametrize("way", ["end", "hang_up", "reset"])
def test_a_body_that_breaks_off_is_the_end(run, way):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(post(b"/", b"x" * 100)[:-1])
            await served.app.begun.wait()
            getattr(client, way)()
            await served.app.gone.wait()
            return served.app.seen, served.sink.rejected

    assert run(scenario()) == ([], [])


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET, GET + b"GET / HT"])
@pytest.mark.parametrize("way", ["end", "hang_up"])
def test_a_connection_ends_when_the_client_ends_it_between_requests(run, sent, way):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(sent)
            if sent.startswith(GET):
                await client.reply()
            getattr(client, way)()
            while served.connections:
                await asyncio.sleep(0)
            return served.sink.rejected, len(served.app.seen)

    assert run(scenario()) == ([], sent.count(GET))


@pytest.mark.parametrize("requests", [1, 1000])
def test_a_client_that_does_not_read_its_responses_is_cut(run, requests):
    async def scenario():
        async with serving(write_timeout_s=0.2) as served, await served.connect() as client:
            await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * requests)
            while not served.connections:
                await asyncio.sleep(0)
            most = 0
            while served.connections:
                most = max(most, *(each.transport.get_write_buffer_size() for each in served.connections))
                await asyncio.sleep(0)
            return most, len(served.app.seen)

    most, seen = run(scenario())
    assert 0 < most < 2 * 16_000_000
    assert seen < 10


def test_a_client_that_does_not_read_the_last_response_is_cut(run):
    async def scenario():
        async with serving(write_timeout_s=0.2) as served, await served.connect() as client:
            await client.send(b"GET /big HTTP/1.0\r\n\r\n")
            while not served.app.seen:
                await asyncio.sleep(0)
            while served.connections:
                await asyncio.sleep(0)

    run(scenario())


def test_a_client_that_does_not_read_the_very_end_is_cut(run):
    sizes = [400_000]

    async def custom(send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x" * sizes[-1]})

    async def unsent(served):
        """Bytes that the kernel does not take in for a client that reads nothing."""
        async with await Raw.connect(served.address, receive_buffer=16384) as client:
            size = 0
            await client.send(b"GET /custom HTTP/1.0\r\n\r\n")
            await served.app.begun.wait()
            while served.connections:
                size = served.connections[0].transport.get_write_buffer_size() or size
                await asyncio.sleep(0)
            return size

    async def scenario():
        async with serving(write_timeout_s=0.2, linger_s=60.0, send_buffer=8192) as served:
            served.app.custom = custom
            sizes.append(sizes[0] - await unsent(served) + 8000)
            served.app.begun.clear()
            return await unsent(served)

    assert 0 < run(scenario()) < 16384  # no reason to pause, or to call it resumed


def test_a_response_in_parts_waits_for_its_reader(run):
    sent = []

    async def custom(send):
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent.append(65536)
            await asyncio.sleep(0)

    async def scenario():
        async with serving(write_timeout_s=0.1) as served, await served.connect() as client:
            served.app.custom = custom
            await client.send(b"GET /custom HTTP/1.1\r\nHost: a\r\n\r\n")
            await served.app.begun.wait()
            (server,) = served.connections
            while not server.flow.write_paused:
                await asyncio.sleep(0)
            before = len(sent)
            for _ in range(100):
                await asyncio.sleep(0)
            after = len(sent)
            (task,) = server.tasks
            task.cancel()
            return after - before

    assert run(scenario()) <= 1


def test_a_body_waits_outside_until_it_is_read(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            body = b"x" * 30_000_000
            sending = asyncio.ensure_future(client.send(post(b"/deaf", body)))
            await served.app.begun.wait()
            (server,) = served.connections
            while not server.flow.read_paused:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            held, sent = server._exchange._size, sending.done()
            served.app.go.set()
            reply = await client.reply()
            return held, sent, len(json.loads(reply.body)["body"])

    held, sent, size = run(scenario())
    assert (held < 65536 + 262144, sent, size) == (True, False, 30_000_000)


def test_what_comes_behind_a_bad_chunk_is_not_kept(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(CHUNKED.replace(b"/echo", b"/deaf") + b"zz\r\n")
            await served.app.begun.wait()
            await client.send(b"x" * 5_000_000)
            (server,) = served.connections
            held = len(server._input)
            served.app.go.set()
            return held, (await client.reply()).status

    assert run(scenario()) == (0, 400)


def test_a_slow_reader_gets_all_of_its_response(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
            reply = await client.reply()
            return reply.body == served.app.BIG, await client.rest()

    assert run(scenario()) == (True, b"")
