"""The request path: every call meets exactly one end, and no result reaches another caller."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref
from contextvars import ContextVar, copy_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserver.errors import Overloaded
from mlserver.serving.call import Call, Levels
from mlserver.serving.coalescer import Coalescer
from mlserver.serving.codec import Decoder, Encoder, InputSchema
from mlserver.serving.health import Health
from mlserver.serving.pipeline import Pipeline
from mlserver.serving.runner import Runner

RAISES, WRONG_LENGTH, EXITS, NONE = -1.0, -2.0, -3.0, -4.0
"""First values of rows that make the predictor misbehave."""


class Model:
    """Answers ten times the first value of each row; a loaded predictor as far as the runner knows it."""

    is_async = False

    def __init__(self):
        self.runs = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()

    def run(self, operation, rows):
        self.gate.wait()
        first = rows.values[:, 0]
        self.runs.append(len(first))
        if RAISES in first:
            raise ZeroDivisionError("poison")
        if EXITS in first:
            raise SystemExit(3)
        if NONE in first:
            return None
        answer = first * 10
        return answer[:-1] if WRONG_LENGTH in first else answer

    def warm_up(self):
        pass

    def close(self):
        self.closed += 1

    async def warm_up_async(self):
        pass

    async def close_async(self):
        self.close()


class AsyncModel(Model):
    is_async = True

    async def run_async(self, operation, rows):
        await asyncio.sleep(0)
        return self.run(operation, rows)


class Bench:
    """A pipeline around a model, with what came out of it."""

    def __init__(
        self, model, *, enabled=True, max_rows=16, max_queue=1000, timeout=60.0, concurrency=1, **settings
    ):
        self.model = model
        self.seen, self.batches, self.replies = [], [], {}
        self.levels = settings.pop("levels", None) or Levels()
        self.health = Health(model_loaded=True)
        self.runner = Runner(enter=settings.pop("enter", ()))
        self.queue = Coalescer(
            enabled=enabled, max_rows=max_rows, max_queue=max_queue, max_wait_s=settings.pop("wait", 0)
        )
        self.concurrency = concurrency
        self.pipeline = Pipeline(
            runner=self.runner,
            health=self.health,
            levels=self.levels,
            observers=[self.observe],
            timeout=timeout,
            max_buffered=settings.pop("max_buffered", 10**6),
            echo_ids=True,
        )

    def observe(self, calls, batches):
        assert not {call for call in calls if call in self.replies}, (
            "a reply left before the call was observed"
        )
        self.seen += calls
        self.batches += batches

    async def __aenter__(self):
        await self.runner.load(lambda: self.model)
        await self.runner.prepare(self.concurrency)
        schema = InputSchema(feature_names=None, n_features=None, dataframe=False, categorical=frozenset())
        self.pipeline.connect(
            Decoder(schema),
            Encoder("m", "1"),
            self.queue,
            operations={"predict"},
            concurrency=self.concurrency,
        )
        return self

    async def __aexit__(self, *_):
        self.model.gate.set()
        await self.runner.close(10.0)

    def send(self, firsts):
        loop = asyncio.get_running_loop()
        call = Call("POST", "/predict", time.perf_counter())
        call.request_id, call.operation = f"id-{id(call)}", "predict"
        done = loop.create_future()
        call.reply = lambda response: (self.replies.__setitem__(call, response), done.set_result(response))
        self.pipeline.begin(call)
        body = json.dumps({"ndarray": [[first, 0.0] for first in firsts]}).encode()
        self.pipeline.predict(call, body, b"application/json")
        return call, done


def predictions(response):
    return json.loads(response.body)["predictions"]


def run(scenario):
    return asyncio.run(scenario)


async def settled(bench):
    """Returns when no call is open."""
    while bench.levels.active[0]:
        await asyncio.sleep(0)


good = st.floats(0, 1e6, width=32)
rows = st.lists(good | st.sampled_from([RAISES, WRONG_LENGTH, EXITS, NONE]), min_size=1, max_size=5)
clean_rows = st.lists(good, min_size=1, max_size=5)
steps = st.lists(
    st.tuples(
        clean_rows | rows, st.sampled_from(["stay", "stay", "leave now", "leave later"]), st.integers(0, 3)
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(
    steps=steps,
    enabled=st.booleans(),
    concurrency=st.integers(1, 3),
    kind=st.sampled_from([Model, AsyncModel]),
)
def test_each_caller_gets_the_answer_to_its_own_rows(steps, enabled, concurrency, kind):
    async def scenario():
        concurrent = 1 if enabled else concurrency
        async with Bench(kind(), enabled=enabled, max_rows=8, concurrency=concurrent) as bench:
            calls = []
            for firsts, stays, turns in steps:
                call, _ = bench.send(firsts)
                calls.append((firsts, stays, call))
                if stays == "leave now":
                    bench.pipeline.abandon(call)
                for _ in range(turns):
                    await asyncio.sleep(0)
                if stays == "leave later":
                    bench.pipeline.abandon(call)
                assert bench.levels.active[0] >= sum(not call.finished for *_, call in calls)
            await settled(bench)
            await asyncio.sleep(0)
            return bench, calls

    bench, calls = run(scenario())
    assert bench.levels.active[0] == bench.levels.queued[0] == 0
    assert sorted(map(id, bench.seen)) == sorted(id(call) for *_, call in calls)
    for firsts, stays, call in calls:
        if call.status == 499:
            assert stays != "stay"
            assert bench.replies[call].status == 499
        elif any(first < 0 for first in firsts):
            assert call.status == 500
            assert bench.replies[call].status == 500
        else:
            assert predictions(bench.replies[call]) == [first * 10 for first in firsts]


def test_calls_that_wait_while_the_model_runs_share_the_next_run():
    async def scenario():
        async with Bench(Model()) as bench:
            bench.model.gate.clear()
            first = bench.send([1.0])
            while len(bench.queue):
                await asyncio.sleep(0)
            others = [bench.send([float(number)]) for number in range(2, 6)]
            bench.model.gate.set()
            answers = [predictions(await done) for _, done in (first, *others)]
            return bench, answers, [call for call, _ in others]

    bench, answers, others = run(scenario())
    assert answers == [[10.0], [20.0], [30.0], [40.0], [50.0]]
    assert bench.model.runs == [1, 4]
    assert len({call.batch.id for call in others}) == 1
    assert others[0].batch.id


def test_only_the_call_at_fault_fails_and_coalescing_rests_after_three_such_runs():
    async def scenario():
        async with Bench(Model(), max_rows=64) as bench:
            for _ in range(3):
                sent = [bench.send([float(number)]) for number in range(7)] + [bench.send([RAISES])]
                statuses = [(await done).status for _, done in sent]
                assert statuses == [200] * 7 + [500]
            assert bench.queue.resting
            before = len(bench.model.runs)
            for _, done in [bench.send([1.0]) for _ in range(4)]:
                await done
            return bench.model.runs[before:], bench.batches

    runs, batches = run(scenario())
    assert runs == [1, 1, 1, 1]
    failed = [batch for batch in batches if batch.error]
    assert {type(batch.error) for batch in failed} == {ZeroDivisionError}


@pytest.mark.parametrize(
    ("first", "error_type"),
    [
        (RAISES, "ZeroDivisionError"),
        (WRONG_LENGTH, "PredictorError"),
        (EXITS, "SystemExit"),
        (NONE, "PredictorError"),
    ],
)
@pytest.mark.parametrize("kind", [Model, AsyncModel])
def test_a_predictor_that_misbehaves_is_a_500_whose_reason_stays_inside(first, error_type, kind):
    async def scenario():
        async with Bench(kind()) as bench:
            call, done = bench.send([first])
            failed = await done
            _, again = bench.send([2.0])
            return call, failed, await again

    call, failed, again = run(scenario())
    assert (failed.status, call.error_type) == (500, error_type)
    assert b"poison" not in failed.body
    assert json.loads(failed.body)["code"] == "prediction_failed"
    assert predictions(again) == [20.0]


def test_an_answer_that_is_late_is_a_504_and_its_result_is_dropped():
    async def scenario():
        async with Bench(Model(), timeout=0.02) as bench:
            bench.model.gate.clear()
            running, running_done = bench.send([1.0])
            while len(bench.queue):
                await asyncio.sleep(0)
            waiting, waiting_done = bench.send([2.0])
            statuses = [(await running_done).status, (await waiting_done).status]
            bench.model.gate.set()
            return bench, statuses, [running, waiting]

    bench, statuses, calls = run(scenario())
    assert statuses == [504, 504]
    assert bench.seen == calls
    assert bench.model.runs == [1]


def test_a_full_queue_is_a_429_and_the_others_are_answered():
    async def scenario():
        async with Bench(Model(), max_queue=2, enabled=False) as bench:
            bench.model.gate.clear()
            first = bench.send([1.0])
            while len(bench.queue):
                await asyncio.sleep(0)
            sent = [first, *(bench.send([float(number)]) for number in range(3))]
            refused = await sent[-1][1]
            bench.model.gate.set()
            return [(await done).status for _, done in sent], dict(refused.headers)

    statuses, headers = run(scenario())
    assert statuses == [200, 200, 200, 429]
    assert headers[b"retry-after"] == b"1"


def test_bytes_beyond_the_limit_are_refused_until_others_are_finished():
    async def scenario():
        async with Bench(Model(), max_buffered=100) as bench:
            call = Call("POST", "/predict", 0.0)
            bench.pipeline.begin(call)
            bench.pipeline.reserve(call, 60)
            with pytest.raises(Overloaded, match=r"60 bytes are waiting, 41 more.*limit of 100"):
                bench.pipeline.reserve(call, 41)
            bench.pipeline.reserve(call, 40)
            bench.pipeline.abandon(call)
            other = Call("POST", "/predict", 0.0)
            bench.pipeline.begin(other)
            bench.pipeline.reserve(other, 100)
            bench.pipeline.abandon(other)

    run(scenario())


def test_an_abandoned_call_never_runs():
    async def scenario():
        async with Bench(Model(), enabled=False) as bench:
            bench.model.gate.clear()
            _, first = bench.send([1.0])
            while len(bench.queue):
                await asyncio.sleep(0)
            gone, _ = bench.send([2.0])
            bench.pipeline.abandon(gone)
            bench.pipeline.abandon(gone)
            bench.model.gate.set()
            await first
            await settled(bench)
            return bench, gone

    bench, gone = run(scenario())
    assert bench.model.runs == [1]
    assert bench.seen.count(gone) == 1
    assert gone.status == 499


def test_several_runs_go_on_at_once_up_to_the_concurrency():
    class Meeting(Model):
        """Each run waits until two are there: with one thread it would never end."""

        barrier = threading.Barrier(2, timeout=30)

        def run(self, operation, rows):
            self.barrier.wait()
            return super().run(operation, rows)

    async def scenario():
        async with Bench(Meeting(), enabled=False, concurrency=2) as bench:
            return [(await done).status for _, done in [bench.send([1.0]), bench.send([2.0])]]

    assert run(scenario()) == [200, 200]


def test_async_predictions_wait_together():
    class Meeting(AsyncModel):
        waiting = 0

        async def run_async(self, operation, rows):
            self.waiting += 1
            while self.waiting < 3:
                await asyncio.sleep(0)
            return self.run(operation, rows)

    async def scenario():
        async with Bench(Meeting(), enabled=False, concurrency=3) as bench:
            return [(await done).status for _, done in [bench.send([float(n)]) for n in range(3)]]

    assert run(scenario()) == [200, 200, 200]


def test_the_model_runs_off_the_event_loop_in_the_context_of_its_caller():
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen = []

    class Looking(Model):
        def run(self, operation, rows):
            seen.append((tenant.get(), threading.current_thread().name))
            return super().run(operation, rows)

    async def scenario():
        entered = []
        async with Bench(Looking(), enter=[lambda batch: entered.append(batch.calls[0].request_id)]) as bench:
            tenant.set("acme")
            call, done = bench.send([1.0])
            call.context = copy_context()
            await done
            return call.request_id, entered

    request_id, entered = run(scenario())
    assert seen == [("acme", "predictor-0")]
    assert entered == [request_id]


def test_a_free_thread_waits_for_company_only_when_told_to():
    async def scenario():
        async with Bench(Model(), wait=60.0, max_rows=3) as bench:
            first = [bench.send([1.0]), bench.send([2.0])]
            for _ in range(5):
                await asyncio.sleep(0)
            assert bench.model.runs == []
            answers = [await done for _, done in [*first, bench.send([3.0])]]
            return bench.model.runs, [predictions(answer) for answer in answers]

    assert run(scenario()) == ([3], [[10.0], [20.0], [30.0]])


def test_the_predictor_is_closed_once_in_its_own_thread():
    async def scenario():
        model = Model()
        async with Bench(model) as bench:
            await bench.send([1.0])[1]
        return model.closed

    assert run(scenario()) == 1


def test_a_run_that_does_not_end_does_not_hold_up_the_end_of_the_server():
    async def scenario():
        bench = Bench(Model())
        await bench.__aenter__()
        bench.model.gate.clear()
        bench.send([1.0])
        while len(bench.queue):
            await asyncio.sleep(0)
        ended = await bench.runner.close(0.01)
        bench.model.gate.set()
        return ended

    assert run(scenario()) is False


def test_what_the_server_cuts_off_is_its_own_doing_and_not_the_clients():
    async def scenario():
        async with Bench(Model()) as bench:
            bench.model.gate.clear()
            running, first = bench.send([1.0])
            while len(bench.queue):
                await asyncio.sleep(0)
            waiting, second = bench.send([2.0])
            bench.pipeline.cut_off()
            return [(await first).status, (await second).status], running.error_type, waiting.error_type

    assert run(scenario()) == ([503, 503], "CutOff", "CutOff")


@pytest.mark.parametrize("first", [1.0, RAISES])
def test_a_finished_call_is_gone_without_the_garbage_collector(first):
    async def scenario():
        async with Bench(Model()) as bench:
            call, done = bench.send([first])
            body = weakref.ref(call.rows.values)
            await done
            while bench.levels.active[0]:
                await asyncio.sleep(0)
            bench.seen.clear(), bench.batches.clear(), bench.replies.clear()
            gone = weakref.ref(call)
            del call, done
            await asyncio.sleep(0.01)  # the predictor's thread lets go of its job
            return body(), gone()

    gc.disable()
    try:
        assert run(scenario()) == (None, None)
    finally:
        gc.enable()


def test_arrivals_do_not_put_off_a_run_that_is_due():
    async def scenario():
        async with Bench(Model(), max_rows=1000) as bench:
            for number in range(50):
                bench.send([float(number)])
                await asyncio.sleep(0)
            before = len(bench.queue)
            await settled(bench)
            return before

    assert run(scenario()) < 50


# What is so right now.


class Told(list):
    """A level that remembers what it has been."""

    def __init__(self):
        super().__init__([0.0])
        self.been = []

    def __setitem__(self, index, value):
        super().__setitem__(index, value)
        self.been.append(value)


def told(model, **settings):
    """A bench whose levels remember."""
    bench = Bench(model, levels=Levels(active=Told(), queued=Told()), **settings)
    return bench, bench.levels.active, bench.levels.queued


async def idle():
    """Returns when the loop has done all that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


async def running(bench):
    """Sends a call, and returns when it runs at a closed gate."""
    bench.model.gate.clear()
    sent = bench.send([1.0])
    while len(bench.queue):
        await asyncio.sleep(0)
    return sent


@pytest.mark.parametrize("kind", [Model, AsyncModel])
def test_a_call_is_active_until_its_response_leaves_and_not_longer(kind):
    async def scenario():
        bench, active, _ = told(kind())
        left = []
        async with bench:
            for firsts in ([1.0], [2.0], [RAISES]):
                call, done = bench.send(firsts)
                reply = call.reply
                call.reply = lambda response, reply=reply: (left.append(active[0]), reply(response))
            before = active[0]
            await settled(bench)
            await done
        return before, left, active.been

    before, left, been = run(scenario())
    assert before == 3
    assert left == [0, 0, 0]
    assert been[:3] == [1, 2, 3]
    assert been[-1] == 0


def test_a_call_in_the_predictor_is_active_while_others_are_answered():
    async def scenario():
        bench, active, _ = told(Model(), max_queue=1, enabled=False)
        async with bench:
            _, first = await running(bench)
            assert active[0] == 1
            _, second = bench.send([2.0])
            _, refused = bench.send([3.0])
            assert active[0] == 3
            assert (await refused).status == 429
            assert active[0] == 2
            bench.model.gate.set()
            await first
            await second
            assert active[0] == 0

    run(scenario())


def test_an_abandoned_call_and_those_cut_off_are_active_no_longer():
    async def scenario():
        bench, active, queued = told(Model())
        async with bench:
            await running(bench)
            gone, answer = bench.send([2.0])
            bench.send([3.0])
            bench.pipeline.abandon(gone)
            await answer
            assert (active[0], queued[0]) == (2, 1)
            bench.pipeline.cut_off()
            await idle()
            assert (active[0], queued[0]) == (0, 0)

    run(scenario())


def test_calls_that_wait_for_a_busy_model_are_queued_until_they_run():
    async def scenario():
        bench, _, queued = told(Model(), enabled=False)
        async with bench:
            sent = [await running(bench)]
            assert queued[0] == 0
            for number in (1, 2, 3):
                sent.append(bench.send([float(number)]))
                await idle()
                assert queued[0] == len(bench.queue) == number
            bench.model.gate.set()
            for _, done in sent:
                await done
            return list(queued.been)

    assert run(scenario()) == [1, 2, 3, 2, 1, 0]


def test_a_run_takes_all_that_it_can_off_the_queue():
    async def scenario():
        bench, _, queued = told(Model(), max_rows=3)
        async with bench:
            sent = [await running(bench), *(bench.send([float(number)]) for number in range(4))]
            bench.model.gate.set()
            for _, done in sent:
                await done
            return list(queued.been)

    assert run(scenario()) == [1, 2, 3, 4, 1, 0]


def test_calls_that_need_not_wait_are_never_shown_as_queued():
    async def scenario():
        bench, _, queued = told(Model())
        async with bench:
            for number in range(5):
                sent = [bench.send([float(number)]) for _ in range(3)]
                for _, done in sent:
                    await done
                await settled(bench)
            return list(queued.been)

    assert run(scenario()) == []


def test_calls_that_a_free_thread_waits_for_company_with_are_queued():
    async def scenario():
        bench, _, queued = told(Model(), wait=60.0, max_rows=3)
        async with bench:
            sent = [bench.send([1.0]), bench.send([2.0])]
            await idle()
            before = queued[0]
            sent.append(bench.send([3.0]))
            for _, done in sent:
                await done
            return before, queued[0]

    assert run(scenario()) == (2, 0)


def test_a_call_that_is_refused_for_a_full_queue_was_not_in_it():
    async def scenario():
        bench, _, queued = told(Model(), max_queue=2, enabled=False)
        async with bench:
            await running(bench)
            sent = [bench.send([float(number)]) for number in range(3)]
            assert (await sent[-1][1]).status == 429
            return list(queued.been)

    assert run(scenario()) == [1, 2]
