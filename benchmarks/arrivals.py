"""A client whose requests arrive when they please, and not when the server has time for them.

A process of its own: ``python arrivals.py PORT RATE SECONDS SEED < BODY`` prints what it saw as JSON.
Arrivals are a Poisson process. A latency begins when its request was to be sent, also where it was sent later
because all connections were busy or the client itself was. How late the client was of its own is told, too.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECTIONS = 256
WARM_UP_S = 0.5
END_S = 10.0
"""How long it waits for the last answers."""


def times(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests arrive, in seconds from the start: the gaps between them are exponential."""
    gaps, at = random.Random(seed), 0.0
    while (at := at + gaps.expovariate(rate)) < seconds:
        yield at


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of some values that so large a share of them does not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Client:
    """Sends each request when its time has come, if a connection is free, else as soon as one is.

    Args:
        due: when to send, in seconds from the start.
        now: the clock, in seconds.
    """

    def __init__(self, request: bytes, due: Iterator[float], now: Any = time.perf_counter) -> None:
        self._request, self._due, self._now = request, due, now
        self._start = now()
        self._next = next(due, None)
        self._free: list[Connection] = []
        self._overdue: deque[float] = deque()
        self.open = 0
        self.errors = 0
        self.latencies: list[tuple[float, float]] = []
        """When each request was due, and how long its answer took from then on."""
        self.late: list[float] = []
        """How long after its time each request was looked at."""

    @property
    def done(self) -> bool:
        return self._next is None and not self.open and not self._overdue

    def release(self, connection: Connection) -> None:
        """A connection can take the next request."""
        if self._overdue:
            self._send(connection, self._overdue.popleft())
        else:
            self._free.append(connection)

    def send_what_is_due(self) -> None:
        now = self._now() - self._start
        while self._next is not None and self._next <= now:
            self.late.append(now - self._next)
            if self._free:
                self._send(self._free.pop(), self._next)
            else:
                self._overdue.append(self._next)
            self._next = next(self._due, None)

    def _send(self, connection: Connection, due: float) -> None:
        self.open += 1
        connection.due = due
        connection.transport.write(self._request)

    def answered(self, connection: Connection, *, well: bool) -> None:
        self.open -= 1
        self.errors += not well
        self.latencies.append((connection.due, self._now() - self._start - connection.due))
        self.release(connection)


class Connection(asyncio.Protocol):
    """One request at a time. Answers are short, and end with a brace."""

    def __init__(self) -> None:
        self.due = 0.0
        self.client: Client | None = None
        self._part = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        data = self._part + data if self._part else data
        if data[-1:] != b"}":
            self._part = data
            return
        self._part = b""
        if self.client is not None:
            self.client.answered(self, well=data[9:12] == b"200")

    def connection_lost(self, _: Exception | None) -> None:
        if self.client is not None:
            raise SystemExit("The server closed a connection.")


async def run(port: int, rate: float, seconds: float, seed: int, body: bytes) -> dict[str, float]:
    """Latencies in milliseconds; the first half second is not looked at."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, "127.0.0.1", port) for _ in range(CONNECTIONS)]
    connections = [connection for _, connection in made]
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    client = Client(head % len(body) + body, times(rate, WARM_UP_S + seconds, seed))
    for connection in connections:
        connection.client = client
        client.release(connection)
    ended = asyncio.Event()
    give_up = time.monotonic() + WARM_UP_S + seconds + END_S

    def turn() -> None:
        """Again and again, without a timer, whose milliseconds would be too coarse."""
        client.send_what_is_due()
        if client.done or time.monotonic() > give_up:
            ended.set()
        else:
            loop.call_soon(turn)

    turn()
    await ended.wait()
    for connection in connections:
        connection.client = None
        connection.transport.close()
    latencies = [latency for due, latency in client.latencies if due >= WARM_UP_S]
    return {
        "answered": len(latencies),
        "errors": client.errors + client.open,
        "p50_ms": quantile(latencies, 0.5) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
        "late_p99_ms": quantile(client.late, 0.99) * 1e3,
    }


if __name__ == "__main__":
    port, rate, seconds, seed = sys.argv[1:]
    sent = sys.stdin.buffer.read()
    print(json.dumps(uvloop.run(run(int(port), float(rate), float(seconds), int(seed), sent))))
