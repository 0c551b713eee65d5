"""The fast way in: what it shares with the way through the application, byte for byte, and what is its own."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .raw import GET, both_loops
from .ways import ID, WAYS, chunked, predict, rows, scrubbed, serving, statuses, talk, turns

run = both_loops()

CLOSE = b"Connection: close"
EXPECT = b"Expect: 100-continue"
ONE, TWO = predict(rows(1)), predict(rows(2))
SMALL = {"server": {"max_body_bytes": 100}}
TIGHT = {"server": {"max_buffered_bytes": 100}}
LONG = rows(*range(20))


def without(request, header):
    """A request that lacks a header."""
    head, end, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(header)]
    return b"\r\n".join(lines) + end + body


def bytewise(data):
    return [data[at : at + 1] for at in range(len(data))]


def in_two(request):
    """Its head, and its body."""
    at = request.index(b"\r\n\r\n") + 4
    return [request[:at], request[at:]]


TALKS = {
    "one row": ({}, [ONE], [200]),
    "many rows": ({}, [predict(LONG)], [200]),
    "records": ({}, [predict(b'{"records": [{"a": 1, "b": 2, "c": 3}]}')], [200]),
    "a query": ({}, [predict(rows(1), path=b"/predict?a=%20b")], [200]),
    "an encoded path": ({}, [predict(rows(1), path=b"/%70redict")], [200]),
    "empty lines before it": ({}, [b"\r\n\r\n" + ONE, b"\r\n" + ONE, ONE], [200] * 3),
    "no id": ({}, [without(ONE, b"X-R")], [200]),
    "an id that is none": ({}, [ONE.replace(b"an-id", b"an id")], [200]),
    "no ids": ({"observability": {"correlation_ids": False}}, [ONE, predict(b"{")], [200, 400]),
    "no media type": ({}, [without(ONE, b"Content-T")], [200]),
    "two media types": ({}, [predict(rows(1), b"Content-Type: text/csv")], [415]),
    "a traced caller": (
        {},
        [predict(rows(1), b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")],
        [200],
    ),
    "an upgrade": ({}, [predict(rows(1), b"Connection: upgrade", b"Upgrade: h2c"), ONE], [200, 200]),
    "no operation": ({}, [predict(rows(1), path=b"/predict_proba"), ONE], [404, 200]),
    "a longer path": ({}, [predict(rows(1), path=b"/predict/"), ONE], [404, 200]),
    "a path of two slashes": ({}, [predict(rows(1), path=b"//predict"), ONE], [404, 200]),
    "GET": ({}, [GET.replace(b"/", b"/predict", 1), ONE], [405, 200]),
    "PUT": ({}, [ONE.replace(b"POST", b"PUT"), ONE], [405, 200]),
    "HEAD": ({}, [GET.replace(b"GET /", b"HEAD /predict"), ONE], [405, 200]),
    "too large": (SMALL, [predict(LONG), ONE], [413, 200]),
    "too large, again and again": (SMALL, [predict(LONG)] * 3 + [ONE], [413] * 3 + [200]),
    "too large, and not sent": (SMALL, in_two(predict(LONG)), [413]),
    "too large in chunks": (SMALL, [chunked(LONG[:90], LONG[90:]), ONE], [413, 200]),
    "too large while it comes": (
        SMALL,
        [chunked(b" " * 90, b" " * 90)[: -len(b" " * 90 + b"\r\n0\r\n\r\n")], b" " * 50, b" " * 40],
        [413],
    ),
    "another media type": ({}, [ONE.replace(b"application/json", b"text/csv"), ONE], [415, 200]),
    "too few values": ({}, [predict(b'{"ndarray": [[1, 2]]}'), ONE], [422, 200]),
    "no JSON": ({}, [predict(b"["), predict(b"]"), ONE], [400, 400, 200]),
    "an empty body": ({}, [predict(b""), predict(b""), ONE], [400, 400, 200]),
    "no body": ({}, [without(predict(b""), b"Content-L"), ONE], [400, 200]),
    "the predictor raises": ({}, [predict(rows(-1)), ONE], [500, 200]),
    "not loaded": ({"start": False}, [ONE, ONE, predict(b"[")], [503] * 3),
    "no room": (TIGHT, [predict(LONG), predict(LONG), ONE], [503, 503, 200]),
    "no room while it comes": (TIGHT, [predict(LONG)[:200], predict(LONG)[200:300]], [503]),
    "byte by byte": ({}, bytewise(ONE + TWO), [200, 200]),
    "a head, then a body": ({}, in_two(ONE) * 3, [200] * 3),
    "one request too early": ({}, [ONE + ONE[:50], ONE[50:]], [200, 200]),
    "chunks": ({}, [chunked(*bytewise(rows(1))), ONE], [200, 200]),
    "chunks, one by one": ({}, bytewise(chunked(rows(1)[:5], rows(1)[5:])), [200]),
    "chunks and trailers": (
        {},
        [chunked(rows(1), trailers=b"Host: b\r\nX-Request-ID: x\r\n"), ONE],
        [200, 200],
    ),
    "no chunks": ({}, [chunked(rows(1)).replace(b"\r\n0\r\n", b"\r\nzz\r\n"), ONE], [400]),
    "endless trailers": ({}, [chunked(rows(1), trailers=b"a: b\r\n" * 2000), ONE], [431]),
    "HTTP/1.0": ({}, [predict(rows(1), version=b"1.0") + ONE], [200]),
    "HTTP/1.0 that would stay": (
        {},
        [predict(rows(1), b"Connection: keep-alive", version=b"1.0") + ONE],
        [200],
    ),
    "the last one": ({}, [predict(rows(1), CLOSE) + ONE], [200]),
    "the last one, and wrong": ({}, [predict(b"[", CLOSE) + ONE], [400]),
    "told to go on": ({}, [*in_two(predict(rows(1), EXPECT)), ONE], [100, 200, 200]),
    "went on by itself": ({}, [predict(rows(1), EXPECT)] * 2, [200, 200]),
    "began by itself": ({}, [predict(rows(1), EXPECT)[:-5], predict(rows(1), EXPECT)[-5:]], [200]),
    "not told to go on": (SMALL, [in_two(predict(LONG, EXPECT))[0]], [413]),
    "HTTP/1.0 is not told": ({}, in_two(predict(rows(1), EXPECT, version=b"1.0")), [200]),
    "another expectation": ({}, [predict(rows(1), b"Expect: a miracle")], [200]),
    "nothing to go on with": ({}, [predict(b"", EXPECT), ONE], [400, 200]),
    "half closed within a head": ({}, [ONE, ONE[:50]], [200]),
    "half closed before a body": ({}, [ONE, in_two(ONE)[0]], [200]),
    "half closed within a body": ({}, [ONE, ONE[:-1]], [200]),
    "half closed within chunks": ({}, [chunked(rows(1))[:-2]], []),
    "many at once": ({}, [b"".join(predict(rows(number)) for number in range(50))], [200] * 50),
    "the same at once": ({}, [ONE * 3, ONE, ONE * 2, TWO, ONE], [200] * 8),
    "of all kinds at once": (
        {},
        [ONE + predict(b"[") + GET + chunked(rows(1)) + predict(rows(-1)) + TWO + b"nonsense\r\n\r\n" + ONE],
        [200, 400, 404, 200, 500, 200, 400],
    ),
}


@pytest.mark.parametrize(("sections", "pieces", "expected"), TALKS.values(), ids=TALKS)
def test_the_responses_and_signals_of_both_ways_are_the_same(run, configured, sections, pieces, expected):
    async def scenario(name):
        async with serving(configured, name, **sections) as way:
            received = await talk(way, pieces)
            return received, way.seen, way.lines(), way.counters()

    normal, fast = (run(scenario(name)) for name in WAYS)
    assert statuses(fast[0]) == expected
    assert fast[0] == normal[0]
    assert fast[1] == normal[1]
    assert fast[2] == normal[2]
    assert fast[3] == normal[3]
    assert len(fast[2]) == len(fast[1]) >= len(expected) - expected.count(100)


def test_a_prediction_is_all_that_does_not_go_through_the_application(run, configured):
    others = [GET, predict(rows(1), path=b"/predict/"), ONE.replace(b"POST", b"PUT")]

    async def scenario():
        async with serving(configured, "fast") as way:
            received = await talk(
                way, [ONE, ONE, chunked(rows(1)), *others, predict(rows(1), path=b"/predict?a")]
            )
            return statuses(received), way.asked

    answered, asked = run(scenario())
    assert answered == [200, 200, 200, 404, 404, 405, 200]
    assert asked == [("GET", "/"), ("POST", "/predict/"), ("PUT", "/predict")]


def test_a_head_that_was_seen_before_is_not_parsed_again(run, configured):
    async def scenario():
        async with serving(configured, "fast") as way, await way.connect() as client:
            parsed = []
            for request in (ONE, TWO, ONE, chunked(rows(1)), ONE, ONE):
                await client.ask(request)
                (connection,) = way.connections
                parsed.append(connection.parser)
            return [before is after for before, after in itertools.pairwise(parsed)]

    assert run(scenario()) == [True, True, False, False, True]


# Heads that are remembered.

BIG = predict(rows(*range(1000)))


def answers(received):
    """The sums in a stream of responses; the status of one that has none."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:])[b"content-length"])
        body, received = json.loads(received[:length]), received[length:]
        found.append(body.get("predictions", body.get("status")))
    return found


async def exchanged(way, pieces):
    """The answers to what is sent in pieces, each as soon as the one before was read."""
    async with await way.connect() as client:
        for piece in pieces:
            await client.send(piece)
            await turns(3)
        client.end()
        return answers(await client.rest())


SHORTER = predict(b'{"ndarray":[[4,5,6]]}')
REQUESTS = {
    ONE: [4.0],
    TWO: [5.0],
    SHORTER: [15.0],
    SHORTER.replace(b"4,5,6", b"7,8,9"): [24.0],
    SHORTER.replace(b"4,5,6", b"[[[[["): 400,
    predict(rows(1, 2)): [4.0, 5.0],
    predict(b""): 400,
    predict(rows(1), path=b"/%70redict"): [4.0],
    predict(rows(1), path=b"/predict_proba"): 404,
    predict(rows(1), EXPECT): [4.0],
    chunked(rows(1)): [4.0],
    chunked(rows(2)): [5.0],
    GET: 404,
    predict(rows(*range(200))): [number + 3.0 for number in range(200)],
    predict(rows(1), b"X: " + b"x" * 1024): [4.0],
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    requests=st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 3000), max_size=8),
    at_bounds=st.booleans(),
    short=st.booleans(),
)
def test_a_stream_of_requests_has_the_same_answers_however_it_is_split(
    run, configured, requests, cuts, at_bounds, short
):
    data = b"".join(requests)
    edges = {0, len(data), *(cut for cut in cuts if cut < len(data))}
    if at_bounds:
        edges |= {sum(map(len, requests[:count])) for count in range(len(requests))}
    edges = sorted(edges)
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]

    async def scenario():
        async with serving(configured, "fast", short=short) as way:
            received = [await exchanged(way, each) for each in ([data], pieces)]
            return received, len(way.pipeline._open)

    (whole, split), still_open = run(scenario())
    assert whole == split == [REQUESTS[request] for request in requests]
    assert still_open == 0


def test_a_refused_length_is_refused_again_though_its_head_was_seen(run, configured):
    async def scenario():
        async with serving(configured, "fast", **SMALL) as way, await way.connect() as client:
            replies = [await client.ask(predict(LONG)) for _ in range(3)]
            return [reply.status for reply in replies], (await client.ask(ONE)).status, way.module.runs

    assert run(scenario()) == ([413] * 3, 200, [[1.0]])


def test_a_refusal_reaches_a_client_that_has_ended_already(run, configured):
    async def scenario():
        async with serving(configured, "fast", **SMALL) as way, await way.connect() as client:
            await until(lambda: way.connections)
            (connection,) = way.connections
            connection.data_received(in_two(predict(LONG))[0])  # both in the same turn of the loop
            connection.eof_received()
            return statuses(await client.rest())

    assert run(scenario()) == [413]


def test_a_request_of_the_same_size_is_not_taken_for_the_last_one(run, configured):
    longer, shorter = predict(b"[1]   ", b"X: 1"), predict(b"[1]", b"X: 1234")

    async def scenario():
        async with serving(configured, "fast") as way:
            await exchanged(way, [longer, shorter, longer])
            return [(call["headers"][b"x"], call["headers"][b"content-length"]) for call in way.seen]

    assert len(longer) == len(shorter)
    assert run(scenario()) == [(b"1", b"6"), (b"1234", b"3"), (b"1", b"6")]


def test_a_head_that_was_seen_before_waits_for_the_answer_before_it(run, configured):
    async def scenario():
        async with serving(configured, "fast") as way, await way.connect() as client:
            await client.ask(predict(rows(-8)))
            for first in (-9, -7, -6):
                await client.send(predict(rows(first)))
                await turns()
            begun = len(way.pipeline._open)
            way.module.gate.set()
            replies = [json.loads((await client.reply()).body)["predictions"] for _ in range(3)]
            return begun, replies, len(way.pipeline._open)

    assert run(scenario()) == (1, [[-6.0], [-4.0], [-3.0]], 0)


def test_a_head_that_was_seen_before_waits_until_the_client_reads(run, configured):
    async def scenario():
        async with (
            serving(configured, "fast", short=True, send_buffer=4096) as way,
            await way.connect(receive_buffer=4096) as client,
        ):
            sent = 0
            while not (way.connections and way.connections[0].flow.write_paused):
                await client.send(BIG)
                await turns()
                sent += 1
            begun = len(way.seen)
            for _ in range(10):
                await client.send(BIG)
                await turns()
            grown = len(way.seen) - begun
            return grown, {(await client.reply()).status for _ in range(sent + 10)}

    assert run(scenario()) == (0, {200})


# Waiting, and ends.


@pytest.mark.parametrize("name", WAYS)
def test_a_full_queue_is_a_429_and_the_connection_goes_on(run, configured, name):
    async def scenario():
        async with serving(configured, name, api={"max_queue": 1}) as way:
            running, queued, refused = [await way.connect() for _ in range(3)]
            await running.send(predict(rows(-9)))
            await until(lambda: way.module.runs)
            await queued.send(ONE)
            await until(lambda: len(way.pipeline._open) == 2)
            await refused.send(TWO)
            first = await refused.reply()
            way.module.gate.set()
            replies = [first, await running.reply(), await queued.reply(), await refused.ask(TWO)]
            for client in (running, queued, refused):
                client.hang_up()
            return [(reply.status, reply.last) for reply in replies], first.headers["retry-after"]

    assert run(scenario()) == ([(429, False), (200, False), (200, False), (200, False)], "1")


@pytest.mark.parametrize("name", WAYS)
def test_a_late_answer_is_a_504_and_the_connection_goes_on(run, configured, name):
    async def scenario():
        async with (
            serving(configured, name, server={"request_timeout_s": 0.2}) as way,
            await way.connect() as client,
        ):
            late = await client.ask(predict(rows(-9)))
            way.module.gate.set()
            reply = await client.ask(ONE)
            return late.status, late.last, late.code, reply.status, reply.body[:20]

    assert run(scenario()) == (504, False, "prediction_timeout", 200, b'{"predictions":[4.0]')


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("whole", [in_two(ONE)[0], ONE[:-1], chunked(rows(1))[:-2]])
def test_a_body_that_does_not_come_is_a_408_and_the_end(run, configured, name, whole):
    async def scenario():
        async with (
            serving(configured, name, server={"request_timeout_s": 0.2}) as way,
            await way.connect() as client,
        ):
            reply = await client.ask(whole)
            return reply.status, reply.last, await client.rest(), way.module.runs

    assert run(scenario()) == (408, True, b"", [])


async def until(true):
    while not true():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("leave", ["hang_up", "reset"])
@pytest.mark.parametrize("name", WAYS)
def test_a_client_that_leaves_while_it_waits_leaves_the_queue(run, configured, name, leave):
    async def scenario():
        async with serving(configured, name) as way:
            running, waiting = await way.connect(), await way.connect()
            await running.send(predict(rows(-9)))
            await until(lambda: way.module.runs)
            await waiting.send(ONE)
            await until(lambda: len(way.pipeline._open) == 2)
            getattr(waiting, leave)()
            await until(way.lines)
            way.module.gate.set()
            status = (await running.reply()).status
            running.hang_up()
            await until(lambda: not way.connections)
            return status, way.module.runs, way.lines(), len(way.pipeline._open)

    status, runs, lines, still_open = run(scenario())
    assert (status, runs, still_open) == (200, [[-9.0]], 0)
    assert [(line["http_status"], line.get("error_type")) for line in lines] == [
        (499, "ClientGone"),
        (200, None),
    ]


@pytest.mark.parametrize("leave", ["hang_up", "reset", "end"])
@pytest.mark.parametrize(
    "part", [in_two(ONE)[0], ONE[:-1], chunked(rows(1))[:-2], predict(rows(1), EXPECT)[:-9]]
)
@pytest.mark.parametrize("name", WAYS)
def test_a_client_that_leaves_within_its_body_is_a_499(run, configured, name, part, leave):
    async def scenario():
        async with serving(configured, name) as way, await way.connect() as client:
            await client.send(part)
            await until(lambda: way.pipeline._open)
            getattr(client, leave)()
            await until(lambda: not way.connections)
            await turns()
            return [line["http_status"] for line in way.lines()], way.module.runs, len(way.pipeline._open)

    assert run(scenario()) == ([499], [], 0)


@pytest.mark.parametrize("name", WAYS)
def test_a_client_that_sends_no_more_gets_its_answer(run, configured, name):
    async def scenario():
        async with serving(configured, name) as way, await way.connect() as client:
            await client.send(predict(rows(-9)) + ONE)
            await until(lambda: way.module.runs)
            client.end()
            interim = await client.reply()  # that it is still there is found out
            way.module.gate.set()
            return scrubbed(await client.rest()).count(b"HTTP/1.1 200 "), interim.status

    assert run(scenario()) == (2, 100)


@pytest.mark.parametrize("name", WAYS)
def test_while_draining_each_response_is_the_last_and_says_so(run, configured, name):
    async def scenario():
        async with serving(configured, name) as way:
            known, waiting, late = await way.connect(), await way.connect(), await way.connect()
            await known.ask(ONE)
            await waiting.send(predict(rows(-9)))
            await until(lambda: len(way.module.runs) == 2)
            way.listener.start_draining()
            way.module.gate.set()
            received = [await waiting.rest()]
            for client in (known, late):  # the head of the first is remembered
                await client.send(ONE + TWO)
                received.append(await client.rest())
            for client in (known, waiting, late):
                client.hang_up()
            return received

    for received in run(scenario()):
        assert statuses(received) == [200]
        assert b"\r\nconnection: close\r\n" in received


@pytest.mark.parametrize("name", WAYS)
def test_what_is_not_answered_in_time_is_cut_off_with_an_error(run, configured, name):
    async def scenario():
        async with (
            serving(configured, name) as way,
            await way.connect() as client,
            await way.connect() as half,
        ):
            await client.send(predict(rows(-9)))
            await half.send(in_two(ONE)[0])
            await until(lambda: way.module.runs and len(way.pipeline._open) == 2)
            answered = await way.listener.close(0.05, cut_off=way.app.cut_off)
            received = [scrubbed(await each.rest()) for each in (client, half)]
            return answered, received, [line["http_status"] for line in way.lines()], len(way.pipeline._open)

    answered, received, logged, still_open = run(scenario())
    if name == "listener":  # an application that waits for a body is told that the client has gone
        assert received.pop() == b""
    assert (answered, logged, still_open) == (False, [503, 503], 0)
    for each in received:
        assert statuses(each) == [503]
        assert b"connection: close" in each
        assert b"cut_off" in each


# Clients that ask without reading.


@pytest.mark.parametrize("name", WAYS)
def test_a_flood_of_requests_whose_answers_are_not_read_waits_outside(run, configured, name):
    count = 1200

    async def scenario():
        async with (
            serving(configured, name, send_buffer=4096) as way,
            await way.connect(receive_buffer=4096) as client,
        ):
            sending = asyncio.ensure_future(client.send(BIG * count))
            await until(lambda: way.connections and way.connections[0].flow.read_paused)
            await turns(200)
            (connection,) = way.connections
            held = len(connection._input) + connection.transport.get_write_buffer_size()
            begun, sent = len(way.seen), sending.done()
            replies = [await client.reply() for _ in range(count)]
            await sending
            sizes = {len(json.loads(reply.body)["predictions"]) for reply in replies}
            return held, begun, sent, {reply.status for reply in replies}, sizes

    held, begun, sent, answered, sizes = run(scenario())
    assert held < 65536 + 2 * 262144 + 2 * 65536
    assert begun < 100
    assert not sent
    assert (answered, sizes) == ({200}, {1000})


@pytest.mark.parametrize("name", WAYS)
def test_a_client_that_reads_nothing_is_cut(run, configured, name):
    async def scenario():
        limits = {"write_timeout_s": 0.05}
        async with (
            serving(configured, name, send_buffer=4096, limits=limits) as way,
            await way.connect(receive_buffer=4096) as client,
        ):
            sending = asyncio.ensure_future(client.send(BIG * 2000))
            with pytest.raises(ConnectionError):
                await sending
            await until(lambda: not way.connections)
            return len(way.pipeline._open)

    assert run(scenario()) == 0


@pytest.mark.parametrize("name", WAYS)
def test_responses_keep_the_order_of_the_requests_of_each_connection(run, configured, name):
    async def scenario():
        async with serving(
            configured, name, short=True, api={"batching": {"enabled": True, "max_rows": 4}}
        ) as way:
            clients = [await way.connect() for _ in range(20)]
            for number, client in enumerate(clients):
                await client.send(b"".join(predict(rows(number * 100 + each)) for each in range(20)))
            received = [
                [json.loads((await client.reply()).body)["predictions"] for _ in range(20)]
                for client in clients
            ]
            for client in clients:
                client.hang_up()
            return received

    expected = [[[number * 100 + each + 3.0] for each in range(20)] for number in range(20)]
    assert run(scenario()) == expected


def test_ids_are_those_that_were_sent_each_with_its_own_answer(run, configured):
    async def scenario():
        async with serving(configured, "fast") as way, await way.connect() as client:
            requests = [ONE.replace(ID, b"X-Request-ID: id-%d" % number) for number in (1, 2, 1, 3, 3)]
            replies = [await client.ask(request) for request in requests]
            return [
                (reply.headers["x-request-id"], json.loads(reply.body)["request_id"]) for reply in replies
            ]

    assert run(scenario()) == [(f"id-{number}",) * 2 for number in (1, 2, 1, 3, 3)]
