"""What runs: how calls become runs of the predictor, on which threads, in whose context, and when."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserver.config import make_config
from mlserver.errors import InvalidInput, PredictorError
from mlserver.observers.metrics import Metrics
from mlserver.pages import Page
from mlserver.serving.call import Call
from mlserver.serving.coalescer import FAULTS, REST_S, Coalescer
from mlserver.serving.model import Model as Derived
from mlserver.serving.rows import Rows

from .test_pipeline import RAISES, AsyncModel, Bench, Model, predictions

both_kinds = pytest.mark.parametrize("kind", [Model, AsyncModel])
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 30))


def send_at(bench, received):
    """Queues a call whose headers came at this time."""
    done = asyncio.get_running_loop().create_future()
    call = Call("POST", "/predict", received, operation="predict", reply=done.set_result)
    bench.pipeline.begin(call)
    bench.pipeline.predict(call, b'{"ndarray": [[1, 2]]}', b"application/json")
    return call, done


async def held(bench, value=1.0):
    """Sends a call and returns when it runs, at a closed gate."""
    bench.model.gate.clear()
    sent = bench.send([value])
    while len(bench.queue):
        await asyncio.sleep(0)
    return sent


# What is handed to the predictor.


@both_kinds
@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_runs_are_handed_over_than_may_go_on_at_once(kind, concurrency):
    async def scenario():
        going, seen = 0, []
        async with Bench(kind(), enabled=False, concurrency=concurrency) as bench:
            start = bench.runner.run

            def counted(calls, done):
                nonlocal going
                going += 1
                seen.append(going)
                start(calls, lambda result: ended(result, done))

            def ended(result, done):
                nonlocal going
                going -= 1
                done(result)

            bench.runner.run = counted
            for _, done in [bench.send([float(number)]) for number in range(12)]:
                assert (await done).status == 200
        return seen

    seen = run(scenario())
    assert len(seen) == 12
    assert max(seen) == concurrency


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 4), min_size=4, max_size=12))
@both_kinds
def test_a_shared_run_gives_each_call_its_own_part_of_the_answer(kind, sizes):
    numbers = itertools.count(2)
    burst = [[float(next(numbers)) for _ in range(size)] for size in sizes]

    async def scenario():
        async with Bench(kind(), max_rows=64) as bench:
            _, first = await held(bench)
            sent = [bench.send(firsts) for firsts in burst]
            bench.model.gate.set()
            await first
            answers = [predictions(await done) for _, done in sent]
            return bench.model.runs, answers

    runs, answers = run(scenario())
    assert runs == [1, sum(sizes)]
    assert answers == [[first * 10 for first in firsts] for firsts in burst]


@both_kinds
def test_what_the_model_calls_invalid_is_a_422_for_its_own_caller_only(kind):
    class Picky(kind):
        def run(self, operation, rows):
            if 13.0 in rows.values[:, 0]:
                self.runs.append(len(rows))
                raise InvalidInput("13 is no value that the model takes")
            return super().run(operation, rows)

    async def scenario():
        async with Bench(Picky()) as bench:
            alone = await bench.send([13.0])[1]
            sent = [bench.send([number]) for number in (1.0, 2.0, 13.0, 4.0)]
            return [alone, *[await done for _, done in sent]], bench.model.runs

    answers, runs = run(scenario())
    assert [answer.status for answer in answers] == [422, 200, 200, 422, 200]
    assert b"13 is no value that the model takes" in answers[0].body
    assert runs == [1, 4, 2, 2, 1, 1]


@both_kinds
def test_every_run_of_the_model_is_observed_once_even_where_a_shared_run_was_taken_apart(kind):
    async def scenario():
        async with Bench(kind(), max_rows=64) as bench:
            sent = [bench.send([float(number)]) for number in range(7)] + [bench.send([RAISES])]
            for _, done in sent:
                await done
            return bench, [call for call, _ in sent]

    bench, calls = run(scenario())
    assert bench.model.runs == [8, 4, 4, 2, 2, 1, 1]
    assert [batch.rows for batch in bench.batches] == bench.model.runs
    assert [bool(batch.error) for batch in bench.batches] == [True, False, True, False, True, False, True]
    assert {call.batch for call in calls} <= set(bench.batches)


# When.


@both_kinds
def test_the_duration_of_a_run_is_what_the_model_took(kind):
    class Measured(kind):
        took = 0.0

        def run(self, operation, rows):
            start = time.perf_counter()
            answer = super().run(operation, rows)
            self.took += time.perf_counter() - start
            return answer

    async def scenario():
        before = time.perf_counter()
        async with Bench(Measured()) as bench:
            for number in range(3):
                _, done = await held(bench, float(number))
                bench.model.gate.set()
                await done
            return bench, time.perf_counter() - before

    bench, around = run(scenario())
    page = Page.private()
    Metrics(page, make_config({"predictor": {"module": "m", "class_name": "Model"}}, Path()))(
        [], bench.batches
    )
    total = sum(values[-1] for key, values in page.read() if key.name in ("runs_alone", "runs_shared"))
    assert bench.model.took <= total <= around


@both_kinds
def test_the_times_of_a_call_follow_each_other(kind):
    async def scenario():
        before = time.perf_counter()
        async with Bench(kind()) as bench:
            sent = [bench.send([float(number)]) for number in range(4)]
            for _, done in sent:
                await done
            return before, [call for call, _ in sent], time.perf_counter()

    before, calls, after = run(scenario())
    for call in calls:
        times = [before, call.received, call.decoded, call.started, call.predicted, call.finished, after]
        assert times == sorted(times)


def test_each_call_is_late_at_its_own_time():
    async def scenario():
        async with Bench(Model(), timeout=0.3) as bench:
            await held(bench)
            now = time.perf_counter()
            sent = [send_at(bench, now - 0.3), send_at(bench, now - 0.2), send_at(bench, now + 0.2)]
            together = [(await done).status for _, done in sent]
            later = (await send_at(bench, time.perf_counter())[1]).status
            bench.model.gate.set()
            return [*together, later], [call for call, _ in sent]

    statuses, calls = run(scenario())
    assert statuses == [504] * 4
    assert all(call.finished - call.received >= 0.3 for call in calls)


# Where: threads and contexts.


@pytest.mark.parametrize(
    ("kind", "concurrency", "threads"), [(Model, 1, 1), (Model, 3, 3), (AsyncModel, 3, 1)]
)
def test_a_predictor_has_as_many_threads_as_it_may_run_at_once_or_one_with_an_event_loop(
    kind, concurrency, threads
):
    async def scenario():
        before = set(threading.enumerate())
        async with Bench(kind(), enabled=False, concurrency=concurrency):
            return set(threading.enumerate()) - before

    own = run(scenario())
    assert sorted(thread.name for thread in own) == [f"predictor-{number}" for number in range(threads)]
    assert not any(thread.is_alive() for thread in own)


def looking(kind, seen):
    """A model that notes and then sets a context variable, within the coroutine where it is one."""

    class Looking(kind):
        def run(self, operation, rows):
            seen.append(tenant.get())
            tenant.set("the predictor")
            return super().run(operation, rows)

    return Looking()


def sent_by(bench, name, value):
    """Sends as a caller with a context of its own."""
    context = Context()
    context.run(tenant.set, name)

    def send():
        call, done = bench.send([value])
        call.context = copy_context()
        return call, done

    return context.run(send)


@both_kinds
def test_a_shared_run_sees_nothing_of_any_callers_context(kind):
    async def scenario():
        seen = []
        async with Bench(looking(kind, seen)) as bench:
            sent = [sent_by(bench, name, 1.0) for name in ("acme", "bolts")]
            for _, done in sent:
                await done
            return seen, bench.model.runs

    assert run(scenario()) == (["nobody"], [2])


@both_kinds
def test_a_run_alone_sees_its_own_callers_context_and_changes_nobodys(kind):
    async def scenario():
        seen = []
        async with Bench(looking(kind, seen), enabled=False) as bench:
            calls = [sent_by(bench, name, 1.0) for name in ("acme", "bolts")]
            for _, done in calls:
                await done
            call, done = bench.send([1.0])
            call.context = Context()
            await done
            return seen, [call.context.get(tenant) for call, _ in calls], tenant.get()

    assert run(scenario()) == (["acme", "bolts", "nobody"], ["acme", "bolts"], "nobody")


@both_kinds
def test_nothing_that_the_predictor_sets_stays_for_the_next_run(kind):
    async def scenario():
        seen = []
        async with Bench(looking(kind, seen)) as bench:
            for _ in range(2):
                sent = [bench.send([1.0]), bench.send([2.0])]
                for _, done in sent:
                    await done
            return seen

    assert run(scenario()) == ["nobody"] * 2


@both_kinds
def test_a_question_that_exits_is_an_error_and_the_thread_goes_on(kind):
    class Exiting(kind):
        def check_health(self):
            raise SystemExit(3)

        async def check_health_async(self):
            self.check_health()

    async def scenario():
        async with Bench(Exiting()) as bench:
            with pytest.raises(PredictorError, match="SystemExit"):
                await bench.runner.check_health()
            return (await bench.send([1.0])[1]).status

    assert run(scenario()) == 200


# The queue.


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def a_queue(**given):
    return Coalescer(**{"enabled": True, "max_rows": 4, "max_queue": 100, **given})


def added(queue, *sizes, names=None):
    calls = [
        Call("POST", "/predict", 0.0, operation="predict", rows=Rows(np.zeros((n, 2)), names)) for n in sizes
    ]
    for call in calls:
        queue.add(call)
    return calls


def test_a_call_that_does_not_fit_is_not_overtaken_by_a_smaller_one():
    queue = a_queue(max_rows=4)
    first, large, small = added(queue, 2, 3, 1)
    assert [queue.take(), queue.take()] == [[first], [large, small]]


def test_rows_of_other_columns_do_not_share_a_run():
    queue = a_queue()
    calls = [*added(queue, 1, names=("a", "b")), *added(queue, 1, names=("b", "a")), *added(queue, 1)]
    assert [queue.take() for _ in calls] == [[call] for call in calls]


def test_after_a_rest_as_many_new_faults_are_needed_for_the_next():
    clock = Clock()
    queue = a_queue(clock=clock)
    for _ in range(2):
        assert [queue.note_fault() for _ in range(FAULTS)] == [False] * (FAULTS - 1) + [True]
        clock.now += REST_S
        assert not queue.resting


def test_nothing_waits_for_company_while_coalescing_rests():
    clock = Clock()
    queue = a_queue(clock=clock, max_wait_s=0.5)
    added(queue, 1)
    assert queue.wait_s == 0.5
    for _ in range(FAULTS):
        queue.note_fault()
    assert queue.wait_s == 0.0
    clock.now += REST_S
    assert queue.wait_s == 0.5


def test_the_settings_of_batching_reach_the_queue(tmp_path):
    batching = {"enabled": True, "max_rows": 3, "max_wait_ms": 250}
    api = {"batching": batching, "max_queue": 2}
    config = make_config({"predictor": {"module": "m", "class_name": "C"}, "api": api}, tmp_path)
    predictor = SimpleNamespace(
        feature_names=None, n_features=None, dataframe=False, batchable=False, computes=False, categorical=frozenset(),
        operations=frozenset({"predict"}), library="m.C",
    )  # fmt: skip
    queue = Derived.of(predictor, config).queue(config.api)
    calls = added(queue, 2)
    assert queue.wait_s == 0.25
    calls += added(queue, 2)
    assert queue.full
    assert queue.take() == calls[:1]
