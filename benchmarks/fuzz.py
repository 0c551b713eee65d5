"""Requests that are nearly right, in pieces, to a listener with the fast way in and to one without it.

    .venv/bin/python benchmarks/fuzz.py --minutes 10 --seed 1

Each case is a stream of requests for predictions, mostly changed at a few places and cut into pieces.
Whatever is sent, no exception may get as far as the event loop, no request may be answered twice, out of
order or with a 500 that the model did not cause, and nothing may be left behind. What is sent slowly enough
must have the same responses either way. Streams that were not changed must have the answers
that they ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import logging
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import uvloop

from mlserver.app import create_app
from mlserver.config import make_config
from mlserver.server.limits import Limits
from mlserver.server.listener import Listener
from mlserver.serving.model import Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mlserver.app import App

PREDICTOR = """
class Sum:
    feature_names = ["a", "b", "c"]
    batchable = True

    def predict(self, X):
        if (X[:, 0] == -1).any():
            raise ValueError("as asked")
        return X.sum(axis=1)
"""
SERVER = {"max_body_bytes": 2000, "max_header_bytes": 1000, "max_buffered_bytes": 3000}
TURNS = 60
"""Of the event loop, in which all that was sent has been read and answered."""

TARGETS = [
    *[b"/predict"] * 24,
    b"/predict?a=b",
    b"/%70redict",
    b"/predict_proba",
    b"/healthz",
    b"/predict/",
    b"//",
]
METHODS = [b"POST"] * 40 + [b"GET", b"HEAD", b"PUT", b"OPTIONS"]
HEADERS = [
    b"Content-Type: application/json",
    b"Content-Type: text/csv",
    b"Content-Type: application/x-npy",
    b"Content-Type: application/vnd.apache.arrow.stream",
    b"Expect: 100-continue",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"X: " + b"x" * 500,
]
VALUES: list[Any] = [1, 2.5, -0.0, 1e308, -1, None, "a", True, [], {}, 10**30]
TOKENS = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\x00", b" ", b"\t", b":", b";", b",", b"0", b"1", b"-", b"+", b"f",
    b"[", b"]", b"{", b'"', b"\xff", b"NaN", b"1e999", b"0\r\n\r\n", b"\r\n ", b"chunked", b"HTTP/1.0",
    b"GET / ",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n",
    b"Transfer-Encoding: identity\r\n", b"POST /predict HTTP/1.1\r\nHost: a\r\n", b"Expect: 100-continue\r\n",
]  # fmt: skip
_VARYING = re.compile(
    rb'date: [^\r]+|"time_ms":[\d.]+|content-length: \d+|(x-request-id: |"request_id":")(?!r\d)[\w-]+'
)


class Always:
    """Takes every run for short."""

    def expects(self, _rows: int) -> bool:
        return True

    def note(self, _batch: object) -> None: ...


@dataclass
class Way:
    """One application behind one listener."""

    app: App
    listener: Listener
    address: tuple[str, int]

    @property
    def left(self) -> str:
        """What is left of requests when no connection is."""
        pipeline: Any = self.app._pipeline  # noqa: SLF001
        kept = {name: getattr(pipeline, name) for name in ("_open", "_buffered", "_active")}
        kept["_active"] = kept["_active"][0]
        return ", ".join(f"{name}: {value}" for name, value in kept.items() if value)

    @property
    def connections(self) -> int:
        return len(self.listener._connections())  # noqa: SLF001


@dataclass(frozen=True)
class Case:
    """What is sent."""

    pieces: list[bytes]
    pauses: list[int]
    """Turns of the loop behind each piece."""
    end: str
    """How the client leaves."""
    expected: list[list[float] | None] | None
    """Predictions for each request, if the stream was not changed.

    None: anything but 200. Of none: anything.
    """

    @property
    def slow(self) -> bool:
        return self.end == "half close" and min(self.pauses) >= TURNS


class Maker:
    """Makes cases of a random generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0

    def case(self) -> Case:
        chance = self._random
        asked: list[tuple[bytes, list[float] | None]] = []
        for _ in range(chance.randint(1, 6)):
            asked.append(_once_more(*asked[-1]) if asked and chance.random() < 0.4 else self._request())
        data = b"".join(request for request, _ in asked)
        expected: list[list[float] | None] | None = [answer for _, answer in asked]
        if chance.random() < 0.7:
            data, expected = self._changed(data), None
        bounds = [sum(len(request) for request, _ in asked[:at]) for at in range(len(asked))]
        cuts = [chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 1, 2, 5]))]
        edges = {0, len(data), *cuts}
        edges |= {bound for bound in bounds if bound < len(data)} if chance.random() < 0.5 else set()
        pieces = [data[start:end] for start, end in itertools.pairwise(sorted(edges))] or [b"\r\n"]
        slow = chance.random() < 0.6
        pauses = [TURNS * len(asked) if slow else chance.randint(0, 4) for _ in pieces]
        end = chance.choice(["half close"] * 6 + ["hang up", "reset"])
        return Case(pieces, pauses, end, expected)

    def _request(self) -> tuple[bytes, list[float] | None]:
        chance = self._random
        self._count += 1
        body, answer = self._body()
        method, target = chance.choice(METHODS), chance.choice(TARGETS)
        headers = chance.sample(HEADERS, chance.choice([0, 0, 1, 2])) if chance.random() < 0.5 else []
        version = b"1.0" if chance.random() < 0.03 else b"1.1"
        line = b"%b %b HTTP/%b" % (method, target, version)
        head = [line, b"Host: a", b"X-Request-ID: r%06d" % self._count, *headers]
        if chance.random() < 0.3 and version == b"1.1":
            head.append(b"Transfer-Encoding: chunked")
            sent = self._chunks(body)
        else:
            head.append(b"Content-Length: %d" % len(body))
            sent = body
        plain = (method, target, version) == (b"POST", b"/predict", b"1.1") and not headers
        return b"\r\n".join((*head, b"", sent)), answer if plain else []

    def _body(self) -> tuple[bytes, list[float] | None]:
        """A body, and what is to be predicted for it."""
        chance = self._random
        count = chance.choice([1] * 8 + [2, 2, 40, 200])
        table: list[list[Any]] = [[self._count % 7 + 1, 1, row] for row in range(count)]
        if chance.random() < 0.2:
            chance.choice(table)[chance.randrange(3)] = chance.choice(VALUES)
        if chance.random() < 0.05:
            table.append([1])
        body = json.dumps({"ndarray": table}).encode()
        if chance.random() < 0.2:
            return self._changed(body), []
        values = [value for row in table for value in row]
        if any(isinstance(value, bool | None) for value in values):
            return body, []
        numbers = all(isinstance(value, int | float) for value in values)
        if not numbers or any(len(row) != 3 or row[0] == -1 for row in table):
            return body, None
        return body, [float(sum(row)) for row in table]

    def _chunks(self, body: bytes) -> bytes:
        chance, chunks = self._random, []
        while body:
            size = min(len(body), chance.randint(1, 50))
            extension = chance.choice([b"", b"", b";a=b", b' ;c="d"'])
            chunks.append(b"%x%b\r\n%b\r\n" % (size, extension, body[:size]))
            body = body[size:]
        return b"".join(chunks) + b"0\r\n" + chance.choice([b"", b"", b"T: railer\r\n"]) + b"\r\n"

    def _changed(self, data: bytes) -> bytes:
        """Data that is different at a few places."""
        chance = self._random
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.choice([1, 1, 2, 10, 100]))
            match chance.randrange(5):
                case 0:
                    data = data[:at] + data[to:]
                case 1:
                    data = data[:to] + data[at:to] + data[to:]
                case 2:
                    data = data[:at] + chance.randbytes(1) + data[at + 1 :]
                case 3:
                    data = data[:at] + chance.choice(TOKENS) + data[at:]
                case _:  # at the end of a line, where headers are
                    found = data.find(b"\r\n", at) + 2
                    data = data[:found] + chance.choice(TOKENS) + data[found:] if found > 1 else data
        return data


def _once_more(request: bytes, answer: list[float] | None) -> tuple[bytes, list[float] | None]:
    """A request with the same head, and with another number in its body."""
    found = re.search(rb"\[\[(\d),", request)
    if found is None:
        return request, answer
    old = int(found[1])
    new = old % 9 + 1
    request = request[: found.start(1)] + b"%d" % new + request[found.end(1) :]
    return request, answer and [answer[0] + new - old, *answer[1:]]


@asynccontextmanager
async def served(folder: Path, name: str, *, fast: bool, short: bool) -> AsyncIterator[Way]:
    """One way in; ``short``: runs are done on the event loop."""
    module = f"fuzzed_{name}"
    (folder / f"{module}.py").write_text(PREDICTOR)
    data = {
        "predictor": {"module": module, "class_name": "Sum"},
        "server": SERVER,
        "observability": {"log_file": "/dev/null"},
    }
    app = create_app(make_config(data, folder))
    with mock.patch.object(Model, "brevity", return_value=Always() if short else None):
        await app.start()
    # A client that has gone is to be noticed, not waited for.
    limits = dataclasses.replace(Limits.of(app.config.server), linger_s=0.01, keep_alive_s=1.0)
    listener = Listener(app, limits=limits, sink=app, entry=app.entry if fast else None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await listener.accept(listening, "only")
        try:
            yield Way(app, listener, listening.getsockname())
        finally:
            await listener.close(0)
            await app.close()


async def talk(way: Way, case: Case) -> bytes:
    """All that comes back."""
    loop = asyncio.get_running_loop()
    received = b""
    with socket.socket() as client:
        client.setblocking(False)  # noqa: FBT003
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(client, way.address)
        try:
            for piece, pause in zip(case.pieces, case.pauses, strict=True):
                await loop.sock_sendall(client, piece)
                for _ in range(pause):
                    await asyncio.sleep(0)
            if case.end == "half close":
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed after an error, as it may be
        if case.end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while case.end == "half close" and (data := await _read(loop, client)):
            received += data
    while way.connections or way.left:  # noqa: ASYNC110  # none of these says when it changes
        await asyncio.sleep(0)
    return received


async def _read(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(client, 1 << 18)
    except OSError:
        return b""


def responses(received: bytes) -> list[tuple[int, bytes, bytes]]:
    """Status, id and body of each response.

    Raises:
        ValueError: it is no stream of complete responses.
    """
    found = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.1 (\d{3}) [ -~]+(?:\r\n[a-z-]+: [ -~]*)*\Z", head)
        if not match or not end:
            raise ValueError(f"no response: {received[:200]!r}")
        status = int(match[1])
        if status == 100:
            received = rest
            continue
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        to_head = rest[:5] == b"HTTP/" or not rest
        length = 0 if to_head else int(fields[b"content-length"])
        if len(rest) < length:
            raise ValueError(f"a response is cut: {received[:200]!r}")
        found.append((status, fields.get(b"x-request-id", b""), rest[:length]))
        received = rest[length:]
    return found


def faults(case: Case, received: bytes) -> str:
    """What is wrong with the responses to a case, whichever way it took."""
    try:
        found = responses(received)
    except ValueError as error:
        return str(error)
    stream = iter(re.findall(rb"r\d{6}", b"".join(case.pieces)))
    for status, identity, body in found:
        if re.fullmatch(rb"r\d{6}", identity) and identity not in stream:  # `in` uses up what is before it
            return f"{identity!r} is answered twice, or too late"
        if b'"internal_error"' in body:
            return f"{status}: {body!r}"
    wrong = (
        f"{status}, {body!r} in place of {expected}"
        for (status, _, body), expected in zip(found, case.expected or (), strict=False)
        if not _gives(status, body, expected)
    )
    return next(wrong, "")


def _gives(status: int, body: bytes, expected: list[float] | None) -> bool:
    """Whether a response is one that may be expected."""
    if expected is None:
        return status != 200
    if not expected or status in {413, 503}:  # nothing is known of it, or it has no room
        return True
    return status == 200 and json.loads(body).get("predictions") == expected


class Fuzz:
    """All cases, and what was found."""

    def __init__(self, seed: int) -> None:
        self._maker = Maker(seed)
        self.statuses: Counter[int] = Counter()
        self.cases = self.compared = 0
        self.found: list[str] = []
        self._caught: list[str] = []

    async def run(self, seconds: float, folder: Path) -> None:
        """Tries cases until the time is over."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._caught.append(repr(context)))
        async with AsyncExitStack() as stack:
            ways = [
                await stack.enter_async_context(served(folder, "normal", fast=False, short=True)),
                await stack.enter_async_context(served(folder, "fast", fast=True, short=True)),
                await stack.enter_async_context(served(folder, "threads", fast=True, short=False)),
            ]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                case = self._maker.case()
                try:
                    async with asyncio.timeout(30):
                        await self._try(case, ways)
                except TimeoutError:
                    self._note(case, f"it hangs: {[way.left for way in ways]}")
                    return

    async def _try(self, case: Case, ways: list[Way]) -> None:
        self.cases += 1
        answers = [await talk(way, case) for way in ways]
        for received in answers:
            if fault := faults(case, received):
                self._note(case, fault)
        if case.end == "half close":
            self.statuses.update(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answers[1]))
        if case.slow:
            self.compared += 1
            normal, fast = (_VARYING.sub(b"", each) for each in answers[:2])
            if normal != fast:
                self._note(case, f"the ways differ:\n  {normal!r}\n  {fast!r}")
        for caught in self._caught:
            self._note(case, f"the event loop had to catch {caught}")
        self._caught.clear()

    def _note(self, case: Case, fault: str) -> None:
        self.found.append(f"{fault}\n  {case}")
        print(f"FAULT after {self.cases} cases: {self.found[-1]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()
    fuzz = Fuzz(options.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(fuzz.run(options.minutes * 60, Path(folder)))
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(fuzz.statuses.items()))
    print(
        f"{fuzz.cases} cases, {fuzz.compared} of them compared, {len(fuzz.found)} faults; answers {statuses}"
    )
    return 1 if fuzz.found else 0


if __name__ == "__main__":
    sys.exit(main())
