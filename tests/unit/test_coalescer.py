"""The queue: what shares a run, what waits, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.errors import QueueFull
from mlserver.serving.call import Call
from mlserver.serving.coalescer import FAULT_WINDOW_S, REST_S, Coalescer
from mlserver.serving.rows import Rows


def kind_of(call):
    rows = call.rows
    return call.operation, isinstance(rows.values, list), rows.shape[1:], rows.names


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_call(rows: int = 1, *, operation: str = "predict", width: int = 4) -> Call:
    return Call("POST", "/predict", 0.0, operation=operation, rows=Rows(np.zeros((rows, width))))


def a_queue(**settings) -> Coalescer:
    return Coalescer(**{"enabled": True, "max_rows": 8, "max_queue": 100, **settings})


def filled(queue: Coalescer, *calls: Call) -> list[Call]:
    for call in calls:
        queue.add(call)
    return list(calls)


def test_one_run_takes_everything_that_waits():
    queue = a_queue()
    calls = filled(queue, a_call(), a_call(2), a_call())
    assert queue.take() == calls
    assert len(queue) == 0


def test_calls_beyond_max_rows_wait_for_the_next_run():
    queue = a_queue(max_rows=4)
    calls = filled(queue, *[a_call() for _ in range(6)])
    assert [queue.take(), queue.take()] == [calls[:4], calls[4:]]


def test_a_call_larger_than_max_rows_runs_alone():
    queue = a_queue(max_rows=4)
    large, small = filled(queue, a_call(9), a_call())
    assert [queue.take(), queue.take()] == [[large], [small]]


def test_other_operations_and_widths_do_not_share_a_run_but_keep_their_place():
    queue = a_queue()
    first, proba, wide, second = filled(
        queue, a_call(), a_call(operation="predict_proba"), a_call(width=5), a_call()
    )
    assert [queue.take(), queue.take(), queue.take()] == [[first, second], [proba], [wide]]


def test_without_coalescing_each_call_runs_alone():
    queue = a_queue(enabled=False)
    calls = filled(queue, a_call(), a_call())
    assert [queue.take(), queue.take()] == [[call] for call in calls]


def test_a_removed_call_is_never_taken():
    queue = a_queue()
    first, second = filled(queue, a_call(), a_call())
    queue.remove(first)
    queue.remove(first)
    assert queue.take() == [second]


def test_a_full_queue_refuses_and_says_its_limit():
    queue = a_queue(max_queue=2)
    filled(queue, a_call(), a_call())
    with pytest.raises(QueueFull, match=r"2 requests are waiting.*api\.max_queue\) is 2"):
        queue.add(a_call())


def test_three_faults_in_a_minute_make_coalescing_rest_for_ten_seconds():
    clock = Clock()
    queue = a_queue(clock=clock)
    assert [queue.note_fault() for _ in range(3)] == [False, False, True]
    calls = filled(queue, a_call(), a_call(), a_call(), a_call())
    assert queue.take() == calls[:1]
    clock.now += REST_S - 0.001
    assert queue.take() == calls[1:2]
    clock.now += 0.001
    assert queue.take() == calls[2:]


def test_faults_that_are_far_apart_are_forgotten():
    clock = Clock()
    queue = a_queue(clock=clock)
    for _ in range(5):
        assert not queue.note_fault()
        clock.now += FAULT_WINDOW_S / 2 + 1


def test_waiting_is_worth_it_only_until_a_run_is_full():
    queue = a_queue(max_rows=2, max_wait_s=0.01)
    filled(queue, a_call())
    assert queue.wait_s == 0.01
    filled(queue, a_call())
    assert queue.wait_s == 0.0
    assert a_queue(enabled=False, max_wait_s=0.01).wait_s == 0.0


call_shapes = st.tuples(
    st.integers(1, 6), st.sampled_from(["predict", "predict_proba"]), st.sampled_from([3, 4])
)


@given(
    steps=st.lists(st.one_of(call_shapes, st.just("take"), st.integers(0, 20))),
    max_rows=st.integers(1, 10),
    enabled=st.booleans(),
)
def test_every_call_is_taken_once_in_order_and_never_mixed(steps, max_rows, enabled):
    """Steps: a call arrives, a thread takes a run, or the n-th call so far is removed."""
    queue = a_queue(max_rows=max_rows, enabled=enabled)
    calls, taken, removed = [], [], set()

    def take():
        run = queue.take()
        assert len({kind_of(call) for call in run}) == 1
        assert len(run) == 1 or (enabled and sum(len(call.rows) for call in run) <= max_rows)
        taken.append(run)

    for step in steps:
        if step == "take":
            if len(queue):
                take()
        elif isinstance(step, int):
            if step < len(calls) and not any(calls[step] in run for run in taken):
                queue.remove(calls[step])
                removed.add(calls[step])
        else:
            rows, operation, width = step
            calls.append(a_call(rows, operation=operation, width=width))
            queue.add(calls[-1])
    while len(queue):
        take()

    flat = [call for run in taken for call in run]
    assert sorted(map(calls.index, flat)) == [i for i, call in enumerate(calls) if call not in removed]
    for kind in {kind_of(call) for call in flat}:
        order = [calls.index(call) for call in flat if kind_of(call) == kind]
        assert order == sorted(order)
