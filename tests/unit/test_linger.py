"""How long a thread is kept free for callers to come back."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.serving.linger import FIRST_REST, LAST_REST, LEAST_S, MAX_S, SHARE, Linger

RUN_S = 0.02
"""For any number of calls: what makes two groups of them so bad."""


class Server:
    """One thread whose time is simulated: what the dispatcher does with a `Linger`, and callers around it."""

    def __init__(self, linger):
        self._linger = linger
        self._events = []
        self._order = itertools.count()
        self._waiting = 0
        self._running = 0
        self._lingering = None
        self._lingers = itertools.count()
        self._now = 0.0
        self.runs = []
        """Calls of each run."""
        self.lingered_s = 0.0

    def at(self, seconds, action, *args):
        heapq.heappush(self._events, (self._now + seconds, next(self._order), action, args))

    def go_on(self, until_s):
        while self._events and self._events[0][0] <= until_s:
            self._now, _, action, args = heapq.heappop(self._events)
            action(*args)

    def come(self):
        self._waiting += 1
        if self._running:
            return
        if self._lingering is None:
            self.at(0, self._dispatch)
        elif self._linger.enough(self._waiting):
            self._end_linger(self._lingering)

    def _dispatch(self):
        if self._running or not self._waiting or self._lingering is not None:
            return
        self._running, self._waiting = min(64, self._waiting), max(0, self._waiting - 64)
        self.runs.append(self._running)
        self.at(RUN_S, self._ended)

    def _ended(self):
        answered, self._running = self._running, 0
        seconds = self._linger.after(RUN_S, answered, self._waiting) if self._linger else 0.0
        if seconds:
            self._lingering, self._since = next(self._lingers), self._now
            self.at(seconds, self._end_linger, self._lingering)
        else:
            self._dispatch()
        for _ in range(answered):
            self.answered()

    def _end_linger(self, which):
        if which != self._lingering:
            return
        self._lingering = None
        self.lingered_s += self._now - self._since
        self._linger.over(self._waiting)
        self._dispatch()

    def answered(self):
        """A caller has its answer."""


class Closed(Server):
    """Callers who send the next request when they have the answer to the last, a little later."""

    def answered(self):
        self.at(0.0005, self.come)


def closed(linger, groups):
    server = Closed(linger)
    for at, callers in groups:
        for _ in range(callers):
            server.at(at, server.come)
    server.go_on(4.0)
    return server


def test_two_groups_of_callers_become_one():
    groups = [(0.0, 16), (0.010, 16)]
    assert closed(None, groups).runs[-10:] == [16] * 10  # what it is for
    merged = closed(Linger(64), groups)
    assert merged.runs[-10:] == [32] * 10
    assert sum(merged.runs) > 1.5 * sum(closed(None, groups).runs)


@given(st.lists(st.tuples(st.floats(0, 0.02), st.integers(1, 10)), min_size=2, max_size=6))
def test_callers_in_any_groups_come_together(groups):
    total = sum(callers for _, callers in groups)
    assert closed(Linger(64), groups).runs[-5:] == [total] * 5


def opened(linger, rate):
    """Callers who come by themselves and never again."""
    server, chance = Server(linger), random.Random(3)
    at = 0.0
    while at < 8.0:
        at += chance.expovariate(rate)
        server.at(at, server.come)
    server.go_on(9.0)
    return server


@pytest.mark.parametrize("rate", [120, 400, 1500])
def test_where_callers_do_not_come_back_it_gives_up(rate):
    server = opened(Linger(64), rate)
    assert server.lingered_s < 0.04 * 8.0
    assert len(server.runs) > 100


def test_a_lone_caller_is_never_waited_for():
    assert closed(Linger(64), [(0.0, 1)]).lingered_s == 0


# One decision.


def test_it_lasts_a_quarter_of_the_run_within_bounds():
    assert Linger(64).after(0.04, 2, 2) == 0.01
    assert Linger(64).after(10.0, 2, 2) == 0.05
    assert Linger(64).after(0.0036, 2, 2) == 0.001
    assert Linger(64).after(0.0021, 2, 2) == 0.001
    assert Linger(64).after(0.0019, 2, 2) == 0.0


@pytest.mark.parametrize(
    ("answered", "waiting", "lingers"),
    [
        (1, 0, False),
        (1, 1, True),
        (2, 0, True),
        (0, 5, False),
        (5, 64, False),
        (5, 63, True),
        (64, 70, False),
    ],
)
def test_only_a_run_that_could_grow_is_waited_for(answered, waiting, lingers):
    assert bool(Linger(64).after(0.04, answered, waiting)) is lingers


@pytest.mark.parametrize(("answered", "waiting", "enough"), [(3, 2, 5), (64, 60, 64), (1, 1, 2)])
def test_it_ends_when_all_are_back_who_may_share_the_next_run(answered, waiting, enough):
    linger = Linger(64)
    linger.after(0.04, answered, waiting)
    assert not linger.enough(enough - 1)
    assert linger.enough(enough)


def rests(linger, came):
    """Runs until it lingers again, after it did and so many of four came back."""
    assert linger.after(0.04, 4, 2)
    linger.over(2 + came)
    count = 0
    while not linger.after(0.04, 4, 2):
        count += 1
    linger.over(2 + 4)
    return count


def test_half_of_the_callers_are_worth_it():
    assert rests(Linger(64), 1) == FIRST_REST
    assert rests(Linger(64), 2) == 0


def test_each_time_in_vain_doubles_the_rest_and_one_success_ends_that():
    linger, found = Linger(64), []
    for _ in range(6):
        assert linger.after(0.04, 4, 2)
        linger.over(2)
        found.append(0)
        while not linger.after(0.04, 4, 2):
            found[-1] += 1
        linger._rest = 0
    assert found == [8, 16, 32, 64, 64, 64]
    assert found[-1] == LAST_REST
    linger.over(6)
    assert rests(linger, 0) == FIRST_REST


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)),
        max_size=200,
    )
)
def test_whatever_comes_it_lasts_at_most_its_share_and_rests_at_most_so_long(runs):
    linger, since = Linger(64), 0
    for spent, answered, waiting, came in runs:
        seconds = linger.after(spent, answered, waiting)
        assert seconds == 0 or LEAST_S <= seconds <= max(LEAST_S, min(MAX_S, spent * SHARE))
        if seconds:
            linger.over(waiting + came)
            since = 0
        elif spent >= 2 * LEAST_S / SHARE and 2 <= answered <= 64 - waiting:
            since += 1
        assert since <= LAST_REST
