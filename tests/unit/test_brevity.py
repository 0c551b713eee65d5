"""Which runs the event loop does itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.serving.brevity import SHORT_S, Brevity
from mlserver.serving.call import Batch

seconds = st.floats(0, 1)


def run(cpu_s, rows=1):
    return Batch([], "predict", rows, cpu_s=cpu_s)


def after(*runs, max_rows=64):
    brevity = Brevity(max_rows)
    for each in runs:
        brevity.note(each)
    return brevity


def test_nothing_is_short_before_a_run_was_measured():
    assert not Brevity(64).expects(1)


def test_after_one_short_run_the_next_is_expected_to_be_short():
    assert after(run(SHORT_S / 2)).expects(1)
    assert not after(run(SHORT_S)).expects(1)


def test_the_time_is_that_of_the_processor_not_the_time_that_passed():
    waited = run(SHORT_S / 2)
    waited.started, waited.ended = 1.0, 9.0
    assert after(waited).expects(1)


def test_one_long_run_is_enough_for_the_next_not_to_be_short():
    assert not after(*[run(0.0)] * 1000, run(SHORT_S)).expects(1)


@pytest.mark.parametrize(("long", "least", "most"), [(2 * SHORT_S, 30, 40), (10 * SHORT_S, 110, 120)])
def test_a_long_run_is_forgotten_after_about_a_hundred_short_ones(long, least, most):
    brevity, count = after(run(long)), 0
    while not brevity.expects(1):
        brevity.note(run(0.0))
        count += 1
    assert least <= count <= most


def test_more_rows_than_were_ever_measured_are_not_short():
    brevity = after(run(0.0), max_rows=8)
    assert brevity.expects(8)
    assert not brevity.expects(9)


def test_a_run_of_more_rows_says_nothing_of_those_of_few():
    assert after(run(0.0), run(5.0, rows=9), max_rows=8).expects(8)
    assert not after(run(0.0), run(5.0, rows=8), max_rows=8).expects(1)
    assert not after(run(0.0, rows=9), max_rows=8).expects(1)


@given(st.lists(seconds, min_size=1, max_size=50), st.integers(0, 64))
def test_a_short_run_is_expected_only_if_the_last_and_some_other_were(runs, rows):
    brevity = after(*map(run, runs))
    if brevity.expects(rows):
        assert runs[-1] < SHORT_S
    if max(runs) < SHORT_S:
        assert brevity.expects(rows)
    if min(runs) >= SHORT_S:
        assert not brevity.expects(rows)
