"""What ids and the caller's trace context cost a request, in microseconds.

    python benchmarks/ids.py

Medians of many short runs, less the empty call; compare only within one table.
"""

from __future__ import annotations

import uuid
from contextvars import copy_context
from functools import partial
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING

from mlserver.observers.correlation import Correlation
from mlserver.serving import ids
from mlserver.serving.call import Batch, Call

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 41
RUN_S = 0.01
SPAN = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BARE = {b"host": b"localhost", b"content-type": b"application/json"}
TRACED = {**BARE, b"traceparent": SPAN, b"tracestate": b"a=1"}
SHARED = 8


def median_us(function: Callable[[], object]) -> float:
    """The median over runs of the mean time of a call within a run."""
    timer = Timer(function)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(timer.repeat(RUNS, number)) / number * 1e6


def a_run(headers: dict[bytes, bytes], calls: int) -> Callable[[], object]:
    """Entering a run that answers so many requests."""
    batch = Batch([], "predict", calls, id=ids.new_id() if calls > 1 else "")
    for _ in range(calls):
        call = Call("POST", "/predict", 0.0, request_id=ids.new_id(), headers=headers)
        batch.calls.append(call)
    return partial(copy_context().run, Correlation().enter, batch)


def first_of_its_millisecond() -> None:
    ids._renew()  # noqa: SLF001
    ids.new_id()


def main() -> None:
    cases: dict[str, Callable[[], object]] = {
        "a new id": ids.new_id,
        "the same, the first of its millisecond": first_of_its_millisecond,
        "uuid4, as text": lambda: str(uuid.uuid4()),
        "the id of a request without one": partial(ids.accept_id, None),
        "the id of a request with one": partial(ids.accept_id, b"0660f5d88abde9-cbe03ee477-5e"),
        "the caller's trace, where there is none": partial(ids.caller_trace, BARE),
        "the caller's trace": partial(ids.caller_trace, TRACED),
        "entering a run": a_run(BARE, 1),
        "entering a run, with the caller's trace context": a_run(TRACED, 1),
        f"entering a run that {SHARED} requests share": a_run(BARE, SHARED),
    }
    empty = median_us(lambda: None)
    for name, function in cases.items():
        print(f"{name:50}{median_us(function) - empty:8.3f}")


if __name__ == "__main__":
    main()
