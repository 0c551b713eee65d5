"""What the line of a request costs a worker: time for each request, making it and writing it.

Run as ``python benchmarks/lines.py``. The observer is given a turn's answered predictions, in each of its
two formats. Beside it the same fields logged with ``structlog`` as JSON through ``logging`` to nowhere. The
last columns are what writing the lines adds, once a turn, to a file and to a pipe. Medians.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING

import structlog

from mlserver.lines import LineWriter, form_of
from mlserver.observers.logs import RequestLog
from mlserver.serving.call import Batch, Call, Response
from mlserver.serving.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TURNS = (1, 8, 32)
"""Calls that finish in one turn of the event loop, answered by one run."""
RUNS = 41
RUN_S = 0.01
PIPE_BYTES = 2**20


class Nowhere(LineWriter):
    """Makes lines cost what making them costs."""

    def __init__(self) -> None:
        self.longest = 1 << 20
        self.lines: list[bytes] = []

    def write(self, lines: Sequence[bytes]) -> None:
        self.lines = list(lines)


def median_us(work: Callable[[], object], calls: int) -> float:
    """The median over runs of the mean time of a call, where the work is for so many of them."""
    timer = Timer(work)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(timer.repeat(RUNS, number)) / number / calls * 1e6


def finished(calls: int) -> list[Call]:
    """A turn's calls."""
    batch = Batch([], "predict", calls, id=new_id() if calls > 1 else "")
    for number in range(calls):
        call = Call("POST", "/predict", 10.0, request_id=new_id(), operation="predict", batch=batch)
        call.input_shape, call.output_shape, call.response = (1, 4), (1,), Response(200, b"{}")
        call.finished = 10.0045 + number * 1e-6
        batch.calls.append(call)
    return batch.calls


def ours(calls: int, writer: LineWriter, *, ecs: bool = False) -> float:
    form = form_of(structured=True, ecs=ecs, longest=writer.longest, colours=False)
    log = RequestLog(
        writer, form, structured=True, ecs=ecs, model="iris", version="1.0.0", worker=0, level=logging.INFO
    )
    turn = finished(calls)
    return median_us(lambda: log(turn, ()), calls)


def theirs(calls: int) -> float:
    """The same fields through structlog and logging, as both recommend it."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(Path(os.devnull).open("w"))]  # noqa: SIM115  # to the end
    root.setLevel(logging.INFO)
    logger = structlog.get_logger("requests")
    turn = finished(calls)

    def update() -> None:
        for call in turn:
            logger.info(
                "Prediction completed",
                request_id=call.request_id,
                model="iris",
                version="1.0.0",
                duration_ms=round((call.finished - call.received) * 1000, 3),
                input_shape=call.input_shape,
                output_shape=call.output_shape,
                status="success",
                endpoint=call.endpoint,
                method=call.method,
                http_status=call.status,
                error_type=None,
                worker=0,
                batch_id=call.batch.id if call.batch else None,
            )

    return median_us(update, calls)


def lines_of(calls: int) -> list[bytes]:
    nowhere = Nowhere()
    ours(calls, nowhere)
    return nowhere.lines


def to_file(calls: int) -> float:
    """Writing a turn's lines, once they are made."""
    made = lines_of(calls)
    with tempfile.TemporaryDirectory() as folder:
        writer = LineWriter.to_file(Path(folder) / "server.log")
        us = median_us(lambda: writer.write(made), calls)
        writer.close()
    return us


def to_pipe(calls: int) -> float:
    """The same; the pipe is read between the measurements, so that it is never full."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    writer, made = LineWriter(write), lines_of(calls)
    turns = PIPE_BYTES // 2 // sum(map(len, made))
    times = []
    for _ in range(RUNS):
        times.append(Timer(lambda: writer.write(made)).timeit(turns) / turns)
        os.read(read, PIPE_BYTES)
    writer.close()
    os.close(read)
    return median(times) / calls * 1e6


def main() -> None:
    print("calls a turn   µs a request    ECS   structlog   ratio   + file   + pipe")
    for calls in TURNS:
        mine, schema, others = ours(calls, Nowhere()), ours(calls, Nowhere(), ecs=True), theirs(calls)
        file, pipe = to_file(calls), to_pipe(calls)
        print(
            f"{calls:12}   {mine:12.2f}   {schema:4.2f}   {others:9.1f}   {others / mine:5.1f}   "
            f"{file:6.2f}   {pipe:6.2f}"
        )


if __name__ == "__main__":
    main()
