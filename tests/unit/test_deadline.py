"""A timer that is moved more often than it rings."""

from __future__ import annotations

import heapq

import pytest

from mlserver.server.deadline import Deadline


class Clock:
    """A loop's time and timers, moved by hand."""

    def __init__(self):
        self.now = 100.0
        self.timers = []
        self.armed = 0

    def time(self):
        return self.now

    def call_at(self, when, action):
        timer = Timer(when, action)
        heapq.heappush(self.timers, timer)
        self.armed += 1
        return timer

    def pass_time(self, seconds):
        end = self.now + seconds
        while self.timers and self.timers[0].when <= end:
            timer = heapq.heappop(self.timers)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.action()
        self.now = end


class Timer:
    def __init__(self, when, action):
        self.when, self.action, self.cancelled = when, action, False

    def __lt__(self, other):
        return self.when < other.when

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rung():
    return []


def test_it_happens_once_and_in_time(clock, rung):
    Deadline(clock).set(5.0, lambda: rung.append(clock.now))
    clock.pass_time(4.9)
    assert rung == []
    clock.pass_time(60.0)
    assert rung == [105.0]


def test_it_can_be_put_off_without_a_new_timer(clock, rung):
    deadline = Deadline(clock)
    for _ in range(50):
        deadline.set(5.0, lambda: rung.append(clock.now))
        clock.pass_time(0.01)
    assert clock.armed == 1
    clock.pass_time(60.0)
    assert rung == [pytest.approx(105.49)]


def test_it_can_be_brought_forward(clock, rung):
    deadline = Deadline(clock)
    deadline.set(75.0, lambda: rung.append("late"))
    deadline.set(1.0, lambda: rung.append(clock.now))
    clock.pass_time(200.0)
    assert rung == [101.0]


@pytest.mark.parametrize("way", ["clear", "close"])
def test_it_can_be_called_off(clock, rung, way):
    deadline = Deadline(clock)
    deadline.set(5.0, lambda: rung.append("rung"))
    getattr(deadline, way)()
    clock.pass_time(60.0)
    assert rung == []


def test_it_can_be_set_again_after_it_was_called_off(clock, rung):
    deadline = Deadline(clock)
    deadline.set(5.0, lambda: rung.append("first"))
    deadline.clear()
    clock.pass_time(60.0)
    deadline.set(5.0, lambda: rung.append("second"))
    clock.pass_time(60.0)
    assert rung == ["second"]


def test_what_happens_can_set_the_next_one(clock, rung):
    deadline = Deadline(clock)

    def action():
        rung.append(clock.now)
        deadline.set(2.0, action)

    deadline.set(2.0, action)
    clock.pass_time(7.0)
    assert rung == [102.0, 104.0, 106.0]


def test_a_clock_of_milliseconds_does_not_make_it_spin(clock, rung):
    deadline = Deadline(clock)
    deadline.set(5.0, lambda: rung.append("rung"))
    clock.timers[0].when -= 0.0005
    clock.pass_time(4.9996)
    assert rung == ["rung"]
