"""Where requests become calls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import BodyTooLarge, Overloaded
from mlserver.serving.call import Levels, Trace
from mlserver.serving.entry import Entry
from mlserver.serving.health import Health
from mlserver.serving.pipeline import Pipeline
from mlserver.serving.runner import Runner

MAX_BODY, MAX_BUFFERED = 100, 250


class Desk:
    """An entry to a pipeline whose model is not loaded, and what came out of it."""

    def __init__(self, *, ids=True, trace=lambda _: None):
        self.seen, self.replies = [], []
        self.levels = Levels()
        self.pipeline = Pipeline(
            runner=Runner(),
            health=Health(),
            levels=self.levels,
            observers=[lambda calls, _batches: self.seen.extend(calls)],
            timeout=60.0,
            max_buffered=MAX_BUFFERED,
            echo_ids=ids,
        )
        self.entry = Entry(self.pipeline, max_body=MAX_BODY, ids=ids, trace=trace)

    def open(self, headers=None, **options):
        return self.entry.open(
            "POST", "/predict", self.replies.append, headers or {}, {}, "predict", **options
        )

    @property
    def statuses(self):
        return [reply.status for reply in self.replies]


def within(scenario):
    """Runs what is to be done on an event loop, and what it leaves to the end of the turn."""

    async def run():
        result = scenario()
        await asyncio.sleep(0)
        return result

    return asyncio.run(run())


def test_a_call_has_what_the_request_said():
    desk = Desk()
    headers, scope = {b"a": b"b"}, {"path": "/predict"}

    def scenario():
        return desk.entry.open("POST", "/predict", desk.replies.append, headers, scope, "predict")

    call = within(scenario)
    assert (call.method, call.endpoint, call.operation) == ("POST", "/predict", "predict")
    assert call.headers is headers
    assert call.scope is scope
    assert call.received > 0
    assert not call.finished
    assert desk.levels.active[0] == 1


def test_an_id_is_taken_or_made_or_there_is_none():
    given_one = within(lambda: Desk().open({b"x-request-id": b"an-id"}))
    made, another = (within(lambda: Desk().open()) for _ in range(2))
    refused = within(lambda: Desk().open({b"x-request-id": b"two words"}))
    without = within(lambda: Desk(ids=False).open({b"x-request-id": b"an-id"}))
    assert given_one.request_id == "an-id"
    assert without.request_id is None
    assert len({made.request_id, another.request_id, refused.request_id, "two words", None}) == 5


def test_the_tracer_is_asked_unless_the_call_is_quiet():
    trace, asked = Trace("1" * 32), []

    def tracer(headers):
        asked.append(headers)
        return trace

    headers = {b"traceparent": b"x"}
    assert within(lambda: Desk(trace=tracer).open(headers)).trace is trace
    quiet = within(lambda: Desk(trace=tracer).open(headers, quiet=True))
    assert (quiet.trace, quiet.quiet) == (None, True)
    assert asked == [headers]


def test_a_length_up_to_the_limit_is_expected():
    entry = Desk().entry
    entry.expect(MAX_BODY)
    with pytest.raises(
        BodyTooLarge, match=r"has 101 bytes or more, the limit is 100 \(server.max_body_bytes\)"
    ):
        entry.expect(MAX_BODY + 1)


@given(st.lists(st.integers(0, 80), max_size=20))
def test_a_body_may_come_in_parts_up_to_the_limit(sizes):
    def scenario():
        desk = Desk()
        call, taken = desk.open(), 0
        for size in sizes:
            taken += size
            if taken > MAX_BODY:
                with pytest.raises(BodyTooLarge, match=f"has {taken} bytes"):
                    desk.entry.take(call, size)
                return
            desk.entry.take(call, size)
        assert call.reserved == taken

    within(scenario)


def test_bodies_of_all_calls_share_the_room_until_their_calls_end():
    desk = Desk()

    def scenario():
        first, second, third = (desk.open() for _ in range(3))
        for call in (first, second):
            desk.entry.take(call, MAX_BODY)
        with pytest.raises(Overloaded, match=r"server\.max_buffered_bytes"):
            desk.entry.take(third, MAX_BODY)
        desk.entry.abandon(first, whole=True)
        desk.entry.take(third, MAX_BODY)

    within(scenario)
    assert desk.levels.active[0] == 2


def test_a_whole_body_is_taken_and_answered_in_one_go():
    desk = Desk()
    within(lambda: desk.entry.take_whole(desk.open(), b"x" * MAX_BUFFERED, b"application/json"))
    within(lambda: desk.entry.take_whole(desk.open(), b"x" * (MAX_BUFFERED + 1), b"application/json"))
    within(lambda: desk.entry.predict(desk.open(), b"{}"))
    assert [reply.status for reply in desk.replies] == [503] * 3
    assert [call.error.code for call in desk.seen] == ["not_ready", "overloaded", "not_ready"]


@pytest.mark.parametrize(("whole", "detail"), [(True, "before it was answered"), (False, "within the body")])
def test_a_client_that_has_gone_ends_its_call_once(whole, detail):
    desk = Desk()

    def scenario():
        call = desk.open()
        desk.entry.abandon(call, whole=whole)
        desk.entry.abandon(call, whole=not whole)
        desk.entry.fail(call, BodyTooLarge("too late"))
        desk.entry.predict(call, b"too late")
        return call

    call = within(scenario)
    assert desk.seen == [call]
    assert call.status == 499
    assert detail in str(call.error)
    assert desk.levels.active[0] == 0
