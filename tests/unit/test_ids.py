"""Ids: what a client sent is kept where it is fit, and what is made differs and sorts by time."""

from __future__ import annotations

import time

import pytest

from mlserver.serving.ids import accept_id, new_id


def test_ids_made_in_a_row_differ_and_sort_by_time():
    before = time.time_ns() // 1000
    ids = [new_id() for _ in range(10_000)]
    after = time.time_ns() // 1000
    assert len(set(ids)) == len(ids)
    times = [int(made.split("-")[0], 16) for made in ids]
    assert [before, *times, after] == sorted([before, *times, after])


def test_ids_made_at_the_same_time_differ(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 1_700_000_000_000_000_000)
    assert len({new_id() for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "start_ms", [0x1_0000_0000 // 1000 - 9, 0x1000_0000_0000 // 1000 - 9, 1_700_000_000_000]
)
def test_ids_of_later_milliseconds_are_later_in_the_alphabet(monkeypatch, start_ms):
    ids = []
    for step in range(3000):
        monkeypatch.setattr("time.time_ns", lambda now=start_ms + step: now * 1_000_000)
        ids.append(new_id())
    assert ids == sorted(ids)


@pytest.mark.parametrize("value", [b"a", b"abc-123", b"A.Z_a:z-09", b"x" * 128])
def test_a_fit_id_is_kept(value):
    assert accept_id(value) == value.decode()


@pytest.mark.parametrize(
    "value", [None, b"", b"x" * 129, b"a b", b"a\n", b"\na", b'a"', b"a,b", b"a\\", b"caf\xc3\xa9", b"a\x00"]
)
def test_an_id_that_is_missing_or_unfit_is_replaced(value):
    made = accept_id(value)
    assert made.encode() != value
    assert accept_id(made.encode()) == made
