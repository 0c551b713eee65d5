"""Which requests are traced."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlserver.observers.traces.sampling import decider
from mlserver.observers.traces.settings import Rate
from mlserver.propagation import read_traceparent

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
HEX = st.text("0123456789abcdef")
ALWAYS, NEVER = decider(Rate(1.0)), decider(Rate(0.0))


def near_headers():
    """Headers that are valid, or nearly so."""
    parts = st.tuples(
        st.sampled_from(["00", "01", "ff", "0", "cc"]),
        st.one_of(st.just("0" * 32), st.text("0123456789abcdefG0", min_size=31, max_size=33)),
        st.one_of(st.just("0" * 16), st.text("0123456789abcdef0", min_size=15, max_size=17)),
        st.sampled_from(["00", "01", "02", "03", "ff", "0", "0g", "1", "00-", "00-more"]),
    )
    return parts.map("-".join).map(str.encode)


def test_a_request_of_nobodys_trace_begins_one():
    trace = ALWAYS({})
    assert re.fullmatch("[0-9a-f]{32}", trace.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", trace.span_id)
    assert trace.parent_id is None
    many = [ALWAYS({}) for _ in range(1000)]
    for digits in range(0, 32, 8):
        assert len({trace.trace_id[digits : digits + 8] for trace in many}) > 900
    for digits in (0, 8):
        assert len({trace.span_id[digits : digits + 8] for trace in many}) > 900
    assert NEVER({}) is None


def test_the_caller_decides_for_its_own_trace():
    sampled, unsampled = {b"traceparent": PARENT + b"01"}, {b"traceparent": PARENT + b"00"}
    for decide in (ALWAYS, NEVER):
        trace = decide(sampled)
        assert (trace.trace_id, trace.parent_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
        assert trace.span_id not in (trace.parent_id, None)
        assert decide(unsampled) is None


@given(st.one_of(st.binary(max_size=80), near_headers()))
@example(b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-00")
@example(b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-00")
@example(b"00-00000000000000000000000000000010-00f067aa0ba902b7-00")
@example(PARENT + b"00")
@example(PARENT + b"fe")
@example(PARENT + b"00-more")
@example(b"ff" + PARENT[2:] + b"00")
@example(b"cc" + PARENT[2:] + b"01-what.the.future.brings")
def test_any_header_is_read_as_w3c_says(value):
    parent, headers = read_traceparent(value), {b"traceparent": value}
    always, never = ALWAYS(headers), NEVER(headers)
    if parent is None:
        assert always.parent_id is None
        assert never is None
    elif parent.sampled:
        assert (always.trace_id, always.parent_id) == (parent.trace_id, parent.span_id)
        assert (never.trace_id, never.parent_id) == (parent.trace_id, parent.span_id)
    else:
        assert always is None
        assert never is None


def test_a_share_of_the_traces_is_sampled_and_the_same_one_everywhere():
    some, more = decider(Rate(0.25)), decider(Rate(0.5))
    sampled = [trace for trace in (some({}) for _ in range(20_000)) if trace is not None]
    assert 4500 < len(sampled) < 5500
    again = decider(Rate(0.25, follows_caller=False))
    for trace in sampled[:100]:
        header = f"00-{trace.trace_id}-{trace.span_id}-00".encode()
        assert again({b"traceparent": header}).trace_id == trace.trace_id
    assert sum(more({}) is not None for _ in range(20_000)) > len(sampled)


@pytest.mark.parametrize("flags", [b"00", b"01"])
def test_a_sampler_that_is_not_of_the_caller_goes_by_its_own_ratio(flags):
    headers = {b"traceparent": PARENT + flags}
    assert decider(Rate(1.0, follows_caller=False))(headers).parent_id == "00f067aa0ba902b7"
    assert decider(Rate(0.0, follows_caller=False))(headers) is None
