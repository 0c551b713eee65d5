"""What a run is given to know of the requests it answers."""

from __future__ import annotations

import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.lines import bound_fields
from mlserver.observers.correlation import MAX_IDS_BYTES, QUOTED, Correlation
from mlserver.propagation import outgoing
from mlserver.serving.call import Batch, Call, Trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def a_call(id_="4c1f", *, trace=None, **headers):
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Call(
        "POST", "/predict", 0.0, request_id=id_, headers=dict(sent), scope={"headers": sent}, trace=trace
    )


def entered(*calls, id_=""):
    """The fields and headers of a run."""
    context = contextvars.Context()
    context.run(Correlation().enter, Batch(list(calls), "predict", len(calls), id=id_))
    return dict(context[bound_fields]), dict(context[outgoing])


def test_a_run_for_one_request_has_its_id():
    assert entered(a_call()) == ({"request_id": "4c1f"}, {"X-Request-ID": "4c1f"})


def test_a_shared_run_has_an_id_of_its_own_and_names_the_requests():
    shared = {"traceparent": TRACEPARENT, "baggage": "k=v"}
    fields, headers = entered(a_call("a", **shared), a_call("b", **shared), id_="run")
    assert fields == {"batch_id": "run", "request_ids": ["a", "b"]}
    assert headers == {"X-Request-ID": "run"}


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_run_for_one_request_passes_on_the_trace_context_of_its_caller(flags):
    context = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "a=1", "baggage": "k=v"}
    assert entered(a_call(**context))[1] == {"X-Request-ID": "4c1f", **context}


def test_what_is_no_trace_context_is_not_passed_on():
    headers = {"traceparent": "00-x", "tracestate": "a=1", "baggage": "k=v\r\nEvil: 1", "cookie": "secret"}
    assert entered(a_call(**headers))[1] == {"X-Request-ID": "4c1f"}


def test_headers_that_came_several_times_are_taken_from_the_scope():
    call = a_call(traceparent=TRACEPARENT, tracestate="b=2")
    call.scope["headers"].insert(0, (b"tracestate", b"a=1"))
    assert entered(call)[1]["tracestate"] == "a=1,b=2"


def test_the_trace_of_a_caller_is_in_the_lines_of_a_server_that_does_not_trace():
    assert entered(a_call(trace=Trace(TRACE, None, SPAN)))[0] == {"request_id": "4c1f", "trace_id": TRACE}
    assert entered(a_call(trace=Trace(TRACE, "1" * 16, SPAN)))[0] == {"request_id": "4c1f"}


@pytest.mark.parametrize("length", [1, 28, 36, 100, 127, 128])
def test_the_ids_of_a_shared_run_leave_room_in_the_line(length):
    for number in range(2, 600 // length + 100):
        check_ids([length] * number)


@given(st.lists(st.integers(1, 128), min_size=2, max_size=200))
def test_ids_of_any_length_leave_room_in_the_line(lengths):
    check_ids(lengths)


def check_ids(lengths):
    ids = [f"{number:03}".ljust(length, "x")[:128] for number, length in enumerate(lengths)]
    fields, _ = entered(*map(a_call, ids), id_="run")
    shown = fields["request_ids"]
    size = sum(len(id_.encode()) + QUOTED for id_ in shown)
    assert size <= MAX_IDS_BYTES
    if shown != ids:
        assert shown[:-1] == ids[: len(shown) - 1]
        assert shown[-1] == f"…({len(ids) - len(shown) + 1} more)"
        assert sum(len(id_) + QUOTED for id_ in ids) > MAX_IDS_BYTES
        assert size > MAX_IDS_BYTES - 128 - 2 * QUOTED - len("…(100 more)".encode())
