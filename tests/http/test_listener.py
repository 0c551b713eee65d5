"""How listening begins, is handed over and ends."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from mlserver.app import create_app
from mlserver.server import connection, leaning
from mlserver.server.limits import Limits
from mlserver.server.listening import listen
from mlserver.server.plain import PlainListener

from .raw import GET, WAIT, Raw, both_loops, serving

run = both_loops()


def test_while_draining_each_response_is_the_last_on_its_connection(run):
    async def scenario():
        async with serving() as served, await served.connect() as client, await served.connect() as waiting:
            await client.ask(GET)
            await waiting.send(WAIT)
            await served.app.begun.wait()
            served.listener.start_draining()
            served.app.go.set()
            replies = [await client.ask(GET), await waiting.reply()]
            async with await served.connect() as late:
                replies.append(await late.ask(GET))
            return [(reply.status, reply.last) for reply in replies], await client.rest()

    assert run(scenario()) == ([(200, True)] * 3, b"")


def test_closing_ends_what_is_idle_and_answers_the_rest(run):
    async def scenario():
        async with serving() as served:
            idle, busy, half, fresh = [await served.connect() for _ in range(4)]
            await idle.ask(GET)
            await busy.send(WAIT + GET)
            await half.send(GET[:-1])
            while len(served.connections) < 4 or not served.app.begun.is_set():
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(served.listener.close(30))
            assert await idle.rest() == b""
            assert served.listener.accepting == frozenset()
            served.app.go.set()
            replies = [await busy.reply(), await half.ask(GET[-1:]), await fresh.ask(GET)]
            rests = [await client.rest() for client in (busy, half, fresh)]
            for client in (idle, busy, half, fresh):
                client.hang_up()
            return [(reply.status, reply.last) for reply in replies], rests, await closing

    assert run(scenario()) == ([(200, True)] * 3, [b""] * 3, True)


def test_closing_cuts_what_is_not_answered_in_time(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(WAIT)
            await served.app.begun.wait()
            answered = await served.listener.close(0.05)
            await served.app.gone.wait()
            return answered, await client.rest(), served.connections

    assert run(scenario()) == (False, b"", [])


@pytest.mark.parametrize("turns", range(10))
def test_a_client_that_connects_while_the_listener_closes_neither_holds_it_up_nor_is_left(
    run, monkeypatch, turns
):
    monkeypatch.setattr(connection, "FIRST_REQUEST_S", 0.05)

    async def scenario():
        async with serving(header_timeout_s=600.0) as served:
            closing = asyncio.ensure_future(served.listener.close(600))
            for _ in range(turns):
                await asyncio.sleep(0)
            with socket.create_connection(served.address):
                answered = await closing
                for _ in range(10):
                    await asyncio.sleep(0)
                return answered, served.connections

    assert run(scenario()) == (True, [])


def test_closing_can_have_an_error_answered_before_it_cuts(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(WAIT)
            await served.app.begun.wait()
            answered = await served.listener.close(0.05, cut_off=served.app.go.set)
            reply = await client.reply()
            return answered, reply.status, reply.last, await client.rest()

    assert run(scenario()) == (False, 200, True, b"")


def test_closing_does_not_wait_long_for_clients_that_say_nothing(run, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_REQUEST_S", 0.05)

    async def scenario():
        async with serving() as served, await served.connect() as client:
            while not served.connections:
                await asyncio.sleep(0)
            return await served.listener.close(30), await client.rest()

    assert run(scenario()) == (True, b"")


def test_connections_go_to_whoever_accepts_on_a_shared_socket(run):
    async def scenario():
        async with serving() as first, serving() as second:
            listening = socket.create_server(("127.0.0.1", 0), backlog=512)
            address = listening.getsockname()
            await first.listener.accept(listening, 7)
            assert first.listener.accepting == {"only", 7}
            kept = await first.connect()
            await kept.ask(GET)
            first.listener.refuse(7)
            first.listener.refuse("only")
            assert first.listener.accepting == frozenset()
            await second.listener.accept(listening, "shared")
            await asyncio.sleep(0.01)  # lets the first one's loop turn; that it is enough is part of the test
            second.address = address
            clients = [await second.connect() for _ in range(200)]
            statuses = {(await client.ask(GET)).status for client in clients}
            counts = len(first.app.seen), len(second.app.seen)
            assert (await kept.ask(GET)).status == 200
            assert listening.fileno() >= 0
            await first.listener.accept(listening, 7)
            second.listener.refuse("shared")
            for client in (kept, *clients):
                client.hang_up()
            await asyncio.sleep(0.01)
            first.address = address
            async with await first.connect() as back:
                statuses.add((await back.ask(GET)).status)
            listening.close()
            return statuses, counts, len(first.app.seen)

    assert run(scenario()) == ({200}, (1, 200), 3)


async def status(client):
    """Of the one response that this client waits for."""
    async with client:
        return (await client.reply()).status


def five_requests(address):
    """Clients that have connected and sent before the loop turns again."""
    clients = []
    for _ in range(5):
        sock = socket.create_connection(address)
        sock.sendall(GET)
        sock.setblocking(False)
        clients.append(Raw(sock))
    return clients


@pytest.mark.parametrize("turns", range(6))
def test_no_request_is_lost_when_a_socket_changes_hands(run, turns):
    async def scenario():
        async with serving() as first, serving() as second:
            for _ in range(20):
                listening = socket.create_server(("127.0.0.1", 0))
                await first.listener.accept(listening, "shared")
                clients = five_requests(listening.getsockname())
                for _ in range(turns):
                    await asyncio.sleep(0)
                first.listener.refuse("shared")
                await second.listener.accept(listening, "shared")
                assert await asyncio.gather(*map(status, clients)) == [200] * 5
                second.listener.refuse("shared")
                listening.close()

    run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_closing_serves_what_has_come_until_then(run, turns):
    async def scenario():
        for _ in range(10):
            async with serving() as served:
                clients = five_requests(served.address)
                for _ in range(turns):
                    await asyncio.sleep(0)
                statuses = asyncio.gather(*map(status, clients))
                assert await served.listener.close(30)
                assert await statuses == [200] * 5

    run(scenario())


def test_the_date_goes_on(run, monkeypatch):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            monkeypatch.setattr("email.utils.formatdate", lambda usegmt: "Mon, 01 Jan 2024 00:00:00 GMT")
            served.listener._tick()
            return (await client.ask(GET)).headers["date"]

    assert run(scenario()) == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_the_installed_uvicorn_is_one_that_we_can_work_with():
    assert leaning.supported() is None


@pytest.mark.parametrize(
    ("place", "names", "said"),
    [
        (leaning._FLOW, "pause_reading stroll", "method FlowControl.stroll"),
        ("uvicorn.protocols.nothing.There", "here", "uvicorn.protocols.nothing.There"),
        ("uvicorn.Nothing", "here", "uvicorn.Nothing"),
    ],
)
def test_with_a_uvicorn_that_has_changed_requests_take_the_way_of_asgi(
    run, configured, monkeypatch, caplog, place, names, said
):
    monkeypatch.setitem(leaning.METHODS, place, names)
    config = configured()

    async def scenario():
        app = create_app(config)
        await app.start()
        listener = listen(app, limits=Limits.of(config.server), sink=app, entry=app.entry)
        assert isinstance(listener, PlainListener)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await listener.accept(listening, "only")
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/predict"
            async with httpx.AsyncClient(trust_env=False) as client:
                answers = [await client.post(url, json={"ndarray": [[1, 2, 3]]}) for _ in range(2)]
                listener.start_draining()
                answers.append(await client.post(url, json={"ndarray": [[1, 2]]}))
            listener.refuse("only")
            assert not listener.accepting
            assert await listener.close(5.0)
        await app.close()
        return answers

    answers = run(scenario())
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
    assert f"{said} not found" in caplog.text
    assert "slower way through ASGI" in caplog.text


def test_the_way_of_asgi_cuts_off_what_takes_too_long(run, configured, monkeypatch):
    monkeypatch.setitem(leaning.METHODS, "uvicorn.Nothing", "here")
    source = (
        "import time\nclass Slow:\n    def predict(self, X):\n        time.sleep(X[0, 0])\n        return X\n"
    )
    config = configured(source, "Slow")

    async def scenario():
        app = create_app(config)
        await app.start()
        listener = listen(app, limits=Limits.of(config.server), sink=app, entry=app.entry)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await listener.accept(listening, "only")
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/predict"
            async with httpx.AsyncClient(trust_env=False) as client:
                asked = asyncio.create_task(client.post(url, json={"ndarray": [[2.0]]}))
                while not app._pipeline._running:
                    await asyncio.sleep(0)
                answered = await listener.close(0.0, cut_off=app.cut_off)
                status = (await asked).status_code
        await app.close()
        return answered, status

    assert run(scenario()) == (False, 503)
