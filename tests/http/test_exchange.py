"""What an application is given, and what becomes of what it answers."""

from __future__ import annotations

import asyncio

import pytest

from mlserver.errors import BodyTooLarge

from .raw import GET, WAIT, Recorder, both_loops, post, serving

run = both_loops()

CUSTOM = b"GET /custom HTTP/1.1\r\nHost: a\r\n\r\n"


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body=b"", *, more=False):
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.fixture
def sent(run):
    """All that a client gets of a response that is sent as these messages, and what was rejected."""

    def answer(*messages, request=CUSTOM, then=None):
        async def custom(send):
            for message in messages:
                await send(message)
            if then is not None:
                raise then

        async def scenario():
            async with serving() as served, await served.connect() as client:
                served.app.custom = custom
                await client.send(request)
                client.end()
                try:
                    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
                except ConnectionError:
                    head, body = client._read.partition(b"\r\n\r\n")[::2]
                return head.split(b"\r\n"), body, served.sink.rejected

        return run(scenario())

    return answer


def test_a_response_in_parts_has_the_length_that_it_says(sent):
    head, body, _ = sent(start((b"content-length", b"7")), part(b"one ", more=True), part(b"two"))
    assert (head[0], head[2:], body) == (b"HTTP/1.1 200 OK", [b"content-length: 7"], b"one two")


def test_a_response_of_one_part_needs_to_say_no_length(sent):
    head, body, _ = sent(start((b"x-a", b"b")), part(b"one"))
    assert (head[2:], body) == ([b"x-a: b", b"content-length: 3"], b"one")


def test_a_response_of_unknown_length_comes_in_chunks(sent):
    messages = start(), part(b"one ", more=True), part(more=True), part(b"two", more=True), part()
    head, body, _ = sent(*messages)
    assert (head[2:], body) == ([b"transfer-encoding: chunked"], b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


def test_a_response_of_unknown_length_ends_an_http_1_0_connection(sent):
    request = CUSTOM.replace(b"1.1", b"1.0")
    head, body, _ = sent(start(), part(b"one ", more=True), part(b"two"), request=request)
    assert (head[2:], body) == ([b"connection: close"], b"one two")


def test_a_204_has_neither_body_nor_length(sent):
    head, body, _ = sent(start(status=204), part())
    assert (head[0], head[2:], body) == (b"HTTP/1.1 204 No Content", [], b"")


def test_an_application_can_end_the_connection(sent):
    head, body, _ = sent(start((b"connection", b"close")), part(b"x"), request=CUSTOM + GET)
    assert (head[2:], body) == ([b"content-length: 1", b"connection: close"], b"x")


def test_a_client_is_not_asked_whether_it_is_there_within_its_response(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:

            async def custom(send):
                await send(start((b"content-length", b"6")))
                await send(part(b"abc", more=True))
                while not served.connections[0]._probed:
                    await asyncio.sleep(0)
                await send(part(b"def"))

            served.app.custom = custom
            await client.send(CUSTOM)
            client.end()
            return (await client.reply()).body, await client.rest()

    assert run(scenario()) == (b"abcdef", b"")


def test_what_is_sent_behind_the_end_of_a_response_is_ignored(sent):
    _, body, rejected = sent(start(), part(b"x"), start(), part(b"y"))
    assert (body, rejected) == (b"x", [])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [start()],
        [part(b"x")],
        [start((b"x", b"a\r\nset-cookie: b")), part()],
        [start((b"x", b"a\nb")), part()],
        [start((b"x\r\n", b"a")), part()],
        [start((b"content-length", b"1")), part(b"ab")],
        [start((b"content-length", b"3")), part(b"ab")],
        [start(status=299), part()],
    ],
    ids=[
        "nothing",
        "no body",
        "no start",
        "a header that makes another",
        "a line feed",
        "a name with a line end",
        "a body too long",
        "a body too short",
        "an unknown status",
    ],
)
def test_a_response_that_cannot_be_sent_is_a_500(sent, messages):
    head, _, rejected = sent(*messages)
    assert (head[0], rejected) == (b"HTTP/1.1 500 Internal Server Error", [(500, "GET")])
    assert b"set-cookie: b" not in head


@pytest.mark.parametrize("more", [[], [part(b"56789x")]], ids=["nothing more", "too much more"])
def test_a_response_that_cannot_be_finished_is_broken_off(sent, more):
    _, body, rejected = sent(start((b"content-length", b"9")), part(b"1234", more=True), *more)
    assert (body, rejected) in [(b"1234", []), (b"", [])]


def test_an_application_that_raises_within_a_response_breaks_it_off(sent):
    messages = start((b"content-length", b"9")), part(b"1234", more=True)
    _, body, rejected = sent(*messages, then=ValueError("for a test"))
    assert (body, rejected) in [(b"1234", []), (b"", [])]


def test_a_response_to_a_client_that_has_gone_is_ignored(run, caplog):
    async def scenario():
        async with serving() as served:
            done = asyncio.Event()

            async def custom(send):
                while served.connections:
                    await asyncio.sleep(0)
                await send(start())
                await send(part(b"x"))
                done.set()

            served.app.custom = custom
            client = await served.connect()
            await client.send(CUSTOM)
            await served.app.begun.wait()
            client.reset()
            await done.wait()

    run(scenario())
    assert caplog.messages == []


def test_a_part_behind_the_end_does_not_end_the_next_response(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:

            async def custom(send):
                for message in (start(), part(b"{}"), part()):
                    await send(message)

            served.app.custom = custom
            await client.send(CUSTOM + WAIT + GET)
            first = await client.reply()
            (server,) = served.connections
            waiting = server._exchange is not None
            served.app.go.set()
            return (
                [first.status, *[(await client.reply()).status for _ in range(2)]],
                waiting,
                served.app.seen,
            )

    statuses, waiting, seen = run(scenario())
    assert (statuses, waiting) == ([200] * 3, True)
    assert [path for _, path in seen] == ["/custom", "/wait", "/"]


def test_an_application_that_raises_is_a_500(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            reply = await client.ask(post(b"/raise", b"body"))
            again = await client.ask(GET)
            return reply.status, reply.code, reply.last, again.status, served.sink.rejected

    assert run(scenario()) == (500, "internal_error", False, 200, [(500, "POST")])


def test_an_application_that_raises_behind_its_response_harms_nobody(run):
    async def custom(send):
        await send(start())
        await send(part(b"{}"))
        raise ValueError

    async def scenario():
        async with serving() as served, await served.connect() as client:
            served.app.custom = custom
            return [(await client.ask(data)).status for data in (CUSTOM, GET)], served.sink.rejected

    assert run(scenario()) == ([200, 200], [])


def test_an_application_that_raises_when_the_client_has_gone_is_not_counted(run):
    async def scenario():
        async with serving() as served:

            async def custom(send):
                while served.connections:
                    await asyncio.sleep(0)
                raise ValueError

            served.app.custom = custom
            client = await served.connect()
            await client.send(CUSTOM)
            await served.app.begun.wait()
            tasks = set(served.connections[0].tasks)
            client.reset()
            await asyncio.wait(tasks)
            return served.sink.rejected

    assert run(scenario()) == []


def test_an_error_of_a_request_keeps_its_status(run):
    async def scenario():
        async with serving(sink=Recorder(late=True)) as served, await served.connect() as client:
            served.app.raising = BodyTooLarge("too large")
            return (await client.ask(post(b"/raise", b"body"))).status, served.sink.rejected

    assert run(scenario()) == (413, [(413, "POST")])


def test_a_bad_request_behind_one_that_failed_is_answered_too(run):
    async def scenario():
        async with serving() as served, await served.connect() as client:
            await client.send(post(b"/raise", b"body") + b"GET / HTTP/1.1\r\n\r\n")
            return [(await client.reply()).status for _ in range(2)], served.sink.rejected

    assert run(scenario()) == ([500, 400], [(500, "POST"), (400, "GET")])
